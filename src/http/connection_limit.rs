//! Bounds the number of connections. When all slots are taken, the connection that has been silent for longest is
//! closed: however many clients open connections and send nothing, a request is answered.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

/// With fewer slots left, a connection is closed right after its answer.
const FEW: usize = 512;

pub(super) struct ConnectionLimit {
    most: usize,
    taken: Arc<AtomicUsize>,
    /// In the order in which they were opened; those that have sent a request, or have ended, are skipped.
    silent: Mutex<VecDeque<Weak<ConnectionState>>>,
}

/// The slot of one connection, free again when this is dropped.
pub(super) struct ConnectionSlot {
    state: Arc<ConnectionState>,
    taken: Arc<AtomicUsize>,
    /// Enough slots were left, so that it may stay open after its answer.
    pub(super) may_linger: bool,
}

#[derive(Default)]
struct ConnectionState {
    used: AtomicBool,
    close: CancellationToken,
}

impl ConnectionLimit {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: Arc::default(), silent: Mutex::default() }
    }

    /// `None`: all are taken by connections that have sent a request.
    pub(super) fn take(&self) -> Option<ConnectionSlot> {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if self.taken.load(Ordering::Relaxed) >= self.most {
            next_silent(&mut silent)?.close.cancel();
        }
        // Those at the front that are no longer silent would otherwise stay for as long as nothing is full.
        if let Some(first) = next_silent(&mut silent) {
            silent.push_front(Arc::downgrade(&first));
        }
        let state = Arc::new(ConnectionState::default());
        silent.push_back(Arc::downgrade(&state));
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        Some(ConnectionSlot { state, taken: self.taken.clone(), may_linger: taken + FEW < self.most })
    }
}

fn next_silent(silent: &mut VecDeque<Weak<ConnectionState>>) -> Option<Arc<ConnectionState>> {
    std::iter::from_fn(|| silent.pop_front()).find_map(|state| state.upgrade().filter(|state| !state.is_used()))
}

impl ConnectionState {
    fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }
}

impl ConnectionSlot {
    /// Records that it has sent a request, and keeps its slot from now on.
    pub(super) fn is_used(&self) {
        self.state.used.store(true, Ordering::Relaxed);
    }

    /// Returns when the connection must be closed to free its slot.
    pub(super) async fn must_close(&self) {
        self.state.close.cancelled().await;
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn must_close(place: &ConnectionSlot) -> bool {
        place.state.close.is_cancelled()
    }

    #[test]
    fn the_connection_that_has_been_silent_for_longest_makes_room() {
        let limit = ConnectionLimit::new(3);
        let [asking, silent, later] = [(); 3].map(|()| limit.take().unwrap());
        asking.is_used();
        let fourth = limit.take().unwrap();
        assert!(must_close(&silent) && !must_close(&asking) && !must_close(&later));
        drop(silent);
        let fifth = limit.take().unwrap();
        assert!(must_close(&later) && !must_close(&asking) && !must_close(&fourth) && !must_close(&fifth));
    }

    #[test]
    fn a_connection_that_sent_a_request_is_not_closed_and_the_next_is_refused() {
        let limit = ConnectionLimit::new(2);
        let held = [(); 2].map(|()| limit.take().unwrap());
        held.iter().for_each(ConnectionSlot::is_used);
        assert!(limit.take().is_none());
        drop(held);
        assert!(limit.take().is_some());
    }
}
