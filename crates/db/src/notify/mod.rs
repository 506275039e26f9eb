//! NOTIFY and LISTEN: the channels, the payloads, and the connection that listens.
//!
//! A notification is only a hint: every daemon also polls.

pub(crate) mod listen;
pub(crate) mod notification;

pub use listen::{ListenConnection, ListenError, ProbeTiming};
pub use notification::{Channels, ListenEvent, Notification};
