//! Counts the copies that are missing and recorded, per replica: the table and the view of the backlog.

use std::time::Duration;

use copyhold_core::domain::{ReplicaName, SchemaName, micros};

use crate::{
    connections::pools::STATEMENT_TIMEOUT,
    error::{DatabaseError, with_timeout, within},
    handle::Database,
    sql::{PARKED, trusted_sql},
};

const MISSING: &str = "stats::missing_at";

/// Counting may take this share of the time: a fiftieth.
const REST: u32 = 50;
/// Counting more often than this is useless.
const AT_MOST_EVERY: Duration = Duration::from_secs(2);

/// Below this size all pages of the table are read, else a sample of them: about [`SAMPLED_BYTES`].
const READ_BELOW_BYTES: i64 = 64 << 20;
const SAMPLED_BYTES: i64 = 32 << 20;

/// How long after the start of a count of this duration the next one may begin.
#[must_use]
pub fn count_interval(took: Duration) -> Duration {
    AT_MOST_EVERY.max(took * REST)
}

/// The replicas that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CountedReplicas {
    All,
    /// A draining replica lacks nothing; its rows are not even read.
    NotDraining,
}

/// The missing copies of a replica, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MissingCopies {
    /// Wanted copies that are not recorded; the following figures are parts of it.
    pub objects: i64,
    /// As far as sizes are known.
    pub bytes: i64,
    pub objects_of_unknown_size: i64,
    /// µs since the epoch: registration of the oldest of them.
    pub oldest_at: Option<i64>,
    pub in_flight: i64,
    pub waiting: i64,
    pub parked: i64,
}

/// One row per replica, counted from its partial indexes: the lane, the leased rows, the parked ones. Each is read
/// once, but it lacks sizes and times, so every row of the backlog is visited: about 0.15 s per million in cache.
fn counts(schema: &SchemaName, replicas: &[ReplicaName], counted: CountedReplicas) -> String {
    let schema = schema.quoted();
    let one = |r: &ReplicaName| {
        let (copy, due) = (r.column(), r.due_column());
        let stays = format!("(SELECT draining_since IS NULL FROM {schema}.replicas WHERE name = '{r}')");
        let (only, having) = match counted {
            CountedReplicas::All => (String::new(), String::new()),
            CountedReplicas::NotDraining => (format!(" AND {stays}"), format!("\nHAVING {stays}")),
        };
        let part = |flags: &str, condition: &str| {
            format!(
                "SELECT size_bytes, created_at, {flags} FROM {schema}.object_copies WHERE {copy} IS NULL AND {condition}{only}"
            )
        };
        let lane = part(
            &format!("false AS held, {due} > {schema}.now_utc_micro_seconds() AS waits, false AS parked"),
            &format!("{due} < {PARKED} AND lock IS NULL"),
        );
        let held = part("true, false, false", &format!("{due} < {PARKED} AND lock IS NOT NULL"));
        let parked = part("false, false, true", &format!("{due} = {PARKED}"));
        format!(
            "SELECT '{r}'::text AS replica, count(*) AS objects, coalesce(sum(size_bytes), 0)::bigint AS bytes,
       count(*) FILTER (WHERE size_bytes IS NULL) AS objects_of_unknown_size,
       to_timestamp(min(created_at) / 1e6) AS oldest_registration,
       count(*) FILTER (WHERE held) AS in_flight, count(*) FILTER (WHERE waits) AS waiting,
       count(*) FILTER (WHERE parked) AS parked
  FROM ({lane} UNION ALL {held} UNION ALL {parked}) AS b{having}"
        )
    };
    replicas.iter().map(one).collect::<Vec<_>>().join("\nUNION ALL\n")
}

/// The view that counts when it is read.
pub(crate) fn exact_view(schema: &SchemaName, replicas: &[ReplicaName]) -> String {
    let view = format!("{}.backlog_exact", schema.quoted());
    format!(
        "CREATE OR REPLACE VIEW {view} AS\n{};
COMMENT ON VIEW {view} IS
    'The figures of the table backlog, counted at this moment, without replicas that are draining. It visits every row that lacks a copy, about 0.15 s per million and replica when they are in cache: for a look, not for a dashboard.'",
        counts(schema, replicas, CountedReplicas::NotDraining)
    )
}

/// An expression: the share of the table's pages that a sample reads, in percent.
pub(crate) fn sampled_percent(schema: &SchemaName) -> String {
    let size = format!("pg_catalog.pg_relation_size(pg_catalog.to_regclass('{}.object_copies'))", schema.quoted());
    format!("(CASE WHEN {size} < {READ_BELOW_BYTES} THEN 100 ELSE 100.0 * {SAMPLED_BYTES} / {size} END)::float8")
}

/// CTEs that end in `recorded`, with a row for each of `replicas`, and `total`, with the number of objects: counted if
/// `percent`, an expression, is 100, else estimated from a sample of the pages. In a statement that also counts the
/// backlog, all figures are of one moment. `among`: what precedes the sample in its FROM, and the condition for taking
/// it.
pub(crate) fn recorded_ctes(
    schema: &SchemaName,
    replicas: &[ReplicaName],
    percent: &str,
    (among, condition): (&str, &str),
) -> String {
    let table = format!("{}.object_copies", schema.quoted());
    let each = |what: &dyn Fn(&ReplicaName) -> String| replicas.iter().map(what).collect::<Vec<_>>().join(", ");
    let names = each(&|r| format!("'{r}'"));
    let recorded = each(&|r| format!("count({})", r.column()));
    let not_wanted =
        each(&|r| format!("count(*) FILTER (WHERE {} IS NULL AND {} IS NULL)", r.column(), r.due_column()));
    let not_compared = each(&|r| format!("count({}) FILTER (WHERE metadata_hash IS NULL)", r.column()));
    // By the share among the sampled rows, not by the share of the pages: a figure that all rows have then equals the
    // total.
    let whole = |figure: &str| {
        format!(
            "CASE WHEN {percent} >= 100 THEN v.{figure}
            ELSE round(v.{figure}::float8 / greatest(s.rows, 1) * t.objects)::bigint END AS {figure}"
        )
    };
    format!(
        "sample AS MATERIALIZED (
    SELECT s.* FROM {among} LATERAL (
        SELECT count(*) AS rows, ARRAY[{recorded}]::bigint[] AS recorded, ARRAY[{not_wanted}]::bigint[] AS not_wanted,
               ARRAY[{not_compared}]::bigint[] AS not_compared
          FROM {table} TABLESAMPLE SYSTEM (({percent})::real) WHERE {condition}) s
),
total AS MATERIALIZED (
    SELECT CASE WHEN {percent} >= 100 THEN s.rows
                -- As the planner estimates it.
                WHEN c.relpages > 0 AND c.reltuples >= 0
                THEN (c.reltuples / c.relpages * (pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::bigint))::bigint
                ELSE (s.rows * 100 / {percent})::bigint END AS objects
      FROM sample s, pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass('{table}')
),
recorded AS (
    SELECT v.replica, {percent} < 100 AS estimated, {recorded_of},
           {not_wanted_of},
           {not_compared_of}
      FROM sample s, total t,
           unnest(ARRAY[{names}]::text[], s.recorded, s.not_wanted, s.not_compared)
               AS v(replica, recorded, not_wanted, metadata_not_compared)
)",
        recorded_of = whole("recorded"),
        not_wanted_of = whole("not_wanted"),
        not_compared_of = whole("metadata_not_compared"),
    )
}

type MissingRow = (i64, i64, i64, Option<i64>, i64, i64, i64);

impl Database {
    /// Counts what these replicas lack at this moment, draining or not, in their order. It visits every row that lacks
    /// such a copy.
    pub async fn missing_at(&self, replicas: &[ReplicaName]) -> Result<Vec<MissingCopies>, DatabaseError> {
        let sql = trusted_sql(format!(
            "-- {MISSING}
SELECT c.objects, c.bytes, c.objects_of_unknown_size, (extract(epoch FROM c.oldest_registration) * 1000000)::bigint,
       c.in_flight, c.waiting, c.parked
FROM ({}) AS c ORDER BY array_position($1::text[], c.replica)",
            counts(&self.schema, replicas, CountedReplicas::All)
        ));
        let names = replicas.iter().map(ReplicaName::as_str).collect::<Vec<_>>();
        let query = sqlx::query_as(sql).bind(names).fetch_all(&self.pool);
        let rows: Vec<MissingRow> = within(STATEMENT_TIMEOUT + Duration::from_secs(5), MISSING, query).await?;
        let missing = |(objects, bytes, objects_of_unknown_size, oldest_at, in_flight, waiting, parked)| {
            MissingCopies { objects, bytes, objects_of_unknown_size, oldest_at, in_flight, waiting, parked }
        };
        Ok(rows.into_iter().map(missing).collect())
    }

    /// Counts the backlog if a count is due and no other daemon does it. Returns whether it counted.
    pub async fn refresh_backlog(&self) -> Result<bool, DatabaseError> {
        let schema = self.schema.quoted();
        // A separate query: where sessions use JIT, even a skipped count would cost half a second of compilation.
        let due = trusted_sql(format!(
            "-- stats::backlog_is_due
SELECT CASE WHEN NOT EXISTS (SELECT FROM {schema}.backlog
                              WHERE as_of + greatest($1 * interval '1 microsecond', took * {REST}) > statement_timestamp())
            THEN {percent} END",
            percent = sampled_percent(&self.schema),
        ));
        let due = sqlx::query_scalar(due).bind(micros(AT_MOST_EVERY));
        let percent: Option<f64> = with_timeout("stats::backlog_is_due", due.fetch_one(&self.pool)).await?;
        let Some(percent) = percent else { return Ok(false) };
        let sql = trusted_sql(format!(
            "-- stats::refresh_backlog
WITH duty AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))
           AND NOT EXISTS (SELECT FROM {schema}.backlog
                           WHERE as_of + greatest($2 * interval '1 microsecond', took * {REST}) > statement_timestamp())
           AS mine
),
counted AS MATERIALIZED (
    SELECT c.* FROM duty, LATERAL (SELECT * FROM {schema}.backlog_exact WHERE duty.mine) c
),
{recorded},
-- of replicas that are draining, or gone
uncounted AS (
    DELETE FROM {schema}.backlog b USING duty
     WHERE duty.mine AND NOT EXISTS (SELECT FROM counted c WHERE c.replica = b.replica)
)
INSERT INTO {schema}.backlog AS b
       (replica, objects, bytes, objects_of_unknown_size, oldest_registration, in_flight, waiting, parked, as_of, took,
        recorded, not_wanted, metadata_not_compared, estimated, recorded_as_of)
SELECT c.replica, c.objects, c.bytes, c.objects_of_unknown_size, c.oldest_registration,
       c.in_flight, c.waiting, c.parked, statement_timestamp(), clock_timestamp() - statement_timestamp(),
       r.recorded, r.not_wanted, r.metadata_not_compared, r.estimated, statement_timestamp()
FROM counted c LEFT JOIN recorded r USING (replica)
ON CONFLICT (replica) DO UPDATE
   SET objects = excluded.objects, bytes = excluded.bytes,
       objects_of_unknown_size = excluded.objects_of_unknown_size,
       oldest_registration = excluded.oldest_registration, in_flight = excluded.in_flight,
       waiting = excluded.waiting, parked = excluded.parked, as_of = excluded.as_of, took = excluded.took,
       recorded = excluded.recorded, not_wanted = excluded.not_wanted,
       metadata_not_compared = excluded.metadata_not_compared, estimated = excluded.estimated,
       recorded_as_of = excluded.recorded_as_of",
            recorded = recorded_ctes(&self.schema, &self.replicas, "$3::float8", ("duty,", "duty.mine")),
        ));
        // The server's own limit comes first: a statement given up only here would go on counting there.
        let written = within(
            STATEMENT_TIMEOUT + Duration::from_secs(5),
            "stats::refresh_backlog",
            sqlx::query(sql)
                .bind(format!("{}:backlog", self.schema))
                .bind(micros(AT_MOST_EVERY))
                .bind(percent)
                .execute(&self.pool),
        )
        .await?;
        Ok(written.rows_affected() > 0)
    }
}
