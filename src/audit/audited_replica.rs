//! One replica under verification: its retries, its counts, and when the audit gives up on it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable as _};
use copyhold_core::domain::{Failure, FailureClass, ObjectKey, ReplicaName};
use copyhold_s3::store::{Head, Store};

use super::counts::Counts;
use crate::scan::RequestSpacing;

/// How long until a copy that the store lacks, or did not return, is requested once more.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// Attempts of one request.
const TRIES: usize = 3;

/// After so many unreadable copies in a row the audit gives up on the replica: each may take a minute without an
/// answer.
const GIVE_UP_AFTER: u32 = 20;
/// From so many on no request to it is tried twice.
const DOUBTFUL_FROM: u32 = 3;

/// A replica whose copies are verified.
#[derive(Debug, Clone)]
pub struct AuditedReplica {
    store: Arc<Store>,
    /// How far apart requests are; `None`: as many at once as there are readings.
    rate: Option<Arc<RequestSpacing>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    failed_in_a_row: u32,
    /// Why no more requests are sent to it.
    gave_up: Option<String>,
}

impl AuditedReplica {
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store: Arc::new(store), rate: None, state: Arc::default() }
    }

    /// No more requests than this, and fewer while the store throttles.
    #[must_use]
    pub fn at_most_per_second(self, requests: f64) -> Self {
        Self { rate: Some(Arc::new(RequestSpacing::new(requests))), ..self }
    }

    #[must_use]
    pub fn name(&self) -> &ReplicaName {
        self.store.name()
    }

    /// What is known so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// Returns why no more requests are sent to it; `None`: they are.
    #[must_use]
    pub fn gave_up(&self) -> Option<String> {
        self.lock().gave_up.clone()
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Sends requests at its rate, and repeats them after transient errors.
    pub(super) async fn with_retries<T>(&self, attempt: impl AsyncFn() -> Result<T, Failure>) -> Result<T, Failure> {
        let counted = || async {
            if let Some(rate) = &self.rate {
                rate.turn().await;
            }
            self.count(|counts| counts.requests += 1);
            let answer = attempt().await;
            match (&self.rate, &answer) {
                (Some(rate), Err(why)) if why.class == FailureClass::Throttled => rate.throttled(why.retry_after),
                (Some(rate), _) => rate.succeeded(),
                (None, _) => {}
            }
            answer
        };
        counted
            .retry(ExponentialBuilder::default().with_min_delay(PAUSE).with_max_times(TRIES - 1))
            .when(|why| matches!(why.class, FailureClass::Transient | FailureClass::Throttled) && !self.is_doubtful())
            .await
    }

    /// What its store returns of an object.
    pub(super) async fn head(&self, key: &ObjectKey) -> Result<Head, Failure> {
        self.with_retries(async || {
            let head = self.store.head(key).await;
            head.map_err(|error| error.into_failure(format_args!("replica {}", self.name())))
        })
        .await
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.lock().counts);
    }

    /// The store has answered about an object.
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

    /// A poisoned lock only means that a task panicked between two of these short steps.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
