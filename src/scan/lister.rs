//! Lists the pages of one bucket, retries them, and slows down where the store throttles.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use copyhold_core::domain::{FailureClass, ReplicaName};
use copyhold_s3::store::{ListPage, ListPosition, ListQuery, Profile, Store};
use tokio::time::Instant;

use super::{
    error::{ListingError, PageAt},
    rate::RequestSpacing,
};

/// Attempts at one page that fails with a transient error, ...
const TRIES: u32 = 6;
/// ... the second this much later, and each further one twice as long: a store may be unavailable for some 15 s.
const PAUSE: Duration = Duration::from_millis(500);
/// The scan gives up on a store that only throttles after this time.
const THROTTLED_FOR: Duration = Duration::from_mins(10);

/// Lists one bucket for all parts of a scan, and spares its store.
#[derive(Debug)]
pub struct Lister {
    store: Store,
    rate: RequestSpacing,
    notes: Mutex<ListingStats>,
    answered_at: Mutex<Option<Instant>>,
}

/// The figures of a store in a report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListingStats {
    /// Pages that it returned.
    pub pages: u64,
    /// How often it asked to be spared.
    pub throttled: u64,
    /// It ignores `start-after` and lists from the beginning.
    pub ignores_start_after: bool,
    /// Why its listing is not used any more.
    pub given_up: Option<String>,
}

impl Lister {
    /// `per_second`: requests at most, more than zero.
    #[must_use]
    pub fn new(store: Store, per_second: f64) -> Self {
        Self { store, rate: RequestSpacing::new(per_second), notes: Mutex::default(), answered_at: Mutex::default() }
    }

    #[must_use]
    pub fn name(&self) -> &ReplicaName {
        self.store.name()
    }

    #[must_use]
    pub fn notes(&self) -> ListingStats {
        lock(&self.notes).clone()
    }

    pub(super) fn profile(&self) -> &Profile {
        self.store.profile()
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut ListingStats)) {
        change(&mut lock(&self.notes));
    }

    /// Returns one page, and when it was requested. May be dropped at any time.
    /// `behind`: the last key before it.
    pub(super) async fn page(
        &self,
        asked: ListQuery<'_>,
        from: &ListPosition,
        behind: Option<&[u8]>,
    ) -> Result<(ListPage, Instant), ListingError> {
        let failed = |error| {
            let place = PageAt { number: lock(&self.notes).pages + 1, behind: behind.map(<[u8]>::to_vec) };
            ListingError::Store { place, error: Box::new(error) }
        };
        let (mut failures, mut pause, begun) = (0, PAUSE, Instant::now());
        loop {
            self.rate.turn().await;
            let asked_at = Instant::now();
            let error = match self.store.list(asked, from).await {
                Ok(page) => {
                    self.rate.succeeded();
                    *lock(&self.answered_at) = Some(Instant::now());
                    self.note(|notes| notes.pages += 1);
                    return Ok((page, asked_at));
                }
                Err(error) => error,
            };
            match error.class() {
                FailureClass::Throttled => {
                    self.rate.throttled(error.retry_after());
                    self.note(|notes| notes.throttled += 1);
                    // Over all parts, so that one unlucky part does not end a scan whose other parts succeed.
                    let since = lock(&self.answered_at).map_or(begun, |at| at.max(begun));
                    if since.elapsed() >= THROTTLED_FOR {
                        return Err(ListingError::Throttled { minutes: THROTTLED_FOR.as_secs() / 60, last: error });
                    }
                }
                FailureClass::Transient => {
                    failures += 1;
                    if failures == TRIES {
                        return Err(failed(error));
                    }
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                FailureClass::Full
                | FailureClass::Denied
                | FailureClass::Misconfigured
                | FailureClass::Gone
                | FailureClass::Changed
                | FailureClass::Corrupt
                | FailureClass::Refused
                | FailureClass::Archived => return Err(failed(error)),
            }
        }
    }
}

/// A poisoned lock only means that a task panicked between two short steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
