//! How many connections there may be. When all places are taken, the connection that has kept silent for longest makes room:
//! however many are opened and left silent, whoever asks something is answered.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

/// With fewer places left, whoever has been answered gives up its place at once.
const FEW: usize = 512;

pub(super) struct Places {
    most: usize,
    taken: Arc<AtomicUsize>,
    /// In the order in which they came; those that have asked something, or have left, are passed over.
    silent: Mutex<VecDeque<Weak<Guest>>>,
}

/// The place of one connection, free again when this is dropped.
pub(super) struct Place {
    guest: Arc<Guest>,
    taken: Arc<AtomicUsize>,
    /// There were so many left that it need not hurry.
    pub(super) may_linger: bool,
}

#[derive(Default)]
struct Guest {
    used: AtomicBool,
    wanted: CancellationToken,
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: Arc::default(), silent: Mutex::default() }
    }

    /// `None`: all are taken by connections that have something to do.
    pub(super) fn take(&self) -> Option<Place> {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if self.taken.load(Ordering::Relaxed) >= self.most {
            next_silent(&mut silent)?.wanted.cancel();
        }
        // Those at the front that are no longer silent would otherwise stay for as long as nothing is full.
        if let Some(first) = next_silent(&mut silent) {
            silent.push_front(Arc::downgrade(&first));
        }
        let guest = Arc::new(Guest::default());
        silent.push_back(Arc::downgrade(&guest));
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        Some(Place { guest, taken: self.taken.clone(), may_linger: taken + FEW < self.most })
    }
}

fn next_silent(silent: &mut VecDeque<Weak<Guest>>) -> Option<Arc<Guest>> {
    std::iter::from_fn(|| silent.pop_front()).find_map(|guest| guest.upgrade().filter(|guest| !guest.is_used()))
}

impl Guest {
    fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }
}

impl Place {
    /// It has asked something, and keeps its place from now on.
    pub(super) fn is_used(&self) {
        self.guest.used.store(true, Ordering::Relaxed);
    }

    /// Returns when it has to make room.
    pub(super) async fn is_wanted(&self) {
        self.guest.wanted.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_wanted(place: &Place) -> bool {
        place.guest.wanted.is_cancelled()
    }

    #[test]
    fn the_connection_that_has_been_silent_for_longest_makes_room() {
        let places = Places::new(3);
        let [asking, silent, later] = [(); 3].map(|()| places.take().unwrap());
        asking.is_used();
        let fourth = places.take().unwrap();
        assert!(is_wanted(&silent) && !is_wanted(&asking) && !is_wanted(&later));
        drop(silent);
        let fifth = places.take().unwrap();
        assert!(is_wanted(&later) && !is_wanted(&asking) && !is_wanted(&fourth) && !is_wanted(&fifth));
    }

    #[test]
    fn nobody_who_asked_something_makes_room_and_the_next_is_refused() {
        let places = Places::new(2);
        let held = [(); 2].map(|()| places.take().unwrap());
        held.iter().for_each(Place::is_used);
        assert!(places.take().is_none());
        drop(held);
        assert!(places.take().is_some());
    }
}
