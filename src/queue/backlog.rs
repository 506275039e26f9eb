use std::time::Duration;

use super::{
    PARKED, Queue, QueueError, STATEMENT_TIMEOUT, built,
    error::{limited, within},
    micros,
};
use crate::domain::{ReplicaName, SchemaName};

/// Counting may take this share of the time: a fiftieth.
const REST: u32 = 50;
/// And is not worth doing more often than this.
const AT_MOST_EVERY: Duration = Duration::from_secs(2);

/// One row per replica, counted from its partial indexes: the lane, what is leased, what is parked. Each is read once,
/// but bytes and times are not in them, so every row of the backlog is visited: about 0.15 s per million in cache.
fn counts(schema: &SchemaName, replicas: &[ReplicaName]) -> String {
    let schema = schema.quoted();
    let one = |r: &ReplicaName| {
        let (copy, due) = (r.column(), r.due_column());
        let part = |flags: &str, condition: &str| {
            format!(
                "SELECT size_bytes, created_at, {flags} FROM {schema}.object_copies WHERE {copy} IS NULL AND {condition}"
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
  FROM ({lane} UNION ALL {held} UNION ALL {parked}) AS b"
        )
    };
    replicas.iter().map(one).collect::<Vec<_>>().join("\nUNION ALL\n")
}

/// The view that counts at once.
pub(super) fn exact_view(schema: &SchemaName, replicas: &[ReplicaName]) -> String {
    let view = format!("{}.backlog_exact", schema.quoted());
    format!(
        "CREATE OR REPLACE VIEW {view} AS\n{};
COMMENT ON VIEW {view} IS
    'The figures of the table backlog, counted at this moment. It visits every row that lacks a copy, about 0.15 s per million and replica when they are in cache: for a look, not for a dashboard.'",
        counts(schema, replicas)
    )
}

impl Queue {
    /// Counts the backlog anew if that is due and no other daemon is at it. Whether it was.
    pub async fn refresh_backlog(&self) -> Result<bool, QueueError> {
        let schema = self.schema.quoted();
        // Asked apart: where sessions compile what is dear, not counting would cost half a second too.
        let due = built(format!(
            "-- queue::backlog_is_due
SELECT NOT EXISTS (SELECT FROM {schema}.backlog
                   WHERE as_of + greatest($1 * interval '1 microsecond', took * {REST}) > statement_timestamp())"
        ));
        let due = sqlx::query_scalar(due).bind(micros(AT_MOST_EVERY));
        if !limited("queue::backlog_is_due", due.fetch_one(&self.pool)).await? {
            return Ok(false);
        }
        let sql = built(format!(
            "-- queue::refresh_backlog
WITH duty AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))
           AND NOT EXISTS (SELECT FROM {schema}.backlog
                           WHERE as_of + greatest($2 * interval '1 microsecond', took * {REST}) > statement_timestamp())
           AS mine
),
counted AS MATERIALIZED (
    SELECT c.* FROM duty, LATERAL (SELECT * FROM {schema}.backlog_exact WHERE duty.mine) c
)
INSERT INTO {schema}.backlog AS b
SELECT c.replica, c.objects, c.bytes, c.objects_of_unknown_size, c.oldest_registration,
       c.in_flight, c.waiting, c.parked, statement_timestamp(), clock_timestamp() - statement_timestamp()
FROM counted c
ON CONFLICT (replica) DO UPDATE
   SET objects = excluded.objects, bytes = excluded.bytes,
       objects_of_unknown_size = excluded.objects_of_unknown_size,
       oldest_registration = excluded.oldest_registration, in_flight = excluded.in_flight,
       waiting = excluded.waiting, parked = excluded.parked, as_of = excluded.as_of, took = excluded.took"
        ));
        // The server's own limit comes first: given up here alone, it would go on counting there.
        let written = within(
            STATEMENT_TIMEOUT + Duration::from_secs(5),
            "queue::refresh_backlog",
            sqlx::query(sql).bind(format!("{}:backlog", self.schema)).bind(micros(AT_MOST_EVERY)).execute(&self.pool),
        )
        .await?;
        Ok(written.rows_affected() > 0)
    }
}
