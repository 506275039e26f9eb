//! The end of the log as the tailer saw it last.

use copyhold_core::domain::{Cursor, Epoch};

/// The end of the log as the tailer saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogPosition {
    pub(super) epoch: Epoch,
    pub(super) incarnation: i32,
    /// Up to here everything was read; the ring ends here.
    pub(super) head: i64,
    /// Up to here events may be gone.
    pub(super) dropped_through: i64,
}

impl LogPosition {
    pub(super) fn head(&self) -> Cursor {
        Cursor::new(self.head, self.epoch)
    }

    /// Nothing that is left comes before it.
    pub(super) fn earliest(&self) -> Cursor {
        Cursor::new(self.dropped_through, self.epoch)
    }
}
