//! What this daemon may do with each replica: access, health and speed.
//!
//! Uses neither `claim` nor `attempt`. Inside: `gate → probe → health → {canary, job, store_health} → registry →
//! {access, adoption_clock, probe_copy, slow_targets, speed}`; each may use those to the right of it.

mod access;
mod adoption_clock;
mod canary;
mod gate;
mod health;
mod job;
mod probe;
mod probe_copy;
mod registry;
mod slow_targets;
mod speed;
mod store_health;

pub use access::{ReplicaAccess, ReplicaSnapshot};
pub use gate::ReplicaGate;
pub use health::{Diagnosis, FailedObject, HealthMonitor};
pub(super) use probe_copy::{ProbeCopy, ProbeCopyRequest, ProbeCopyResult};
pub(super) use registry::{ActiveRead, LaneChoice};
pub use registry::{Replica, ReplicaRegistry, TargetPermits};
pub use slow_targets::SlowCopies;
