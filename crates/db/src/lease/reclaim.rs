//! Frees rows whose lease has expired, and counts how often in a row that happened.

use std::time::Duration;

use copyhold_core::domain::{EventKind, EventKinds, Fence, ObjectKey, ReplicaName, SchemaName, micros};
use futures::FutureExt as _;
use sqlx::SqlStr;

use super::unsettled;
use crate::{
    daemon::registration::DaemonId,
    error::{DatabaseError, key_of, with_timeout},
    handle::Database,
    log::append::{event, logged},
    split_batch::{FailureBudget, run_split},
    sql::{FENCE_RANDOM_BITS, PARKED, trusted_sql},
};

const NAME: &str = "lease::reclaim";
/// After the schema's name and a colon, the key of the advisory lock. Daemons of every version must agree on it.
const LOCK: &str = "queue::reclaim";
/// Rows that one statement frees at most, so that it stays short.
pub(crate) const BATCH: i64 = 500;

/// How long an object waits after its second holder in a row has died: an object that kills its holders must not do so
/// all the time. Each further time it waits twice as long.
const SECOND_TIME: Duration = Duration::from_secs(10);
const AT_MOST: Duration = Duration::from_mins(15);
/// The next check of an object that only has to be read is postponed by up to so many times as long.
const MOST_TIMES: i32 = 10;
/// Larger objects are uploaded in parts. The request that completes an upload may take longer than any other: as long
/// as the daemon waits for its answer.
const WHOLE_UP_TO: i64 = 16 << 20;
const COMPLETE_MAY_TAKE: Duration = Duration::from_mins(10);

/// A lease that expired.
#[derive(Debug, Clone)]
pub struct ReclaimedLease {
    pub key: ObjectKey,
    pub holder: DaemonId,
    /// How often in a row the object's lease has expired within its generation; at least 1.
    pub times: u32,
}

/// The rows to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReclaimScope {
    All,
    /// `$3`, by their keys.
    These,
}

/// `$1` the key of the duty's advisory lock, `$2` µs after which a dead holder's last request has arrived.
///
/// The lock belongs to the transaction, so it cannot outlive a dead sweeper, not even behind a pooler. FOR NO KEY
/// UPDATE reads each row again that was just renewed, so that a renewed lease is not taken from its holder.
pub(crate) fn statement(schema: &SchemaName, replicas: &[ReplicaName], kinds: &EventKinds, of: ReclaimScope) -> SqlStr {
    let schema = schema.quoted();
    let members = format!(
        "'object_key', object_key, 'generation', generation, 'daemon', lease >> {FENCE_RANDOM_BITS}, 'times', times"
    );
    let events = if kinds.contains(EventKind::LeaseSwept) {
        format!("{} FROM freed", event(EventKind::LeaseSwept, &members))
    } else {
        String::new()
    };
    let logged = logged(&schema, &events, &["unsettled"]);
    let now = format!("{schema}.now_utc_micro_seconds()");
    let each =
        |what: &dyn Fn(&ReplicaName) -> String, glue: &str| replicas.iter().map(what).collect::<Vec<_>>().join(glue);
    let missing = |r: &ReplicaName| format!("(o.{} IS NULL AND o.{} < {PARKED})", r.column(), r.due_column());
    // The first time it keeps its position: greatest() ignores NULL.
    let put_off = each(
        &|r| {
            let due = r.due_column();
            format!("{due} = CASE WHEN {} THEN greatest(o.{due}, {now} + swept.wait) ELSE o.{due} END", missing(r))
        },
        ",
           ",
    );
    // Later each time, in case reading it is what kills its holders.
    let entries = format!(
        "SELECT dead.object_key, r.name, dead.size_bytes, dead.content_hash, dead.metadata_hash,
           CASE WHEN swept.times > 1 THEN $2::bigint * least(swept.times, {MOST_TIMES}) ELSE {first_check} END,
           CASE WHEN dead.content_hash IS NOT NULL AND dead.size_bytes <= {WHOLE_UP_TO} THEN $2::bigint
                ELSE greatest($2::bigint, {complete}) END * least(swept.times, {MOST_TIMES})
      FROM dead JOIN swept USING (object_key) CROSS JOIN {schema}.replicas r",
        first_check = unsettled::first_check(),
        complete = micros(COMPLETE_MAY_TAKE),
    );
    let unsettled = unsettled::insert(&schema, &entries);
    let these = match of {
        ReclaimScope::All => "",
        ReclaimScope::These => "AND o.object_key = ANY ($3::text[])",
    };
    let (first_wait, longest) = (micros(SECOND_TIME), micros(AT_MOST));
    trusted_sql(format!(
        "-- lease::reclaim
WITH duty AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0)) AS mine
),
dead AS MATERIALIZED (
    SELECT o.object_key, o.lease, o.generation, o.size_bytes, o.content_hash, o.metadata_hash
      FROM {schema}.object_copies o
    WHERE (SELECT mine FROM duty)
      AND o.lock IS NOT NULL AND o.lock < {now}
      {these}
    ORDER BY o.lock
    LIMIT {BATCH}
    FOR NO KEY UPDATE SKIP LOCKED
),
-- How often in a row, and how long the object waits for that.
swept AS (
    INSERT INTO {schema}.swept_leases AS s (object_key, generation, times, last_at)
    SELECT object_key, generation, 1, {now} FROM dead
    ON CONFLICT (object_key) DO UPDATE
       SET times = CASE WHEN s.generation = excluded.generation THEN s.times ELSE 0 END + 1,
           generation = excluded.generation, last_at = excluded.last_at
    RETURNING object_key, times,
              CASE WHEN times > 1
                   THEN (least({first_wait} * 2.0 ^ (least(times, 30) - 2), {longest}) * (0.8 + 0.4 * random()))::bigint
              END AS wait
),
-- The holder may have been writing to any replica. A hash that is known under its lease is that of what it wrote: if
-- the key is registered again, the hash is NULL until the next holder has read the object.
unsettled AS (
    {unsettled}
),
freed AS (
    UPDATE {schema}.object_copies o
       SET lock = NULL, lease = NULL,
           {put_off}
      FROM dead JOIN swept USING (object_key)
     WHERE o.object_key = dead.object_key AND o.lease = dead.lease
    RETURNING o.object_key, dead.lease, o.generation, swept.times
),
{logged}
SELECT object_key, lease, times FROM freed CROSS JOIN logged"
    ))
}

impl Database {
    /// Frees rows whose lease has expired, at most one batch; none while another daemon does so. From the second time
    /// on the object's missing copies wait. `settle`: after this time no request of a dead holder can still arrive at a
    /// store.
    pub async fn reclaim(&self, settle: Duration) -> Result<Vec<ReclaimedLease>, DatabaseError> {
        match self.reclaim_of(settle, None).await {
            Err(error) if error.may_concern_one_row() => {
                let expired = self.expired().await?;
                let reclaim = |keys: Vec<_>| async move { self.reclaim_of(settle, Some(&keys)).await }.boxed();
                let refused = |key: ObjectKey, why: &DatabaseError| self.refused.pass_over(&key, "is freed", why);
                let run_split = Box::pin(run_split(expired, &mut FailureBudget::default(), reclaim, refused)).await;
                // The caller has to log the rows that were freed.
                run_split.error.filter(|_| run_split.answers.is_empty()).map_or(Ok(run_split.answers), Err)
            }
            answer => answer,
        }
    }

    async fn reclaim_of(
        &self,
        settle: Duration,
        keys: Option<&[ObjectKey]>,
    ) -> Result<Vec<ReclaimedLease>, DatabaseError> {
        let of = |statement: &SqlStr| {
            sqlx::query_as(statement.clone()).bind(format!("{}:{LOCK}", self.schema)).bind(micros(settle))
        };
        let query = match keys {
            None => of(&self.statements.reclaim),
            Some(keys) => {
                let keys: Vec<String> = keys.iter().map(|key| key.as_str().to_owned()).collect();
                of(&self.statements.reclaim_these).bind(keys)
            }
        };
        let rows: Vec<(String, i64, i32)> = with_timeout(NAME, query.fetch_all(&self.pool)).await?;
        let parse = |(key, lease, times): (_, _, i32)| {
            let key = key_of(NAME, key)?;
            Ok(ReclaimedLease { key, holder: DaemonId::of(Fence(lease)), times: times.unsigned_abs() })
        };
        rows.into_iter().map(parse).collect()
    }

    /// Keys of rows whose lease has expired, one batch.
    async fn expired(&self) -> Result<Vec<ObjectKey>, DatabaseError> {
        const NAME: &str = "lease::expired";
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {NAME}
SELECT object_key FROM {schema}.object_copies
 WHERE lock IS NOT NULL AND lock < {schema}.now_utc_micro_seconds()
 ORDER BY lock LIMIT {BATCH}"
        ));
        let keys: Vec<String> = with_timeout(NAME, sqlx::query_scalar(sql).fetch_all(&self.pool)).await?;
        keys.into_iter().map(|key| key_of(NAME, key)).collect()
    }
}
