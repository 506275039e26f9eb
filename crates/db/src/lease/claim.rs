//! Leases rows: of a lane, of lately registered objects, or by their keys.

pub(crate) mod statements;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use copyhold_core::domain::{
    Content, ContentHash, FailureClass, Fence, Generation, Lease, MetadataHash, ObjectKey, PriorFailure,
    RegistrationOrder, ReplicaName, ReplicaState, SourceReading, micros,
};
use futures::FutureExt as _;
use rand::RngExt as _;
use sqlx::{
    Encode, Postgres, Row as _, SqlStr, Type,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use crate::{
    daemon::registration::Daemon,
    error::{DatabaseError, read, with_timeout},
    handle::Database,
    split_batch::{FailureBudget, SplitResult, run_split},
};

const NAME: &str = "lease::claim";
/// Pages of a lane that are read behind a refused row, at most.
const PAGES_APART: usize = 4;

type Sent = Query<'static, Postgres, PgArguments>;

/// A position in a lane: due time and order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LanePosition {
    /// µs since the epoch.
    pub due: i64,
    pub id: i64,
}

impl LanePosition {
    /// Before every row.
    pub const BEGINNING: Self = Self { due: i64::MIN, id: i64::MIN };
}

/// The result of a claim.
#[derive(Debug)]
pub struct Claimed {
    pub leases: Vec<Lease>,
    /// The farthest position in the lane that was claimed; `None`: none was.
    pub last_position: Option<LanePosition>,
}

/// A claim that failed.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct ClaimError {
    pub cause: DatabaseError,
    /// Rows may still be leased under this fence, without a holder: see [`Database::unclaim`].
    pub unanswered: Option<Fence>,
}

impl ClaimError {
    fn of(fence: Fence) -> impl FnOnce(DatabaseError) -> Self {
        move |cause| Self { unanswered: cause.outcome_unknown().then_some(fence), cause }
    }
}

/// For callers that leave such rows to the sweeper.
impl From<ClaimError> for DatabaseError {
    fn from(error: ClaimError) -> Self {
        error.cause
    }
}

/// Objects registered within this time are claimed first, the latest first.
pub(crate) const FRESH: Duration = Duration::from_mins(10);

impl Database {
    /// How long until the next waiting copy of these lanes is due; `None`: none waits.
    pub async fn next_due(&self, lanes: &[ReplicaName]) -> Result<Option<Duration>, DatabaseError> {
        let statement = self.statements.next_due.clone();
        let waits: Vec<(String, Option<i64>)> =
            with_timeout("lease::next_due", sqlx::query_as(statement).fetch_all(&self.pool)).await?;
        let asked = waits.into_iter().filter(|(name, _)| lanes.iter().any(|lane| lane.as_str() == name));
        Ok(asked.filter_map(|(_, wait)| wait).min().map(|wait| Duration::from_micros(wait.unsigned_abs())))
    }

    /// Leases up to `limit` due rows that lack their copy at `lane`, oldest due first, from a position in the lane on,
    /// for the daemon's lease time.
    pub async fn claim(
        &self,
        daemon: &Daemon,
        lane: &ReplicaName,
        limit: usize,
        from: LanePosition,
    ) -> Result<Claimed, ClaimError> {
        let statement = &self.statements.claims[self.lane(lane)?];
        match self.take(daemon, rows(limit), statement, |query| query.bind(from.due).bind(from.id)).await {
            Err(error) if error.cause.may_concern_one_row() => {
                Box::pin(self.claim_apart(daemon, lane, limit, from, error)).await
            }
            answer => answer,
        }
    }

    /// Claims by key, in the order of the lane, after PostgreSQL refused one of the rows with `error`.
    async fn claim_apart(
        &self,
        daemon: &Daemon,
        lane: &ReplicaName,
        limit: usize,
        mut from: LanePosition,
        error: ClaimError,
    ) -> Result<Claimed, ClaimError> {
        let mut claimed = Claimed { leases: Vec::new(), last_position: None };
        let mut patience = FailureBudget::default();
        for _ in 0..PAGES_APART {
            let peeked = self.peek_page(lane, from).await;
            let page = peeked.map_err(|cause| ClaimError { cause, unanswered: None })?;
            let mut rest = page.as_slice();
            while !rest.is_empty() && claimed.leases.len() < limit && !patience.is_over() {
                let (some, more) = rest.split_at(rest.len().min(limit - claimed.leases.len()));
                let keys = some.iter().map(|(key, _)| key.clone()).collect();
                match self.claim_each(daemon, keys, &mut patience).await {
                    Ok(leases) => claimed.leases.extend(leases),
                    Err(error) if claimed.leases.is_empty() => return Err(error),
                    Err(_) => return Ok(claimed),
                }
                claimed.last_position = some.last().map(|(_, place)| *place).max(claimed.last_position);
                rest = more;
            }
            let Some((_, last)) = page.last().filter(|_| rest.is_empty()) else { break };
            from = *last;
        }
        let in_vain = patience.is_over() && claimed.leases.is_empty();
        if in_vain { Err(error) } else { Ok(claimed) }
    }

    /// Leases up to `limit` objects that were registered within the last ten minutes, the latest first.
    pub async fn claim_fresh(&self, daemon: &Daemon, lane: &ReplicaName, limit: usize) -> Result<Claimed, ClaimError> {
        let statement = &self.statements.fresh_claims[self.lane(lane)?];
        match self.take(daemon, rows(limit), statement, |query| query).await {
            // The claim by position claims them later, without the refused row.
            Err(error) if error.cause.may_concern_one_row() => Ok(Claimed { leases: Vec::new(), last_position: None }),
            answer => answer,
        }
    }

    /// Leases those of `keys` that are not leased, due or not.
    pub async fn claim_these(&self, daemon: &Daemon, keys: &[ObjectKey]) -> Result<Vec<Lease>, ClaimError> {
        Box::pin(self.claim_each(daemon, keys.to_vec(), &mut FailureBudget::default())).await
    }

    /// Rows that PostgreSQL refuses to lease are skipped.
    async fn claim_each(
        &self,
        daemon: &Daemon,
        keys: Vec<ObjectKey>,
        patience: &mut FailureBudget,
    ) -> Result<Vec<Lease>, ClaimError> {
        let unanswered = Mutex::new(None);
        let unanswered_by = &unanswered;
        let claim = |keys: Vec<ObjectKey>| {
            async move {
                let keys: Vec<String> = keys.iter().map(|key| key.as_str().to_owned()).collect();
                let claimed = self.take(daemon, keys, &self.statements.claim_these, |query| query).await;
                claimed.map(|claimed| claimed.leases).map_err(|error| {
                    *unanswered_by.lock().unwrap_or_else(PoisonError::into_inner) = error.unanswered;
                    error.cause
                })
            }
            .boxed()
        };
        let SplitResult { answers, error } =
            run_split(keys, patience, claim, |key, why| self.refused.pass_over(&key, "is leased", why)).await;
        match error {
            // These rows are leased; the next claim gets the error of the rest.
            Some(_) if !answers.is_empty() => Ok(answers),
            None => Ok(answers),
            Some(cause) => {
                let unanswered = unanswered.into_inner().unwrap_or_else(PoisonError::into_inner);
                Err(ClaimError { cause, unanswered })
            }
        }
    }

    pub(crate) fn lane(&self, lane: &ReplicaName) -> Result<usize, ClaimError> {
        let at = self.replicas.iter().position(|r| r == lane);
        let unknown = || DatabaseError::Inconsistent { statement: NAME, what: format!("no replica {lane}") };
        at.ok_or_else(|| ClaimError { cause: unknown(), unanswered: None })
    }

    /// `what`: the statement's `$1`.
    async fn take<T>(
        &self,
        daemon: &Daemon,
        what: T,
        statement: &SqlStr,
        place: impl FnOnce(Sent) -> Sent,
    ) -> Result<Claimed, ClaimError>
    where
        T: for<'q> Encode<'q, Postgres> + Type<Postgres> + Send + 'static,
    {
        let fence = daemon.id.fence(rand::rng().random());
        // Taken before the claim is sent: the database counts the lease time from a later moment.
        let sent = Instant::now();
        let query = sqlx::query(statement.clone()).bind(what).bind(micros(daemon.lease_timeout)).bind(fence.0);
        let rows = with_timeout(NAME, place(query).fetch_all(&self.pool)).await.map_err(ClaimError::of(fence))?;
        let position = |row: &PgRow| {
            let due: Option<i64> = row.try_get("lane_due")?;
            let id = row.try_get("id")?;
            Ok(due.map(|due| LanePosition { due, id }))
        };
        let claimed = || {
            let last = rows.iter().map(position).collect::<Result<Vec<_>, sqlx::Error>>()?.into_iter().max().flatten();
            let leases = rows.iter().map(|row| self.lease(row, fence, sent, daemon.lease_timeout));
            Ok(Claimed { leases: leases.collect::<Result<_, _>>()?, last_position: last })
        };
        read(NAME, claimed).map_err(ClaimError::of(fence))
    }

    fn lease(&self, row: &PgRow, fence: Fence, sent: Instant, timeout: Duration) -> Result<Lease, sqlx::Error> {
        let key = ObjectKey::new(row.try_get::<String, _>("object_key")?).map_err(|e| sqlx::Error::Decode(e.into()))?;
        let size_bytes = row.try_get::<Option<i64>, _>("size_bytes")?.map(i64::cast_unsigned);
        let hash = row.try_get::<Option<i64>, _>("content_hash")?.map(ContentHash::from_bigint);
        let metadata = row.try_get::<Option<i64>, _>("metadata_hash")?.map(MetadataHash::from_bigint);
        let source = match row.try_get::<Option<String>, _>("source_replica")? {
            None => None,
            Some(name) => Some(SourceReading {
                replica: ReplicaName::new(name).map_err(|e| sqlx::Error::Decode(e.into()))?,
                modified_us: row.try_get("source_modified")?,
                tag: row.try_get("source_tag")?,
            }),
        };
        let recorded: Vec<String> = row.try_get("recorded")?;
        let due: Vec<String> = row.try_get("due")?;
        let failures: HashMap<String, (String, u32)> = match row.try_get::<Option<&str>, _>("failures")? {
            None => HashMap::new(),
            Some(json) => serde_json::from_str(json).map_err(|e| sqlx::Error::Decode(e.into()))?,
        };
        let prior = |replica: &ReplicaName| {
            let (class, attempts) = failures.get(replica.as_str())?;
            let class = FailureClass::ALL.into_iter().find(|c| c.as_str() == class);
            Some(PriorFailure { class, attempts: *attempts })
        };
        let state = |replica: &ReplicaName| ReplicaState {
            replica: replica.clone(),
            recorded: recorded.iter().any(|name| name == replica.as_str()),
            due: due.iter().any(|name| name == replica.as_str()),
            prior: prior(replica),
        };
        Ok(Lease {
            registration_order: RegistrationOrder(row.try_get("id")?),
            generation: Generation(row.try_get("generation")?),
            fence,
            claimed: sent,
            until: sent + timeout,
            size_bytes,
            content: size_bytes.zip(hash).map(|(size_bytes, hash)| Content { size_bytes, hash }),
            metadata,
            source,
            age: Duration::try_from_secs_f64(row.try_get("age")?).unwrap_or_default(),
            swept: row.try_get::<Option<i32>, _>("swept")?.map(i32::unsigned_abs),
            replicas: self.replicas.iter().map(state).collect(),
            key,
        })
    }
}

fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
