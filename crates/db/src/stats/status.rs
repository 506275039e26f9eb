//! The data of `copyhold status`: each part is read in bounded time, and a part that cannot be read hides no other.
//! No figure is the difference of two others, and no figures of several moments are combined.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use copyhold_core::domain::{ReplicaName, micros};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sqlx::Row as _;

use super::{
    backlog::{recorded_ctes, sampled_percent},
    differences::Difference,
    failing::{FailingCopy, FailingCount},
};
use crate::{
    connections::{ReadOnlyServer, pools::STATEMENT_TIMEOUT},
    error::{DatabaseError, with_timeout, within},
    handle::Database,
    log::read::LogStatus,
    replica::change_guard::CHANGES_WITHIN,
    rules::RulesState,
    sql::{FENCE_RANDOM_BITS, PARKED, trusted_sql},
};

/// The time limit of one part, and of all together.
const PART_WITHIN: Duration = Duration::from_secs(2);
const ALL_WITHIN: Duration = Duration::from_secs(8);
/// The server ends a statement that takes too long; the client stops waiting this much later.
const SLACK: Duration = Duration::from_millis(500);

/// The document of `copyhold status`. `None`, which is null there: unknown.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Rows of `object_copies`.
    pub objects: Option<i64>,
    /// `objects` is an estimate.
    pub estimated: bool,
    pub replicas: Vec<ReplicaStatus>,
    pub daemons: Option<Vec<DaemonStatus>>,
    pub failing: Option<Vec<FailingCopy>>,
    /// How exact the figures of `failing` are.
    pub failing_count: Option<FailingCount>,
    pub log: Option<LogStatus>,
    /// The differences between the living daemons.
    pub differences: Option<Vec<DifferenceStatus>>,
    /// The parts that could not be read, and why.
    pub not_known: Vec<UnreadPart>,
    #[serde(skip)]
    pub rules: Option<RulesState>,
    /// The server, if it is read-only.
    #[serde(skip)]
    pub read_only: Option<ReadOnlyServer>,
}

/// A part of the status that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnreadPart {
    pub what: &'static str,
    pub why: String,
}

/// One difference, as text.
#[derive(Debug, Clone, Serialize)]
pub struct DifferenceStatus {
    /// `replicas`, `primary`, `bucket`, `lease`, `rules`, `unserved` or `unapplied`.
    pub what: &'static str,
    pub replica: Option<String>,
    pub says: String,
}

impl From<Difference> for DifferenceStatus {
    fn from(difference: Difference) -> Self {
        let replica = difference.replica().map(str::to_owned);
        Self { what: difference.what(), replica, says: difference.to_string() }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplicaStatus {
    pub replica: String,
    pub primary: bool,
    /// Endpoint and bucket of the recorded copies; `None`: not used yet.
    pub bucket: Option<String>,
    /// What may be written to it: `empty`, `adopt`, `overwrite`; `None`: nothing yet.
    pub existing: Option<String>,
    /// An operator has stopped copies to it for now.
    pub paused: bool,
    /// `None`: until it is resumed.
    pub paused_seconds_left: Option<f64>,
    pub pause_reason: Option<String>,
    /// It is draining: no daemon copies to it, and the following figures do not count what it lacks. `None`: it is not.
    pub draining_seconds: Option<f64>,
    pub drain_reason: Option<String>,
    /// Copies that it lacks while it is draining; `None`: not counted.
    #[serde(default)]
    pub lacks: Option<i64>,
    /// Its recorded copies are being cleared, or an interrupted reset did not finish.
    pub reset: Option<ResetStatus>,
    /// Unregistered changes found there have been parked for so long, because there were too many. `None`: they are
    /// not.
    #[serde(default)]
    pub changes_parked_seconds: Option<f64>,
    /// `None`: no problem with its store is known.
    pub breaker: Option<BreakerStatus>,
    /// Recorded copies, counted at the moment of the backlog's figures; `None`: not counted.
    pub recorded: Option<i64>,
    /// Objects that are neither wanted nor recorded there; of the same moment.
    pub not_wanted: Option<i64>,
    /// Recorded copies whose metadata was never compared, because their objects have none recorded. 0 for the primary.
    pub metadata_not_compared: Option<i64>,
    /// The last three are estimates from a sample of the table.
    pub recorded_estimated: Option<bool>,
    /// Wanted copies that are not recorded; `None`, also in what follows: not counted.
    pub backlog_objects: Option<i64>,
    pub backlog_bytes: Option<i64>,
    pub backlog_objects_of_unknown_size: Option<i64>,
    pub in_flight: Option<i64>,
    pub waiting: Option<i64>,
    pub parked: Option<i64>,
    /// Seconds since the oldest object of the backlog was registered; `None`: not counted, or the backlog is empty.
    pub oldest_age_seconds: Option<f64>,
    /// Seconds since these figures were counted; `None`: they were not.
    pub counted_seconds_ago: Option<f64>,
    /// Duration of the count; `None`: they were counted for this answer, or not at all.
    pub count_took_seconds: Option<f64>,
    /// Copies whose last attempt failed; `failing_count` states how exact that is.
    #[serde(default)]
    pub failing: Option<i64>,
}

/// The progress of a reset or a move.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResetStatus {
    pub moved: bool,
    pub begun_seconds: f64,
    /// Copies cleared so far.
    pub cleared: i64,
    /// All keys up to and including this one are done; `None`: none yet.
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
    /// Until its next probe; below 0: the probe is due, or running.
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
    /// How it learns of new work: `notify`, `poll`, or why it cannot be notified; `None`: it has not reported that.
    pub wakeup: Option<String>,
    /// Rows that it has leased.
    pub leases: i64,
}

/// The figures of a daemon's metrics, from one statement.
#[derive(Debug, Clone, Deserialize)]
pub struct Figures {
    /// `false`: the server is in recovery, or read-only.
    pub writable: bool,
    /// Share of PostgreSQL's queue of notifications in use, 0 to 1.
    pub notification_queue: Option<f64>,
    pub replicas: Vec<ReplicaStatus>,
}

/// Where the figures of a replica's row come from.
enum CountSource {
    /// The table `backlog`, with its age.
    Before,
    /// This statement itself.
    Now,
}

/// The table `object_copies` as a whole.
#[derive(Deserialize)]
struct TableSize {
    /// The share of its pages that a sample reads, in percent.
    percent: f64,
    /// PostgreSQL's estimate; `None`: it has none.
    objects: Option<i64>,
}

#[derive(Deserialize)]
struct FreshCount {
    objects: i64,
    replicas: Vec<ReplicaStatus>,
}

/// Reads the parts one after the other, over one connection, and collects those that could not be read.
struct StatusParts {
    until: Instant,
    not_known: Vec<UnreadPart>,
}

impl StatusParts {
    async fn read<T>(
        &mut self,
        what: &'static str,
        most: Duration,
        part: impl AsyncFnOnce(Duration) -> Result<T, DatabaseError>,
    ) -> Option<T> {
        let left = self.until.saturating_duration_since(Instant::now());
        let limit = most.min(left.max(Duration::from_millis(100)));
        let why = match tokio::time::timeout(limit + 2 * SLACK, part(limit)).await {
            Ok(Ok(read)) => return Some(read),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("PostgreSQL gave no answer within {limit:?}"),
        };
        self.not_known.push(UnreadPart { what, why });
        None
    }
}

/// A lower bound of the registered objects, from counted figures: PostgreSQL's estimate may be older.
fn most_known(replicas: &[ReplicaStatus]) -> i64 {
    let of = |r: &ReplicaStatus| {
        let is_counted = r.recorded_estimated != Some(true);
        let others = [r.recorded, r.not_wanted].into_iter().flatten().filter(|_| is_counted);
        others.chain(r.backlog_objects).sum::<i64>()
    };
    replicas.iter().map(of).max().unwrap_or(0)
}

impl Database {
    /// Reads the whole status. A small table is counted at once, and any table if `exact`; else the figures are those
    /// of the table `backlog`, with their age. An error: PostgreSQL does not answer at all.
    pub async fn status(&self, exact: bool) -> Result<Status, DatabaseError> {
        let replicas = self.fetch(self.replica_rows_as(&CountSource::Before)).await?;
        let mut parts = StatusParts { until: Instant::now() + ALL_WITHIN, not_known: Vec::new() };
        let read_only = parts.read("whether the server is writable", PART_WITHIN, async |_| self.probe().await);
        let read_only = read_only.await.flatten();
        let size = parts.read("the size of the table", PART_WITHIN, async |limit| self.table_size(limit).await).await;
        let small = size.as_ref().is_some_and(|size| size.percent >= 100.0);
        let mut status = Status {
            objects: size.as_ref().and_then(|size| size.objects),
            estimated: true,
            replicas,
            daemons: None,
            failing: None,
            failing_count: None,
            log: None,
            differences: None,
            not_known: Vec::new(),
            rules: None,
            read_only,
        };
        if let Some(TableSize { percent, .. }) = size.filter(|_| small || exact) {
            let (what, most) = if exact { ("the exact count", STATEMENT_TIMEOUT) } else { ("a count", PART_WITHIN) };
            if exact {
                parts.until += most;
            }
            if let Some(counted) = parts.read(what, most, async |limit| self.count_now(percent, limit).await).await {
                (status.objects, status.estimated) = (Some(counted.objects), !small);
                status.replicas = counted.replicas;
            }
            if exact {
                let replicas = &mut status.replicas;
                parts
                    .read("the backlog of draining replicas", most, async |_| self.count_draining(replicas).await)
                    .await;
                parts.until = parts.until.max(Instant::now() + ALL_WITHIN);
            }
        }
        for replica in status.replicas.iter_mut().filter(|replica| replica.primary) {
            replica.metadata_not_compared = replica.metadata_not_compared.map(|_| 0);
        }
        status.daemons = parts.read("daemons", PART_WITHIN, async |limit| self.daemon_statuses(limit).await).await;
        status.log = parts.read("the log", PART_WITHIN, async |_| self.log_status().await).await;
        status.rules = parts.read("the rules in force", PART_WITHIN, async |_| self.rules_state().await).await;
        let differences =
            parts.read("differences between daemons", PART_WITHIN, async |_| self.differences().await).await;
        status.differences = differences.map(|all| all.into_iter().map(DifferenceStatus::from).collect());
        // Last: with millions of failures it takes all the time that is left.
        if let Some(failing) =
            parts.read("failing copies", 2 * PART_WITHIN, async |limit| self.failing(limit / 2).await).await
        {
            let mut sums: HashMap<&str, i64> = HashMap::new();
            for class in &failing.copies {
                *sums.entry(&class.replica).or_default() += class.copies;
            }
            for replica in status.replicas.iter_mut().filter(|replica| replica.draining_seconds.is_none()) {
                replica.failing = Some(sums.get(replica.replica.as_str()).copied().unwrap_or_default());
            }
            (status.failing, status.failing_count) = (Some(failing.copies), Some(failing.count));
        }
        status.not_known = parts.not_known;
        if status.estimated {
            status.objects = status.objects.map(|estimate| estimate.max(most_known(&status.replicas)));
        }
        Ok(status)
    }

    /// Reads the figures of a daemon's metrics. It sends one statement, which counts nothing.
    pub async fn figures(&self) -> Result<Figures, DatabaseError> {
        let statement = "stats::figures";
        let sql = trusted_sql(format!(
            "-- {statement}
SELECT json_build_object(
    'writable', NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off',
    'notification_queue', CASE WHEN NOT pg_is_in_recovery() THEN pg_notification_queue_usage() END,
    'replicas', (SELECT coalesce(json_agg(t), '[]') FROM ({rows}) t))::text",
            rows = self.replica_rows_as(&CountSource::Before),
        ));
        let json: String = with_timeout(statement, sqlx::query_scalar(sql).fetch_one(&self.pool)).await?;
        serde_json::from_str(&json).map_err(|e| DatabaseError::Inconsistent { statement, what: e.to_string() })
    }

    async fn table_size(&self, limit: Duration) -> Result<TableSize, DatabaseError> {
        let sql = format!(
            "SELECT json_build_object('percent', {percent}, 'objects', (
    SELECT CASE WHEN c.relpages > 0 AND c.reltuples >= 0
                THEN (c.reltuples / c.relpages * (pg_relation_size(c.oid) / current_setting('block_size')::bigint))::bigint END
      FROM pg_class c WHERE c.oid = to_regclass('{schema}.object_copies')))::text",
            percent = sampled_percent(&self.schema),
            schema = self.schema.quoted(),
        );
        self.json_within(limit, sql).await
    }

    /// All figures of all replicas at this moment: the backlog is counted, the rest estimated from `percent` of the
    /// table's pages.
    async fn count_now(&self, percent: f64, limit: Duration) -> Result<FreshCount, DatabaseError> {
        let sql = format!(
            "WITH {recorded}
SELECT json_build_object('objects', (SELECT objects FROM total),
                         'replicas', (SELECT coalesce(json_agg(t), '[]') FROM ({rows}) t))::text",
            recorded = recorded_ctes(&self.schema, &self.replicas, &format!("{percent}::float8"), ("", "true")),
            rows = self.replica_rows_as(&CountSource::Now),
        );
        self.json_within(limit, sql).await
    }

    /// Counts what draining replicas lack, which the figures leave out.
    async fn count_draining(&self, replicas: &mut [ReplicaStatus]) -> Result<(), DatabaseError> {
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

    /// A query for the row of each replica. [`CountSource::Now`] needs the CTE `recorded`.
    fn replica_rows_as(&self, counted: &CountSource) -> String {
        let schema = self.schema.quoted();
        let within = micros(CHANGES_WITHIN);
        let backlog = match counted {
            // Figures of recorded copies are valid only together with the backlog that was counted at the same moment.
            CountSource::Before => format!(
                "(SELECT b.*, c.recorded AS recorded_then, c.not_wanted AS not_wanted_then,
               c.metadata_not_compared AS not_compared_then, c.estimated AS estimated_then
          FROM {schema}.backlog b LEFT JOIN {schema}.backlog c ON c.replica = b.replica AND c.recorded_as_of = b.as_of)"
            ),
            CountSource::Now => format!(
                "(SELECT e.*, statement_timestamp() AS as_of, NULL::interval AS took, c.recorded AS recorded_then,
               c.not_wanted AS not_wanted_then, c.metadata_not_compared AS not_compared_then, c.estimated AS estimated_then
          FROM {schema}.backlog_exact e LEFT JOIN recorded c ON c.replica = e.replica)"
            ),
        };
        format!(
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
       b.recorded_then AS recorded, b.not_wanted_then AS not_wanted, b.not_compared_then AS metadata_not_compared,
       b.estimated_then AS recorded_estimated,
       b.objects AS backlog_objects, b.bytes AS backlog_bytes, b.objects_of_unknown_size AS backlog_objects_of_unknown_size,
       b.in_flight, b.waiting, b.parked,
       extract(epoch FROM statement_timestamp() - b.oldest_registration)::double precision AS oldest_age_seconds,
       extract(epoch FROM statement_timestamp() - b.as_of)::double precision AS counted_seconds_ago,
       extract(epoch FROM b.took)::double precision AS count_took_seconds
FROM {schema}.replicas r LEFT JOIN {backlog} b ON b.replica = r.name AND r.draining_since IS NULL
ORDER BY r.primary_since IS NULL, r.name"
        )
    }

    async fn daemon_statuses(&self, limit: Duration) -> Result<Vec<DaemonStatus>, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = format!(
            "SELECT d.id, d.host, d.process_id, d.version,
       (({schema}.now_utc_micro_seconds() - d.started_at) / 1e6)::double precision AS up_seconds,
       d.alive_until > {schema}.now_utc_micro_seconds() AS alive, d.sleeping, d.wakeup, coalesce(l.leases, 0) AS leases
FROM {schema}.daemons d
LEFT JOIN (SELECT (lease >> {FENCE_RANDOM_BITS})::int AS id, count(*) AS leases
           FROM {schema}.object_copies WHERE lock IS NOT NULL GROUP BY 1) l USING (id)
ORDER BY d.id"
        );
        self.json_within(limit, format!("SELECT coalesce(json_agg(t), '[]')::text FROM ({sql}) t")).await
    }

    /// Rows as JSON, which serde reads by the columns' names.
    async fn fetch<T: DeserializeOwned>(&self, rows: String) -> Result<Vec<T>, DatabaseError> {
        let statement = "stats::status";
        let sql = trusted_sql(format!("-- {statement}\nSELECT coalesce(json_agg(t), '[]')::text FROM ({rows}) t"));
        let json: String = with_timeout(statement, sqlx::query_scalar(sql).fetch_one(&self.pool)).await?;
        serde_json::from_str(&json).map_err(|e| DatabaseError::Inconsistent { statement, what: e.to_string() })
    }
    /// One document; the server ends the statement after `limit`.
    pub(crate) async fn json_within<T: DeserializeOwned>(
        &self,
        limit: Duration,
        sql: String,
    ) -> Result<T, DatabaseError> {
        let statement = "stats::status";
        // One message, which the server runs as one transaction: three round trips less than BEGIN, SET LOCAL and
        // COMMIT.
        let sql = trusted_sql(format!(
            "-- {statement}\nSET LOCAL statement_timeout = '{}ms';\n{sql}",
            limit.as_millis().max(1)
        ));
        let asked = async { sqlx::raw_sql(sql).fetch_one(&self.pool).await?.try_get::<String, _>(0) };
        let json = within(limit + SLACK, statement, asked).await?;
        serde_json::from_str(&json).map_err(|e| DatabaseError::Inconsistent { statement, what: e.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_objects_are_known_as_the_figures_of_one_replica_count() {
        let replica = |recorded: Option<i64>, not_wanted: Option<i64>, backlog: Option<i64>| -> ReplicaStatus {
            serde_json::from_value(serde_json::json!({
                "replica": "b2", "primary": true, "paused": false,
                "recorded": recorded, "not_wanted": not_wanted, "backlog_objects": backlog,
            }))
            .unwrap()
        };
        assert_eq!(most_known(&[]), 0);
        let figures =
            [replica(Some(10), Some(0), Some(0)), replica(Some(3), Some(1), Some(7)), replica(None, None, Some(4))];
        assert_eq!(most_known(&figures), 11);
        // Estimated from a sample, they are no counts.
        let estimated = ReplicaStatus { recorded_estimated: Some(true), ..replica(Some(100), Some(0), Some(2)) };
        assert_eq!(most_known(&[estimated]), 2);
    }
}
