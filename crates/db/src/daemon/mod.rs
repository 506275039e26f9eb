//! The table `daemons`: registration and heartbeat of each daemon, what it publishes, and whether it is idle.

pub(crate) mod idle;
pub(crate) mod peers;
pub(crate) mod registration;

pub use idle::IdleKind;
pub use peers::{Peer, PublishedConfig};
pub use registration::{Daemon, DaemonId};
