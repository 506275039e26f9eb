//! Frees rows whose lease has expired, and counts how often in a row that happened.

use std::time::Duration;

use copyhold_core::domain::{EventKind, EventKinds, Fence, ObjectKey, ReplicaName, SchemaName};
use futures::FutureExt as _;
use sqlx::SqlStr;

use super::{
    PARKED, Queue, QueueError,
    answer::key_of,
    apart::{Patience, apart},
    append::{event, logged},
    built,
    daemons::DaemonId,
    error::limited,
    micros, unsettled,
};

const NAME: &str = "queue::reclaim";
/// Rows that one statement frees at most, so that it stays short.
pub(super) const BATCH: i64 = 500;

/// How long an object waits after its second holder in a row has died: an object that kills whoever copies it must
/// not do so all the time. Each further time it is twice as long.
const SECOND_TIME: Duration = Duration::from_secs(10);
const AT_MOST: Duration = Duration::from_mins(15);
/// An object that is only to be read again waits by so many times as long at most.
const MOST_TIMES: i32 = 10;
/// Larger objects are uploaded in parts, and the request that completes an upload may be at work for longer than any
/// other: as long as the daemon waits for its answer.
const WHOLE_UP_TO: i64 = 16 << 20;
const COMPLETE_MAY_TAKE: Duration = Duration::from_mins(10);

/// A lease that ended without its holder.
#[derive(Debug, Clone)]
pub struct Reclaimed {
    pub key: ObjectKey,
    pub holder: DaemonId,
    /// How often in a row this has happened to the object, within its generation; at least 1.
    pub times: u32,
}

/// Which rows come into question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    All,
    /// `$3`, by their keys.
    These,
}

/// `$1` the key of the duty's advisory lock, `$2` µs after which a dead holder's last request has arrived.
///
/// The lock is the transaction's own, so it cannot outlive a dead sweeper, not even behind a pooler. FOR NO KEY
/// UPDATE re-reads each row that was just renewed, so a lease that its owner saved is not taken from it.
pub(super) fn statement(schema: &SchemaName, replicas: &[ReplicaName], kinds: &EventKinds, of: Of) -> SqlStr {
    let schema = schema.quoted();
    let members = "'object_key', object_key, 'generation', generation, 'daemon', lease >> 40, 'times', times";
    let events = if kinds.contains(EventKind::LeaseSwept) {
        format!("{} FROM freed", event(EventKind::LeaseSwept, members))
    } else {
        String::new()
    };
    let logged = logged(&schema, &events, &["unsettled"]);
    let now = format!("{schema}.now_utc_micro_seconds()");
    let each =
        |what: &dyn Fn(&ReplicaName) -> String, glue: &str| replicas.iter().map(what).collect::<Vec<_>>().join(glue);
    let missing = |r: &ReplicaName| format!("(o.{} IS NULL AND o.{} < {PARKED})", r.column(), r.due_column());
    // The first time it keeps its place: greatest() passes over NULL.
    let put_off = each(
        &|r| {
            let due = r.due_column();
            format!("{due} = CASE WHEN {} THEN greatest(o.{due}, {now} + swept.wait) ELSE o.{due} END", missing(r))
        },
        ",
           ",
    );
    // Later each time, should reading it be what its holders die of.
    let entries = format!(
        "SELECT dead.object_key, r.name, dead.size_bytes, dead.content_hash, dead.metadata_hash,
           CASE WHEN swept.times > 1 THEN $2::bigint * least(swept.times, {MOST_TIMES}) ELSE {bucket_contents} END,
           CASE WHEN dead.content_hash IS NOT NULL AND dead.size_bytes <= {WHOLE_UP_TO} THEN $2::bigint
                ELSE greatest($2::bigint, {complete}) END * least(swept.times, {MOST_TIMES})
      FROM dead JOIN swept USING (object_key) CROSS JOIN {schema}.replicas r",
        bucket_contents = unsettled::bucket_contents(),
        complete = micros(COMPLETE_MAY_TAKE),
    );
    let unsettled = unsettled::insert(&schema, &entries);
    let these = match of {
        Of::All => "",
        Of::These => "AND o.object_key = ANY ($3::text[])",
    };
    let (first_wait, longest) = (micros(SECOND_TIME), micros(AT_MOST));
    built(format!(
        "-- queue::reclaim
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
-- How often in a row, and how long it waits for that.
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
-- The holder may have been writing to any replica. A hash that is known under its lease is that of what it wrote: if the
-- key is registered again, the hash is NULL until the next holder has read the object.
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

impl Queue {
    /// Frees rows whose lease has run out, at most one batch; nothing if another daemon is at it. From the second
    /// time on the object's missing copies wait. `settle`: after this time nothing that a dead holder has sent can
    /// still arrive at a store.
    pub async fn reclaim(&self, settle: Duration) -> Result<Vec<Reclaimed>, QueueError> {
        match self.reclaim_of(settle, None).await {
            Err(error) if error.may_be_of_a_row() => {
                let expired = self.expired().await?;
                let reclaim = |keys: Vec<_>| async move { self.reclaim_of(settle, Some(&keys)).await }.boxed();
                let refused = |key: ObjectKey, why: &QueueError| self.refused.pass_over(&key, "is freed", why);
                let apart = Box::pin(apart(expired, &mut Patience::default(), reclaim, refused)).await;
                // What was freed is to be told of.
                apart.error.filter(|_| apart.answers.is_empty()).map_or(Ok(apart.answers), Err)
            }
            answer => answer,
        }
    }

    async fn reclaim_of(&self, settle: Duration, keys: Option<&[ObjectKey]>) -> Result<Vec<Reclaimed>, QueueError> {
        let of = |statement: &SqlStr| {
            sqlx::query_as(statement.clone()).bind(format!("{}:{NAME}", self.schema)).bind(micros(settle))
        };
        let query = match keys {
            None => of(&self.statements.reclaim),
            Some(keys) => {
                let keys: Vec<String> = keys.iter().map(|key| key.as_str().to_owned()).collect();
                of(&self.statements.reclaim_these).bind(keys)
            }
        };
        let rows: Vec<(String, i64, i32)> = limited(NAME, query.fetch_all(&self.pool)).await?;
        let parse = |(key, lease, times): (_, _, i32)| {
            let key = key_of(NAME, key)?;
            Ok(Reclaimed { key, holder: DaemonId::of(Fence(lease)), times: times.unsigned_abs() })
        };
        rows.into_iter().map(parse).collect()
    }

    /// Keys of rows whose lease has run out, one batch.
    async fn expired(&self) -> Result<Vec<ObjectKey>, QueueError> {
        const NAME: &str = "queue::expired";
        let schema = self.schema.quoted();
        let sql = built(format!(
            "-- {NAME}
SELECT object_key FROM {schema}.object_copies
 WHERE lock IS NOT NULL AND lock < {schema}.now_utc_micro_seconds()
 ORDER BY lock LIMIT {BATCH}"
        ));
        let keys: Vec<String> = limited(NAME, sqlx::query_scalar(sql).fetch_all(&self.pool)).await?;
        keys.into_iter().map(|key| key_of(NAME, key)).collect()
    }

    /// The database's clock, µs since the epoch.
    pub async fn database_now(&self) -> Result<i64, QueueError> {
        let sql = built(format!("-- queue::database_now\nSELECT {}.now_utc_micro_seconds()", self.schema.quoted()));
        limited("queue::database_now", sqlx::query_scalar(sql).fetch_one(&self.pool)).await
    }
}
