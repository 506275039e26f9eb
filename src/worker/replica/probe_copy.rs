//! Probe copies: due objects that are tried at a replica whose store may be at fault. Nothing else is ever written to a
//! bucket.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use copyhold_core::domain::{ObjectKey, ReplicaName, TrialCount};
use copyhold_db::replica::ProbeKeyChoice;
use copyhold_s3::copy::OnExisting;
use tokio::sync::mpsc;

/// How long the claimer may take to begin an order for probe copies.
const BEGINS_WITHIN: Duration = Duration::from_secs(10);

/// Keys that are remembered as tried, at most: a store may be unavailable for days.
const REMEMBERED: usize = 4096;

/// Which objects are to be tried, and how.
#[derive(Debug, Clone)]
pub(in crate::worker) struct ProbeCopyRequest {
    pub pick: ProbeKeyChoice,
    /// What to do where the key exists, if the replica is open for probe copies alone.
    pub existing: Option<OnExisting>,
    /// Objects that fail are charged with it.
    pub charges: bool,
    /// Those that were tried before while the same question was open.
    pub tried: TriedKeys,
}

/// The objects that were tried in vain while one question is open. No copy is charged with that at first, so no row
/// records it; without this set the same few objects would be tried again and again.
#[derive(Debug, Clone, Default)]
pub(in crate::worker) struct TriedKeys(Arc<Mutex<HashSet<ObjectKey>>>);

impl TriedKeys {
    pub(in crate::worker) fn add(&self, keys: &[ObjectKey]) {
        let mut tried = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.len() >= REMEMBERED {
            tried.clear();
        }
        tried.extend(keys.iter().cloned());
    }

    pub(in crate::worker) fn keys(&self) -> HashSet<ObjectKey> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Some due objects of a replica are to be tried there.
#[derive(Debug)]
pub(in crate::worker) struct ProbeCopyOrder {
    pub replica: ReplicaName,
    pub request: ProbeCopyRequest,
    until: Instant,
    results: mpsc::UnboundedSender<ProbeCopyResult>,
}

/// One of these objects.
#[derive(Debug)]
pub struct ProbeCopy {
    pub replica: ReplicaName,
    pub(in crate::worker) existing: Option<OnExisting>,
    pub(in crate::worker) charges: bool,
    /// `None`: its result was sent.
    results: Mutex<Option<mpsc::UnboundedSender<ProbeCopyResult>>>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum ProbeCopyResult {
    Succeeded,
    /// In a way that may be the store's.
    Failed,
    /// There is nothing to try.
    NothingDue,
}

/// How all of them ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) struct ProbeCopyOutcome {
    pub count: TrialCount,
    /// There was something to try.
    pub any_due: bool,
}

/// Receives how they end.
#[derive(Debug)]
pub(in crate::worker) struct ProbeCopyResults(mpsc::UnboundedReceiver<ProbeCopyResult>);

impl ProbeCopyOrder {
    pub(in crate::worker) fn new(replica: ReplicaName, request: ProbeCopyRequest) -> (Self, ProbeCopyResults) {
        let (results, receiver) = mpsc::unbounded_channel();
        let until = Instant::now() + BEGINS_WITHIN;
        (Self { replica, request, until, results }, ProbeCopyResults(receiver))
    }

    /// Whether it is too late, or its results are not waited for any more.
    pub(in crate::worker) fn is_over(&self) -> bool {
        self.until <= Instant::now() || self.results.is_closed()
    }

    pub(in crate::worker) fn of_one(&self) -> ProbeCopy {
        let Self { replica, request: ProbeCopyRequest { existing, charges, .. }, results, .. } = self;
        let results = Mutex::new(Some(results.clone()));
        ProbeCopy { replica: replica.clone(), existing: *existing, charges: *charges, results }
    }

    pub(in crate::worker) fn nothing_due(&self) {
        let _ = self.results.send(ProbeCopyResult::NothingDue);
    }
}

impl ProbeCopy {
    /// Reports how it ended, once. `None`: in a way that is no evidence about the store.
    ///
    /// From then on no caller waits for it: the object itself may have to wait for the result of all probe copies.
    pub(in crate::worker) fn ended(&self, result: Option<ProbeCopyResult>) {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(results), Some(result)) = (results, result) {
            // The receiver is gone once it is decided.
            let _ = results.send(result);
        }
    }
}

impl ProbeCopyResults {
    /// Waits until one has succeeded, or all have ended, or no longer.
    pub(in crate::worker) async fn outcome(mut self, within: Duration) -> ProbeCopyOutcome {
        let mut outcome = ProbeCopyOutcome { count: TrialCount::default(), any_due: true };
        let all = async {
            while let Some(result) = self.0.recv().await {
                match result {
                    ProbeCopyResult::Succeeded => {
                        outcome.count.succeeded += 1;
                        return;
                    }
                    ProbeCopyResult::Failed => outcome.count.failed += 1,
                    ProbeCopyResult::NothingDue => outcome.any_due = false,
                }
            }
        };
        // What has not ended by then moves on, or has never begun.
        let _ = tokio::time::timeout(within, all).await;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> (ProbeCopyOrder, ProbeCopyResults) {
        let request = ProbeCopyRequest {
            pick: ProbeKeyChoice::Untried,
            existing: None,
            charges: false,
            tried: TriedKeys::default(),
        };
        ProbeCopyOrder::new(ReplicaName::new("b2").unwrap(), request)
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_ends_with_the_first_success_or_when_all_have_ended() {
        let (order, results) = order();
        let objects = [order.of_one(), order.of_one(), order.of_one()];
        objects[0].ended(Some(ProbeCopyResult::Failed));
        objects[1].ended(Some(ProbeCopyResult::Succeeded));
        let outcome = results.outcome(Duration::from_secs(5)).await;
        assert_eq!(outcome.count, TrialCount { succeeded: 1, failed: 1 });
        assert!(order.is_over(), "the third is not waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_is_dropped_counts_for_nothing() {
        let (order, results) = order();
        let (object, failed, other) = (order.of_one(), order.of_one(), order.of_one());
        failed.ended(Some(ProbeCopyResult::Failed));
        other.ended(None);
        drop((order, object));
        let outcome = results.outcome(Duration::from_secs(5)).await;
        assert_eq!(outcome, ProbeCopyOutcome { count: TrialCount { succeeded: 0, failed: 1 }, any_due: true });
        // They are waited for no longer, though they live on.
        drop((failed, other));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_long_is_waited_for_no_longer_than_it_may() {
        let (order, results) = order();
        let began = tokio::time::Instant::now();
        order.nothing_due();
        assert!(!results.outcome(Duration::from_secs(5)).await.any_due);
        assert_eq!(began.elapsed(), Duration::from_secs(5));
    }
}
