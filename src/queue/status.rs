use std::collections::HashMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{CHANGES_WITHIN, Difference, LogStatus, PARKED, Queue, QueueError, built, error::limited, micros};
use crate::domain::ReplicaName;

/// Below this size of the table its rows are counted, else estimated.
const COUNTED_BELOW_BYTES: i64 = 64 << 20;

/// What `copyhold status` shows.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Rows of `object_copies`.
    pub objects: i64,
    /// `objects`, and `recorded` of each replica, are PostgreSQL's estimate.
    pub estimated: bool,
    pub replicas: Vec<ReplicaStatus>,
    pub daemons: Vec<DaemonStatus>,
    pub failing: Vec<FailingCopy>,
    pub log: LogStatus,
    /// In what the living daemons differ.
    pub differences: Vec<Differing>,
}

/// One difference, in words.
#[derive(Debug, Clone, Serialize)]
pub struct Differing {
    /// `replicas`, `primary`, `bucket`, `lease` or `unserved`.
    pub what: &'static str,
    pub replica: Option<String>,
    pub says: String,
}

impl From<Difference> for Differing {
    fn from(difference: Difference) -> Self {
        let replica = difference.replica().map(str::to_owned);
        Self { what: difference.what(), replica, says: difference.to_string() }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplicaStatus {
    pub replica: String,
    pub primary: bool,
    /// Endpoint and bucket that the recorded copies are in; `None`: not used yet.
    pub bucket: Option<String>,
    /// What may be written to it: `empty`, `adopt`, `overwrite`; `None`: nothing yet.
    pub existing: Option<String>,
    /// Nothing is copied to it for now, on an operator's word.
    pub paused: bool,
    /// `None`: until it is resumed.
    pub paused_seconds_left: Option<f64>,
    pub pause_reason: Option<String>,
    /// It is about to leave: nothing is copied to it, and the figures that follow do not count what it lacks. `None`: it
    /// is not.
    pub draining_seconds: Option<f64>,
    pub drain_reason: Option<String>,
    /// Copies that it lacks while it is draining; `None`: that was not counted.
    #[serde(default)]
    pub lacks: Option<i64>,
    /// Its recorded copies are being taken back, or that was broken off.
    pub reset: Option<ResetStatus>,
    /// Unregistered changes found there are parked for so long, because there were too many. `None`: they are not.
    #[serde(default)]
    pub changes_parked_seconds: Option<f64>,
    /// `None`: nothing is known to be wrong with its store.
    pub breaker: Option<BreakerStatus>,
    /// Copies on record.
    #[serde(default)]
    pub recorded: i64,
    /// Of these, copies whose metadata was never compared, because none is on record of their objects. Of the primary
    /// none; `None`: of a table too large to be counted PostgreSQL has no estimate yet.
    #[serde(default)]
    pub metadata_not_compared: Option<i64>,
    pub backlog_objects: i64,
    pub backlog_bytes: i64,
    pub backlog_objects_of_unknown_size: i64,
    pub in_flight: i64,
    pub waiting: i64,
    pub parked: i64,
    /// Seconds since the oldest object of the backlog was registered.
    pub oldest_age_seconds: Option<f64>,
    /// Seconds since the backlog's figures were counted; `None`: never.
    pub counted_seconds_ago: Option<f64>,
    /// Copies whose last attempt failed.
    #[serde(default)]
    pub failing: i64,
}

/// How far a reset, or a move, has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResetStatus {
    pub moved: bool,
    pub begun_seconds: f64,
    /// Copies taken back so far.
    pub cleared: i64,
    /// Up to and with this key; `None`: none yet.
    pub reached: Option<String>,
}

/// Why no daemon uses a replica for now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BreakerStatus {
    pub open_seconds: f64,
    /// `writing`: it is still read; `all`: it is not.
    pub blocks: String,
    pub class: String,
    pub message: String,
    /// Until it is tried again; below 0: it is due, or is being tried.
    pub next_probe_seconds: f64,
    pub probes_failed: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DaemonStatus {
    pub id: i32,
    pub host: String,
    pub process_id: i32,
    pub version: String,
    pub up_seconds: f64,
    pub alive: bool,
    pub sleeping: bool,
    /// How it learns of what is new: `notify`, `poll`, or why it cannot be notified; `None`: it has not said.
    pub wakeup: Option<String>,
    /// Rows that it holds.
    pub leases: i64,
}

/// Copies that fail alike, with the latest one as the example.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FailingCopy {
    pub replica: String,
    pub class: String,
    pub copies: i64,
    pub example_key: String,
    pub message: String,
    pub last_seconds_ago: f64,
}

impl Queue {
    /// One look at everything. The backlog's figures are those of the table, as old as they say,
    /// unless `exact` asks to count at once.
    pub async fn status(&self, exact: bool) -> Result<Status, QueueError> {
        let (counted, objects) = self.count_objects().await?;
        let mut replicas = self.replica_statuses(exact).await?;
        if exact {
            self.count_draining(&mut replicas).await?;
        }
        let failing = self.failing().await?;
        let recorded = if counted { self.count_recorded().await? } else { HashMap::new() };
        let share = if counted { None } else { self.share_without_metadata().await? };
        for replica in &mut replicas {
            let counted = recorded.get(&replica.replica).copied();
            let estimate = (objects - replica.backlog_objects).max(0);
            replica.recorded = counted.map_or(estimate, |(recorded, _)| recorded);
            #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "an estimate")]
            let estimate = share.map(|share| (estimate as f64 * share) as i64);
            let not_compared = counted.map(|(_, not_compared)| not_compared).or(estimate);
            replica.metadata_not_compared = not_compared.map(|n| if replica.primary { 0 } else { n });
            replica.failing = failing.iter().filter(|f| f.replica == replica.replica).map(|f| f.copies).sum();
        }
        let differences = self.differences().await?.into_iter().map(Differing::from).collect();
        let daemons = self.daemon_statuses().await?;
        let log = self.log_status().await?;
        Ok(Status { objects, estimated: !counted, replicas, daemons, failing, log, differences })
    }

    /// The backlog as the table has it, per replica.
    pub async fn backlog(&self) -> Result<Vec<ReplicaStatus>, QueueError> {
        self.replica_statuses(false).await
    }

    /// Whether the table is small enough to be counted, and its rows.
    async fn count_objects(&self) -> Result<(bool, i64), QueueError> {
        let table = format!("{}.object_copies", self.schema.quoted());
        let sql = built(format!(
            "-- queue::status
SELECT s.small, CASE WHEN s.small THEN (SELECT count(*) FROM {table}) ELSE greatest(c.reltuples, 0)::bigint END
FROM pg_class c, LATERAL (SELECT pg_relation_size(c.oid) < $2 AS small) s
WHERE c.oid = to_regclass($1)"
        ));
        let query = sqlx::query_as(sql).bind(&table).bind(COUNTED_BELOW_BYTES);
        limited("queue::status", query.fetch_one(&self.pool)).await
    }

    /// What the figures leave out.
    async fn count_draining(&self, replicas: &mut [ReplicaStatus]) -> Result<(), QueueError> {
        let mut draining: Vec<_> = replicas.iter_mut().filter(|r| r.draining_seconds.is_some()).collect();
        let names = draining.iter().filter_map(|r| ReplicaName::new(&r.replica).ok()).collect::<Vec<_>>();
        if names.is_empty() {
            return Ok(());
        }
        for (replica, missing) in draining.iter_mut().zip(self.missing_at(&names).await?) {
            replica.lacks = Some(missing.objects);
        }
        Ok(())
    }

    /// By replica: recorded copies, and those of objects without metadata on record.
    async fn count_recorded(&self) -> Result<HashMap<String, (i64, i64)>, QueueError> {
        let each =
            |what: &dyn Fn(&ReplicaName) -> String| self.replicas.iter().map(what).collect::<Vec<_>>().join(", ");
        let sql = built(format!(
            "-- queue::status
SELECT v.* FROM (SELECT ARRAY[{}]::bigint[] AS n, ARRAY[{}]::bigint[] AS m FROM {}.object_copies) c, unnest($1::text[], c.n, c.m) v",
            each(&|r| format!("count({})", r.column())),
            each(&|r| format!("count({}) FILTER (WHERE metadata_hash IS NULL)", r.column())),
            self.schema.quoted()
        ));
        let names: Vec<_> = self.replicas.iter().map(ReplicaName::as_str).collect();
        let rows: Vec<(String, i64, i64)> =
            limited("queue::status", sqlx::query_as(sql).bind(names).fetch_all(&self.pool)).await?;
        Ok(rows.into_iter().map(|(replica, recorded, not_compared)| (replica, (recorded, not_compared))).collect())
    }

    /// PostgreSQL's estimate of the objects without metadata on record, of all; `None`: it has none.
    async fn share_without_metadata(&self) -> Result<Option<f64>, QueueError> {
        let sql = built(
            "-- queue::status
SELECT s.null_frac::double precision FROM pg_stats s
 WHERE s.schemaname = $1 AND s.tablename = 'object_copies' AND s.attname = 'metadata_hash'"
                .to_owned(),
        );
        let query = sqlx::query_scalar(sql).bind(self.schema.to_string());
        limited("queue::status", query.fetch_optional(&self.pool)).await
    }

    async fn replica_statuses(&self, exact: bool) -> Result<Vec<ReplicaStatus>, QueueError> {
        let schema = self.schema.quoted();
        let within = micros(CHANGES_WITHIN);
        let (backlog, as_of) = if exact { ("backlog_exact", "statement_timestamp()") } else { ("backlog", "b.as_of") };
        let sql = format!(
            "SELECT r.name AS replica, r.primary_since IS NOT NULL AS \"primary\", r.endpoint || '/' || r.bucket AS bucket, r.existing,
       coalesce(r.paused_until > {schema}.now_utc_micro_seconds(), false) AS paused,
       CASE WHEN r.paused_until < {PARKED} AND r.paused_until > {schema}.now_utc_micro_seconds()
            THEN ((r.paused_until - {schema}.now_utc_micro_seconds()) / 1e6)::double precision END AS paused_seconds_left,
       CASE WHEN r.paused_until > {schema}.now_utc_micro_seconds() THEN r.pause_reason END AS pause_reason,
       (({schema}.now_utc_micro_seconds() - r.draining_since) / 1e6)::double precision AS draining_seconds, r.drain_reason,
       (SELECT json_build_object(
           'moved', s.moved, 'begun_seconds', ({schema}.now_utc_micro_seconds() - s.started_at) / 1e6,
           'cleared', s.cleared, 'reached', s.reached)
          FROM {schema}.resets s WHERE s.replica = r.name) AS reset,
       CASE WHEN r.changes_refused_at > {schema}.now_utc_micro_seconds() - {within}
            THEN (({schema}.now_utc_micro_seconds() - r.changes_refused_since) / 1e6)::double precision END AS changes_parked_seconds,
       CASE WHEN r.breaker_opened_at IS NOT NULL THEN json_build_object(
           'open_seconds', ({schema}.now_utc_micro_seconds() - r.breaker_opened_at) / 1e6,
           'blocks', r.breaker_blocks, 'class', r.breaker_class, 'message', r.breaker_message,
           'next_probe_seconds', (r.probe_at - {schema}.now_utc_micro_seconds()) / 1e6,
           'probes_failed', r.probes_failed) END AS breaker,
       coalesce(b.objects, 0) AS backlog_objects, coalesce(b.bytes, 0) AS backlog_bytes,
       coalesce(b.objects_of_unknown_size, 0) AS backlog_objects_of_unknown_size,
       coalesce(b.in_flight, 0) AS in_flight, coalesce(b.waiting, 0) AS waiting, coalesce(b.parked, 0) AS parked,
       extract(epoch FROM statement_timestamp() - b.oldest_registration)::double precision AS oldest_age_seconds,
       extract(epoch FROM statement_timestamp() - {as_of})::double precision AS counted_seconds_ago
FROM {schema}.replicas r LEFT JOIN {schema}.{backlog} b ON b.replica = r.name AND r.draining_since IS NULL
ORDER BY r.primary_since IS NULL, r.name"
        );
        self.fetch(sql).await
    }

    async fn daemon_statuses(&self) -> Result<Vec<DaemonStatus>, QueueError> {
        let schema = self.schema.quoted();
        let sql = format!(
            "SELECT d.id, d.host, d.process_id, d.version,
       (({schema}.now_utc_micro_seconds() - d.started_at) / 1e6)::double precision AS up_seconds,
       d.alive_until > {schema}.now_utc_micro_seconds() AS alive, d.sleeping, d.wakeup, coalesce(l.leases, 0) AS leases
FROM {schema}.daemons d
LEFT JOIN (SELECT (lease >> 40)::int AS id, count(*) AS leases
           FROM {schema}.object_copies WHERE lock IS NOT NULL GROUP BY 1) l USING (id)
ORDER BY d.id"
        );
        self.fetch(sql).await
    }

    /// What fails, by replica and class.
    async fn failing(&self) -> Result<Vec<FailingCopy>, QueueError> {
        let schema = self.schema.quoted();
        let sql = format!(
            "SELECT f.replica, f.class, count(*) AS copies,
       (array_agg(f.object_key ORDER BY f.last_at DESC))[1] AS example_key,
       (array_agg(f.message ORDER BY f.last_at DESC))[1] AS message,
       (({schema}.now_utc_micro_seconds() - max(f.last_at)) / 1e6)::double precision AS last_seconds_ago
FROM {schema}.copy_failures f JOIN {schema}.object_copies o USING (object_key)
WHERE f.generation = o.generation
  AND NOT EXISTS (SELECT FROM {schema}.replicas r WHERE r.name = f.replica AND r.draining_since IS NOT NULL)
GROUP BY f.replica, f.class ORDER BY f.replica, copies DESC"
        );
        self.fetch(sql).await
    }

    /// Rows as JSON, which serde takes apart by the columns' names.
    async fn fetch<T: DeserializeOwned>(&self, rows: String) -> Result<Vec<T>, QueueError> {
        let statement = "queue::status";
        let sql = built(format!("-- {statement}\nSELECT coalesce(json_agg(t), '[]')::text FROM ({rows}) t"));
        let json: String = limited(statement, sqlx::query_scalar(sql).fetch_one(&self.pool)).await?;
        serde_json::from_str(&json).map_err(|e| QueueError::Inconsistent { statement, what: e.to_string() })
    }
}
