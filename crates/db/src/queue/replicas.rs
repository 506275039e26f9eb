//! The table `replicas`: pins, admission, the primary, and what was the primary before.

use std::time::{Duration, SystemTime};

use copyhold_core::domain::{BreakerScope, FailureClass, Generation, RegistrationOrder, ReplicaName};
use sqlx::{Row as _, postgres::PgRow};

use super::{
    Breaker, PARKED, Pause, Queue, QueueError, built,
    error::{limited, read},
    micros,
};
use crate::pin::Pin;

const ROWS: &str = "queue::replica_rows";

/// By the store's clock, after its bucket was seen to hold something: nothing is written there earlier.
pub const CLEAR: Duration = Duration::from_secs(5);
/// In the middle of that: an object is from before, or ours, on this side of it or the other, though whole seconds and the
/// clocks of a store's machines differ.
pub(super) const FOREIGN_US: i64 = 3_000_000;
/// Whoever looked must look anew if it was longer ago: what came meanwhile is not ours.
pub const LOOK_HOLDS: Duration = Duration::from_secs(30);

/// What was decided before the first write to a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Its bucket held nothing.
    Empty,
    /// What it held is taken over where it is equal, and left alone where it is not.
    Adopt,
    /// What it held is replaced.
    Overwrite,
}

impl Admission {
    const ALL: [Self; 3] = [Self::Empty, Self::Adopt, Self::Overwrite];

    /// For people: why it may be written to.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Empty => "its bucket is empty",
            Self::Adopt => "what its bucket holds is taken over where it is equal",
            Self::Overwrite => "what its bucket holds is replaced",
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Adopt => "adopt",
            Self::Overwrite => "overwrite",
        }
    }
}

/// What all daemons know of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaRow {
    pub name: ReplicaName,
    /// It is the primary in force.
    pub primary: bool,
    /// `None`: nobody has used it yet.
    pub pin: Option<Pin>,
    /// `None`: nothing was written to it yet. With the time, by the store's clock, before which nothing in its bucket is ours.
    pub admission: Option<(Admission, SystemTime)>,
    /// When its bucket was seen to hold something, by the store's clock, before anything was written to it.
    pub looked_at: Option<SystemTime>,
    /// What it holds is adopted when it is opened for writing, whatever the configuration says.
    pub adopts: bool,
    /// `None`: copies may be made to it.
    pub pause: Option<Pause>,
    /// `None`: nothing is known to be wrong with it.
    pub breaker: Option<Breaker>,
    /// `None`: it is not about to leave.
    pub draining: Option<Draining>,
    /// `None`: it was never the primary, or never ceased to be.
    pub former: Option<Former>,
    /// Its recorded copies are being taken back, or that was broken off.
    pub resetting: bool,
}

/// Nothing is copied to a replica that is about to leave, and nothing is counted as missing there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draining {
    /// µs since the epoch by the database's clock.
    pub since: i64,
    /// What whoever drained it had to say.
    pub because: Option<String>,
}

/// What is known of the contents of a replica that was the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Former {
    /// Objects up to this arrival were registered before it ceased to be: under their keys it holds what was registered.
    pub through: RegistrationOrder,
    /// Generations up to this one were registered before that: what nobody has seen of them yet may stand there.
    pub begun_through: Generation,
    /// Of the objects, what is older was there before Copyhold came; `None`: nothing was.
    pub foreign_before: Option<SystemTime>,
}

impl Queue {
    /// Every replica that was ever there, by name.
    pub async fn replica_rows(&self) -> Result<Vec<ReplicaRow>, QueueError> {
        let sql = built(format!(
            "-- {ROWS}
SELECT name, primary_since IS NOT NULL AS is_primary, endpoint, bucket, existing, writable_at, looked_at, adopts,
       CASE WHEN paused_until > {schema}.now_utc_micro_seconds() THEN paused_until END AS paused_until, pause_reason,
       breaker_opened_at, breaker_blocks, breaker_class, breaker_message, probes_failed,
       probe_at - {schema}.now_utc_micro_seconds() AS probe_in,
       draining_since, drain_reason, registered_through, begun_through, foreign_before,
       EXISTS (SELECT FROM {schema}.resets s WHERE s.replica = name) AS resetting
FROM {schema}.replicas ORDER BY name",
            schema = self.schema.quoted()
        ));
        let rows = limited(ROWS, sqlx::query(sql).fetch_all(&self.pool)).await?;
        read(ROWS, || rows.iter().map(parse).collect())
    }

    /// Whether any object that the replica lacks is on record elsewhere, so that it could be copied there.
    pub async fn could_be_filled(&self, replica: &ReplicaName) -> Result<bool, QueueError> {
        let (copy, due) = (replica.column(), replica.due_column());
        let others = self.replicas.iter().filter(|r| *r != replica).map(ReplicaName::column);
        let sql = built(format!(
            "-- queue::could_be_filled
SELECT EXISTS (SELECT FROM {}.object_copies
               WHERE {copy} IS NULL AND {due} < {PARKED} AND lock IS NULL AND coalesce({}) IS NOT NULL)",
            self.schema.quoted(),
            others.collect::<Vec<_>>().join(", ")
        ));
        limited("queue::could_be_filled", sqlx::query_scalar(sql).fetch_one(&self.pool)).await
    }

    /// Ties the replica to the bucket, unless it is tied already. Read the row again to see to which.
    pub async fn pin(&self, replica: &ReplicaName, pin: &Pin) -> Result<(), QueueError> {
        let schema = self.schema.quoted();
        let sql = built(format!(
            "-- queue::pin
UPDATE {schema}.replicas SET endpoint = $2, bucket = $3, pinned_at = {schema}.now_utc_micro_seconds()
WHERE name = $1 AND pinned_at IS NULL"
        ));
        let query = sqlx::query(sql).bind(replica.as_str()).bind(&pin.endpoint).bind(&pin.bucket);
        limited("queue::pin", query.execute(&self.pool)).await?;
        Ok(())
    }

    /// Notes when a bucket was seen to hold something, by its store's clock; unless that was noted within the last
    /// [`LOOK_HOLDS`] by it. From then on nothing is written there for [`CLEAR`], so that what is ours and what was there
    /// before are seconds apart.
    pub async fn note_look(&self, replica: &ReplicaName, date: SystemTime) -> Result<(), QueueError> {
        const NAME: &str = "queue::note_look";
        let schema = self.schema.quoted();
        let sql = built(format!(
            "-- {NAME}
UPDATE {schema}.replicas SET looked_at = $2
WHERE name = $1 AND writable_at IS NULL AND (looked_at IS NULL OR looked_at NOT BETWEEN $2 - $3 AND $2)"
        ));
        let query = sqlx::query(sql).bind(replica.as_str()).bind(unix_micros(date)).bind(micros(LOOK_HOLDS));
        limited(NAME, query.execute(&self.pool)).await?;
        Ok(())
    }

    /// Opens the replica for writing, unless it is already. Read the row again to see on which terms. `looked_at`: as it was
    /// when that was decided; nothing happens if it is another by now.
    pub async fn admit(
        &self,
        replica: &ReplicaName,
        admission: Admission,
        looked_at: Option<SystemTime>,
    ) -> Result<(), QueueError> {
        let schema = self.schema.quoted();
        let sql = built(format!(
            "-- queue::admit
UPDATE {schema}.replicas
   SET existing = $2, writable_at = {schema}.now_utc_micro_seconds(), looked_at = CASE WHEN $2 = 'adopt' THEN looked_at END
WHERE name = $1 AND writable_at IS NULL AND ($2 <> 'adopt' OR looked_at = $3)"
        ));
        let looked_at = looked_at.map(unix_micros);
        let query = sqlx::query(sql).bind(replica.as_str()).bind(admission.as_str()).bind(looked_at);
        limited("queue::admit", query.execute(&self.pool)).await?;
        Ok(())
    }
}

fn parse(row: &PgRow) -> Result<ReplicaRow, sqlx::Error> {
    let name = ReplicaName::new(row.try_get::<String, _>("name")?).map_err(|e| sqlx::Error::Decode(e.into()))?;
    let endpoint: Option<String> = row.try_get("endpoint")?;
    let because = row.try_get("pause_reason")?;
    let paused_until: Option<i64> = row.try_get("paused_until")?;
    Ok(ReplicaRow {
        name,
        primary: row.try_get("is_primary")?,
        pin: endpoint.zip(row.try_get("bucket")?).map(|(endpoint, bucket)| Pin { endpoint, bucket }),
        admission: admission(row)?,
        looked_at: row.try_get::<Option<i64>, _>("looked_at")?.map(system_time),
        adopts: row.try_get("adopts")?,
        pause: paused_until.map(|until| Pause { until: (until != PARKED).then_some(until), because }),
        breaker: breaker(row)?,
        draining: draining(row)?,
        former: former(row)?,
        resetting: row.try_get("resetting")?,
    })
}

fn draining(row: &PgRow) -> Result<Option<Draining>, sqlx::Error> {
    let Some(since) = row.try_get("draining_since")? else { return Ok(None) };
    Ok(Some(Draining { since, because: row.try_get("drain_reason")? }))
}

fn former(row: &PgRow) -> Result<Option<Former>, sqlx::Error> {
    let Some(through) = row.try_get("registered_through")? else { return Ok(None) };
    let begun: Option<i64> = row.try_get("begun_through")?;
    let foreign_before: Option<i64> = row.try_get("foreign_before")?;
    Ok(Some(Former {
        through: RegistrationOrder(through),
        begun_through: Generation(begun.unwrap_or(i64::MIN)),
        foreign_before: foreign_before.map(system_time),
    }))
}

fn unix_micros(at: SystemTime) -> i64 {
    micros(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// µs since the epoch.
fn system_time(at: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(at).unwrap_or_default())
}

fn admission(row: &PgRow) -> Result<Option<(Admission, SystemTime)>, sqlx::Error> {
    let existing: Option<String> = row.try_get("existing")?;
    let writable_at: Option<i64> = row.try_get("writable_at")?;
    let Some((word, at)) = existing.zip(writable_at) else { return Ok(None) };
    let admission = known("replicas.existing", &word, Admission::ALL.into_iter().find(|a| a.as_str() == word))?;
    // Of a replica that a version before 6 has opened, the store's clock is not known; that of the database must do.
    let looked_at: Option<i64> = row.try_get("looked_at")?;
    let ours_since = looked_at.map_or(at, |at| at + FOREIGN_US);
    Ok(Some((admission, system_time(ours_since))))
}

fn breaker(row: &PgRow) -> Result<Option<Breaker>, sqlx::Error> {
    let Some(opened_at) = row.try_get("breaker_opened_at")? else { return Ok(None) };
    let (blocks, class): (String, String) = (row.try_get("breaker_blocks")?, row.try_get("breaker_class")?);
    let probe_in: i64 = row.try_get("probe_in")?;
    Ok(Some(Breaker {
        opened_at,
        blocks: known(
            "replicas.breaker_blocks",
            &blocks,
            BreakerScope::ALL.into_iter().find(|b| b.as_str() == blocks),
        )?,
        class: FailureClass::ALL.into_iter().find(|c| c.as_str() == class),
        message: row.try_get("breaker_message")?,
        probe_in: Duration::from_micros(u64::try_from(probe_in).unwrap_or_default()),
        probes_failed: u32::try_from(row.try_get::<i32, _>("probes_failed")?).unwrap_or_default(),
    }))
}

fn known<T>(column: &str, word: &str, found: Option<T>) -> Result<T, sqlx::Error> {
    found.ok_or_else(|| sqlx::Error::Decode(format!("{column} is \"{word}\"").into()))
}
