//! The table `replicas`: state that all daemons share about one replica, and the commands that change it.

pub(crate) mod breaker;
pub(crate) mod change_guard;
pub(crate) mod drain;
pub(crate) mod list;
pub(crate) mod pause;
pub(crate) mod probe_keys;
pub(crate) mod promote;
pub(crate) mod reset;

pub use breaker::{Breaker, ProbeResult};
pub use change_guard::{CHANGES_AT_MOST, CHANGES_WITHIN, ChangeAdmission, changes_are_parked, too_many_changes};
pub use drain::DrainResult;
pub use list::{Admission, DrainState, FormerPrimary, INSPECTION_VALID_FOR, ReplicaRow, WRITE_DELAY};
pub use pause::{Pause, ResumeResult};
pub use probe_keys::ProbeKeyChoice;
pub use promote::{Primary, PromoteResult};
pub use reset::{BucketMove, Reset, ResetKeys, ResetPage};
