//! The table `replicas`: state that all daemons share about one replica, and the commands that change it.

pub(crate) mod breaker;
pub(crate) mod change_guard;
pub(crate) mod drain;
pub(crate) mod list;
pub(crate) mod pause;
pub(crate) mod probe_keys;
pub(crate) mod promote;
pub(crate) mod reset;

pub use breaker::{Breaker, Probed};
pub use change_guard::{CHANGES_AT_MOST, CHANGES_WITHIN, ChangeAdmission, changes_are_parked, too_many_changes};
pub use drain::Drained;
pub use list::{Admission, CLEAR, Draining, Former, LOOK_HOLDS, ReplicaRow};
pub use pause::{Pause, Resumed};
pub use probe_keys::Pick;
pub use promote::{Primary, Promoted};
pub use reset::{Move, Reset, ResetOf, ResetPage};
