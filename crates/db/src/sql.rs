//! Fragments of SQL that several statements share.

use copyhold_core::domain::{ReplicaName, SchemaName};
use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

/// A copy with this time in its `due` column is parked.
pub const PARKED: i64 = 9_000_000_000_000_000_000;

/// The lower bits of a fence are random, the upper ones are the id of the daemon: `lease >> 40`.
pub(crate) const FENCE_RANDOM_BITS: u32 = 40;

/// With these settings, an index scan in the wanted order is the only plan that is not disabled, and it is kept for the
/// session. Costs are set because disabling a plan only makes it expensive.
pub const PLANNER_SETTINGS: [(&str, &str); 10] = [
    ("enable_indexscan", "on"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_sort", "off"),
    ("enable_incremental_sort", "off"),
    ("seq_page_cost", "1"),
    ("random_page_cost", "1.1"),
    ("plan_cache_mode", "force_generic_plan"),
    // The planner would compile because of a long backlog, for a statement that takes a millisecond.
    ("jit", "off"),
    // An index-only scan is as good.
    ("enable_indexonlyscan", "on"),
];

/// Marks a statement as trusted: it is made of identifiers that [`ReplicaName`] and [`SchemaName`] have checked and
/// quoted. Values are always bound.
pub(crate) fn trusted_sql(text: String) -> SqlStr {
    AssertSqlSafe(text).into_sql_str()
}

/// True, and from here to its end the transaction does not wait for the disk. For writes that a crash may undo: a lost
/// claim is then a fence that no daemon holds, and writes under it are refused.
/// Not a SET clause of a function, whose effect would end before the commit.
pub(crate) const ASYNCHRONOUS: &str = "(SELECT set_config('synchronous_commit', 'off', true)) = 'off'";

/// The predicate of the lane's index, word for word, and that the row is due: anything else may become a Seq Scan.
pub(crate) fn claimable(schema: &SchemaName, lane: &ReplicaName) -> String {
    let (copy, due) = (lane.column(), lane.due_column());
    format!(
        "{copy} IS NULL AND {due} < {PARKED} AND lock IS NULL
            AND {due} <= {}.now_utc_micro_seconds()",
        schema.quoted()
    )
}

/// An array of the names of those replicas for which a condition holds.
pub(crate) fn names_of(replicas: &[ReplicaName], holds: impl Fn(&ReplicaName) -> String) -> String {
    let each = replicas.iter().map(|r| format!("CASE WHEN {} THEN '{r}' END", holds(r)));
    format!("array_remove(ARRAY[{}]::text[], NULL)", each.collect::<Vec<_>>().join(", "))
}
