//! The SQL of claims. `migrate` turns the statements of a lane into functions.

use copyhold_core::domain::{ReplicaName, SchemaName, micros};
use sqlx::SqlStr;

use super::FRESH;
use crate::sql::{ASYNCHRONOUS, PARKED, claimable, names_of, trusted_sql};

/// The columns that a claim returns for each row, with their types in PostgreSQL. Replicas are returned by name: the
/// functions know all replicas of the schema, a daemon those of its configuration, in their order.
pub(crate) const COLUMNS: [(&str, &str); 15] = [
    ("object_key", "text"),
    ("generation", "bigint"),
    ("size_bytes", "bigint"),
    ("content_hash", "bigint"),
    ("metadata_hash", "bigint"),
    ("source_replica", "text"),
    ("source_modified", "bigint"),
    ("source_tag", "bigint"),
    ("lane_due", "bigint"),
    ("id", "bigint"),
    ("age", "double precision"),
    ("recorded", "text[]"),
    ("due", "text[]"),
    ("failures", "text"),
    ("swept", "integer"),
];

/// Claims rows of a lane from a position on, oldest due first: `$1` rows at most, `$2` lease in µs, `$3` fence, `$4`
/// and `$5` the position.
/// Without the position, a claim scans all dead index entries at the front of the lane, which a long transaction keeps
/// from being vacuumed: 7 claims/s instead of 1,041.
pub(crate) fn oldest_first(schema: &SchemaName, replicas: &[ReplicaName], lane: &ReplicaName) -> String {
    let due = lane.due_column();
    let chosen = format!(
        "SELECT object_key FROM {0}.object_copies
          WHERE {1}
            AND ({due}, id) > ($4::bigint, $5::bigint)
          ORDER BY {due}, id
          LIMIT $1::bigint
          FOR NO KEY UPDATE SKIP LOCKED",
        schema.quoted(),
        claimable(schema, lane)
    );
    statement(schema, replicas, Some(lane), &chosen)
}

/// Claims objects that were registered lately, the latest first: `$1` rows at most, `$2` lease in µs, `$3` fence.
/// Rows that return from a back-off lie among them. The claim scans four times as many rows as are wanted: that bounds
/// the cost of a lane full of such rows.
pub(crate) fn fresh(schema: &SchemaName, replicas: &[ReplicaName], lane: &ReplicaName) -> String {
    let due = lane.due_column();
    let chosen = format!(
        "SELECT object_key FROM (
             SELECT object_key, created_at FROM {0}.object_copies
              WHERE {1}
              ORDER BY {due} DESC, id DESC
              LIMIT 4 * $1::bigint
              FOR NO KEY UPDATE SKIP LOCKED) AS newest
          WHERE created_at > {0}.now_utc_micro_seconds() - {2}
          LIMIT $1::bigint",
        schema.quoted(),
        claimable(schema, lane),
        micros(FRESH)
    );
    statement(schema, replicas, Some(lane), &chosen)
}

/// Claims rows by key, whatever they lack: `$1` keys, `$2` lease in µs, `$3` fence.
pub(crate) fn these(schema: &SchemaName, replicas: &[ReplicaName]) -> SqlStr {
    let chosen = format!(
        "SELECT object_key FROM {}.object_copies
          WHERE object_key = ANY ($1::text[]) AND lock IS NULL AND {ASYNCHRONOUS}
          FOR NO KEY UPDATE SKIP LOCKED",
        schema.quoted()
    );
    trusted_sql(format!("-- lease::claim_these\n{}", statement(schema, replicas, None, &chosen)))
}

/// Leases the rows that `chosen` selects.
///
/// `= ANY(ARRAY(…))` and not a CTE, which took 2.3 s at 10M rows under a generic plan instead of 0.8 ms.
fn statement(schema: &SchemaName, replicas: &[ReplicaName], lane: Option<&ReplicaName>, chosen: &str) -> String {
    let schema = schema.quoted();
    let lane_due = lane.map_or_else(|| "NULL::bigint".into(), |lane| format!("o.{}", lane.due_column()));
    let recorded = names_of(replicas, |r| format!("o.{} IS NOT NULL", r.column()));
    let due = names_of(replicas, |r| {
        format!("o.{} IS NULL AND o.{} <= {schema}.now_utc_micro_seconds()", r.column(), r.due_column())
    });
    format!(
        "UPDATE {schema}.object_copies o
   SET lock = {schema}.now_utc_micro_seconds() + $2::bigint, lease = $3::bigint
 WHERE o.object_key = ANY (ARRAY(
         {chosen}))
   AND o.lock IS NULL
RETURNING o.object_key, o.generation, o.size_bytes, o.content_hash, o.metadata_hash,
       o.source_replica, o.source_modified, o.source_tag, {lane_due} AS lane_due, o.id,
       (({schema}.now_utc_micro_seconds() - o.created_at) / 1e6)::double precision AS age,
       {recorded} AS recorded,
       {due} AS due,
       (SELECT json_object_agg(f.replica, json_build_array(f.class, f.attempts))::text
          FROM {schema}.copy_failures f
         WHERE f.object_key = o.object_key AND f.generation = o.generation) AS failures,
       (SELECT CASE WHEN s.generation = o.generation THEN s.times ELSE 0 END
          FROM {schema}.swept_leases s WHERE s.object_key = o.object_key) AS swept"
    )
}

/// For each replica, µs until the first waiting copy of its lane is due; NULL: none waits.
pub(crate) fn next_due(schema: &SchemaName, replicas: &[ReplicaName]) -> String {
    let schema = schema.quoted();
    let lane = |r: &ReplicaName| {
        let (copy, due) = (r.column(), r.due_column());
        format!(
            "SELECT '{r}'::text AS replica, (
         SELECT {due} - {schema}.now_utc_micro_seconds() FROM {schema}.object_copies
         WHERE {copy} IS NULL AND {due} < {PARKED} AND lock IS NULL AND {due} > {schema}.now_utc_micro_seconds()
         ORDER BY {due}, id LIMIT 1) AS wait_us"
        )
    };
    let lanes: Vec<_> = replicas.iter().map(lane).collect();
    lanes.join("\nUNION ALL\n")
}
