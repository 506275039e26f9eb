//! The text beside the progress bar of `copyhold verify`.

use crate::{
    audit::{Audit, AuditedReplica, Counts},
    cli::output,
};

/// Beside the number of objects: what was read, and what is wrong so far.
pub(super) fn message(audit: &Audit) -> String {
    let counts: Vec<_> = audit.replicas().iter().map(AuditedReplica::counts).collect();
    let sum = |of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>();
    let bytes = output::bytes(i64::try_from(sum(|t| t.bytes_read)).unwrap_or(i64::MAX));
    let bad = [
        (sum(|t| t.missing), "missing"),
        (sum(|t| t.damaged), "damaged"),
        (sum(|t| t.other_metadata), "with other metadata"),
        (sum(|t| t.changed), "changed"),
        (sum(|t| t.unreadable), "unreadable"),
    ];
    let bad = bad.into_iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}"));
    [format!("{bytes} read")].into_iter().chain(bad).collect::<Vec<_>>().join(", ")
}
