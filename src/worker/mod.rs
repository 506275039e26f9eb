//! Claims objects, copies them and records the results: where database and stores meet under a lease. `audit` uses both
//! without one.
//!
//! Three modules, each of which may use those to the right of it, none those to the left: `claim → attempt → replica`.
//! All three use `slots`, which uses none of them.
//!
//! A worker slot is taken before a row is claimed, so that no more is leased than can be worked on. An attempt gives it
//! back when its result is written; earlier if it only waits for a slow target or moves nothing. Probe copies need no
//! slot. No transaction is open while bytes move.

mod attempt;
mod claim;
mod replica;
mod slots;

pub use attempt::{
    AttemptResources, Completer, ContentChanges, Heartbeat, HeldLeases, JournalWriter, Journals, Rechecker,
    ReportWriter, Runner, TimeLimit, completer, journals,
};
pub use claim::{ClaimWakeups, Claimer, LaneQuery, LowWaterMark};
pub use replica::{
    HealthMonitor, Replica, ReplicaAccess, ReplicaGate, ReplicaRegistry, ReplicaSnapshot, SlowCopies, TargetPermits,
};
pub use slots::{SlotPool, Slots};
