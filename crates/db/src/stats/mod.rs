//! Figures for metrics and `copyhold status`: backlog, failures, and where the daemons' configurations differ.

pub(crate) mod backlog;
pub(crate) mod differences;
pub(crate) mod failing;
pub(crate) mod status;

pub use backlog::{MissingCopies, count_interval};
pub use differences::{DaemonIds, Difference, list_daemons};
pub use failing::{FailingCopy, FailingCount};
pub use status::{BreakerStatus, DaemonStatus, Figures, ReplicaStatus, ResetStatus, Status, UnreadPart};
