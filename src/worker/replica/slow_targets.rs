//! The bounds of slow and stuck copies: how much memory those hold that only wait for a slow target, and how many are
//! stuck.

use std::sync::Arc;

use copyhold_s3::copy::{Memory, SlowTargetMemory, WHOLE_UP_TO};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The copies that only wait for a slow target, or for a store that does not answer.
///
/// Their worker slots are free for other objects. Together they hold at most half of the memory, and no more of them
/// are stuck than there are workers.
#[derive(Debug, Clone)]
pub struct SlowCopies {
    memory: Memory,
    stuck: Arc<Semaphore>,
}

impl SlowCopies {
    /// At most `workers` copies may be stuck.
    #[must_use]
    pub fn new(memory: &Memory, workers: usize) -> Self {
        Self { memory: memory.clone(), stuck: Arc::new(Semaphore::new(workers)) }
    }

    /// Returns whether another object might find no room.
    pub(in crate::worker) fn are_full(&self) -> bool {
        !self.memory.may_linger(WHOLE_UP_TO)
    }

    /// Counts an object whose `bytes` stay in memory; `None`: there is no room for it.
    pub(in crate::worker) fn admit_slow(&self, bytes: u64) -> Option<SlowTargetMemory> {
        self.memory.linger(bytes)
    }

    /// Counts an object as stuck; `None`: as many are stuck as may be.
    pub(in crate::worker) fn admit_stuck(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.stuck).try_acquire_owned().ok()
    }
}
