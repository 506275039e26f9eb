//! Permits for objects under way, some reserved for what was registered lately.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for a number of things at once. Some of it is kept for objects that were registered lately, so that an upload
/// in the middle of a large backfill does not wait behind it.
#[derive(Debug, Clone)]
pub struct Slots {
    any: Arc<Semaphore>,
    fresh: Arc<Semaphore>,
    count: usize,
}

/// Which room is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// For any object.
    Any,
    /// For those registered lately.
    Fresh,
}

/// Room for one; given back when dropped.
pub type Slot = OwnedSemaphorePermit;

impl Slots {
    /// `reserved` of `count` are for fresh objects alone; at least one is for any.
    #[must_use]
    pub fn new(count: usize, reserved: usize) -> Self {
        let of = |n| Arc::new(Semaphore::new(n));
        let any = count.saturating_sub(reserved).max(1);
        Self { any: of(any), fresh: of(reserved), count: any + reserved }
    }

    /// How many there are.
    #[must_use]
    pub fn free(&self, room: Room) -> usize {
        self.of(room).available_permits()
    }

    /// How many are taken, for whichever objects.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.count.saturating_sub(self.free(Room::Any) + self.free(Room::Fresh))
    }

    /// Up to `most` slots; none if there are none.
    #[must_use]
    pub fn take(&self, room: Room, most: usize) -> Vec<Slot> {
        let slots = self.of(room);
        std::iter::from_fn(|| Arc::clone(slots).try_acquire_owned().ok()).take(most).collect()
    }

    /// Waits for a slot. Whoever waits comes before those that only take what is free.
    pub async fn one(&self, room: Room) -> Slot {
        // Cannot fail: the semaphore is never closed.
        Arc::clone(self.of(room)).acquire_owned().await.expect("an open semaphore")
    }

    fn of(&self, room: Room) -> &Arc<Semaphore> {
        match room {
            Room::Any => &self.any,
            Room::Fresh => &self.fresh,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_stays_empty_when_all_else_is_taken() {
        let slots = Slots::new(8, 2);
        let any = slots.take(Room::Any, 100);
        assert_eq!(any.len(), 6);
        assert!(slots.take(Room::Any, 1).is_empty());
        let fresh = slots.take(Room::Fresh, 100);
        assert_eq!((fresh.len(), slots.taken()), (2, 8));
        drop((any, fresh));
        assert_eq!(slots.taken(), 0);
        assert_eq!(slots.take(Room::Any, 4).len(), 4);
    }
}
