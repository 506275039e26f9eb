//! Permits for objects under way, some reserved for what was registered lately.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Slots for a number of objects at once. Some of it is kept for objects that were registered lately, so that an upload
/// in the middle of a large backfill does not wait behind it.
#[derive(Debug, Clone)]
pub struct Slots {
    general: Arc<Semaphore>,
    recent: Arc<Semaphore>,
    count: usize,
}

/// From which part of the slots to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotPool {
    /// For any object.
    General,
    /// For those registered lately.
    Recent,
}

/// A slot for one object; given back when dropped.
pub type Slot = OwnedSemaphorePermit;

impl Slots {
    /// `reserved` of `count` are for recently registered objects alone; at least one is for any.
    #[must_use]
    pub fn new(count: usize, reserved: usize) -> Self {
        let of = |n| Arc::new(Semaphore::new(n));
        let general = count.saturating_sub(reserved).max(1);
        Self { general: of(general), recent: of(reserved), count: general + reserved }
    }

    /// How many there are.
    #[must_use]
    pub fn free(&self, pool: SlotPool) -> usize {
        self.of(pool).available_permits()
    }

    /// How many are taken, in both pools.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.count.saturating_sub(self.free(SlotPool::General) + self.free(SlotPool::Recent))
    }

    /// Up to `most` slots; none if there are none.
    #[must_use]
    pub fn take(&self, pool: SlotPool, most: usize) -> Vec<Slot> {
        let slots = self.of(pool);
        std::iter::from_fn(|| Arc::clone(slots).try_acquire_owned().ok()).take(most).collect()
    }

    /// Waits for a slot. A waiting caller comes before callers of [`Slots::take`].
    pub async fn one(&self, pool: SlotPool) -> Slot {
        // Cannot fail: the semaphore is never closed.
        Arc::clone(self.of(pool)).acquire_owned().await.expect("an open semaphore")
    }

    fn of(&self, pool: SlotPool) -> &Arc<Semaphore> {
        match pool {
            SlotPool::General => &self.general,
            SlotPool::Recent => &self.recent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_stays_empty_when_all_else_is_taken() {
        let slots = Slots::new(8, 2);
        let general = slots.take(SlotPool::General, 100);
        assert_eq!(general.len(), 6);
        assert!(slots.take(SlotPool::General, 1).is_empty());
        let recent = slots.take(SlotPool::Recent, 100);
        assert_eq!((recent.len(), slots.taken()), (2, 8));
        drop((general, recent));
        assert_eq!(slots.taken(), 0);
        assert_eq!(slots.take(SlotPool::General, 4).len(), 4);
    }
}
