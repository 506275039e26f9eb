use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::tally::Tally;
use crate::{
    domain::{Failure, ReplicaName},
    scan::Rate,
    store::Store,
};

/// So many copies in a row that could not be read, and the replica is given up: each may take a minute of silence.
const GIVE_UP_AFTER: u32 = 20;
/// From so many on nothing of it is tried twice.
const DOUBTFUL_FROM: u32 = 3;

/// A replica that is looked into.
#[derive(Debug, Clone)]
pub struct Subject {
    store: Arc<Store>,
    /// How far apart requests are; `None`: as many at once as there are readings.
    rate: Option<Arc<Rate>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    tally: Tally,
    failed_in_a_row: u32,
    /// Why nothing more is asked of it.
    gave_up: Option<String>,
}

impl Subject {
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store: Arc::new(store), rate: None, state: Arc::default() }
    }

    /// No more requests than this, and fewer while the store throttles.
    #[must_use]
    pub fn at_most_per_second(self, requests: f64) -> Self {
        Self { rate: Some(Arc::new(Rate::new(requests))), ..self }
    }

    #[must_use]
    pub fn name(&self) -> &ReplicaName {
        self.store.name()
    }

    /// What is known so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.lock().tally.clone()
    }

    /// Why it is not asked any more, if so.
    #[must_use]
    pub fn gave_up(&self) -> Option<String> {
        self.lock().gave_up.clone()
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn rate(&self) -> Option<&Rate> {
        self.rate.as_deref()
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.lock().tally);
    }

    /// It has told something of an object.
    pub(super) fn answered(&self) {
        self.lock().failed_in_a_row = 0;
    }

    pub(super) fn failed(&self, why: &Failure) {
        let mut state = self.lock();
        state.failed_in_a_row += 1;
        if state.failed_in_a_row >= GIVE_UP_AFTER && state.gave_up.is_none() {
            state.gave_up =
                Some(format!("{GIVE_UP_AFTER} copies in a row could not be read, the last: {}", why.message));
        }
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.lock().failed_in_a_row >= DOUBTFUL_FROM
    }

    /// A poisoned lock only means that somebody panicked between two of these short steps.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
