//! The event log: what appends to it, reads it, moves other programs' events into it, and drops what is too old.

pub(crate) mod append;
pub(crate) mod inbox;
pub(crate) mod read;
pub(crate) mod retention;

pub use inbox::InboxMove;
pub use read::{LOG_PAGE, LogHead, LogMark, LogPart, LogStatus, LoggedEvent};
pub use retention::{LogDuty, Retention};
