//! Compares what is on record with what the stores have, and revokes records that are false.
//!
//! Holds no lease and keeps no row while a store is read: what it concludes is written only if the row has not
//! changed. What a store does not let be read is unknown, never damage. Holds one frame per copy that is
//! being read, and of findings only so many as are listed.

mod apply;
mod audited_replica;
mod counts;
mod in_order;
mod inspect;
mod metadata;
mod run;
mod verdict;

pub use audited_replica::AuditedReplica;
pub use counts::{Action, Counts, Defect, Finding, Findings, MatchGrade, UnreadableCopy};
pub use inspect::Depth;
pub use run::{Audit, AuditResult, Objects};
