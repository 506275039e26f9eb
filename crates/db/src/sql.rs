//! Pieces of SQL that several statements have in common.

use copyhold_core::domain::{ReplicaName, SchemaName};

use super::PARKED;

/// True, and from here to its end the transaction does not wait for the disk. For what a crash may take back: a claim
/// is then a number that nobody has, and whatever its holder writes is refused.
///
/// Not a SET clause of a function, whose effect would end before the commit.
pub(super) const ASYNCHRONOUS: &str = "(SELECT set_config('synchronous_commit', 'off', true)) = 'off'";

/// The lane's own predicate, word for word, and that the time has come: anything else may become a Seq Scan.
pub(super) fn claimable(schema: &SchemaName, lane: &ReplicaName) -> String {
    let (copy, due) = (lane.column(), lane.due_column());
    format!(
        "{copy} IS NULL AND {due} < {PARKED} AND lock IS NULL
            AND {due} <= {}.now_utc_micro_seconds()",
        schema.quoted()
    )
}

/// An array of the names of those replicas of which a condition holds.
pub(super) fn names_of(replicas: &[ReplicaName], holds: impl Fn(&ReplicaName) -> String) -> String {
    let each = replicas.iter().map(|r| format!("CASE WHEN {} THEN '{r}' END", holds(r)));
    format!("array_remove(ARRAY[{}]::text[], NULL)", each.collect::<Vec<_>>().join(", "))
}
