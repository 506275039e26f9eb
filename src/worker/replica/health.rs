//! Decides whether a store or an object is at fault, and opens the breakers.
//!
//! A failure is diagnosed before its outcome is written, so that no copy is charged with a fault of its store.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use copyhold_core::domain::{
    BreakerScope, Direction, Evidence, Failure, FailureScope, FaultVerdict, ObjectKey, PingResult, ReplicaName,
    Suspicion, TRIAL_OBJECTS, TrialCount, decide_fault, next_probe,
};
use copyhold_db::{
    Breakers,
    replica::{Breaker, ProbeKeyChoice, ProbeResult},
};
use copyhold_s3::store::Store;
use tracing::{debug, info, warn};

use super::{
    canary,
    probe_copy::{ProbeCopyOrder, ProbeCopyOutcome, ProbeCopyRequest, ProbeCopyResults, TriedKeys},
    registry::ReplicaRegistry,
    store_health::{LONGEST_REST, OpenBreaker, StoreHealth, lock},
};
use crate::{metrics, wakeup::wake_channel::WakeSender};

/// How long the results of probe copies are waited for: somewhat longer than it takes to see that they are stuck.
const TRIAL_WITHIN: Duration = Duration::from_secs(8);
/// At most so many rounds of probe copies resolve one doubt, and none begins later than this. Where a denied prefix
/// held a third of all waiting objects, one round picked only objects of that prefix in 8 of 100 cases.
const TRIALS: usize = 3;
const TRIALS_WITHIN: Duration = Duration::from_secs(1);
/// How long a failure waits for others of its kind, or for a success, before its object is charged with it.
const WATCHED_FOR: Duration = Duration::from_secs(3);
/// What this process knows of the stores.
#[derive(Debug, Clone)]
pub struct HealthMonitor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    breakers: Breakers,
    registry: ReplicaRegistry,
    /// Woken when a breaker was opened here.
    gate: WakeSender,
    /// Woken when there are objects to try.
    claimer: WakeSender,
    stores: BTreeMap<ReplicaName, StoreHealth>,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Diagnosis {
    /// This object's, or not attributed.
    Object {
        /// How long ago another object succeeded there in the same direction; `None`: none did since this process
        /// began.
        others: Option<Duration>,
        /// How long ago this one failed first, as far as it was asked.
        failing_for: Duration,
    },
    /// The store's, which is not to be asked for so long.
    Store { rest: Duration },
}

impl Diagnosis {
    /// Not attributed to the object or the store.
    pub const UNATTRIBUTED: Self = Self::Object { others: None, failing_for: Duration::ZERO };
}

/// One object that failed.
#[derive(Debug, Clone, Copy)]
pub struct FailedObject<'a> {
    pub key: &'a ObjectKey,
    /// It has no failure on record there in this generation.
    pub first: bool,
    pub why: &'a Failure,
}

impl HealthMonitor {
    /// `gate`: woken when a breaker was opened. `claimer`: woken when objects are to be tried.
    #[must_use]
    pub fn new(breakers: Breakers, registry: ReplicaRegistry, gate: WakeSender, claimer: WakeSender) -> Self {
        let store_health = |store: &Arc<Store>| StoreHealth::new(Arc::clone(store));
        let stores = registry.replicas().iter().map(|r| (r.name.clone(), store_health(&r.store))).collect();
        Self(Arc::new(Inner { breakers, registry, gate, claimer, stores }))
    }

    /// An object was read from the replica, or written to it.
    pub fn record_success(&self, replica: &ReplicaName, direction: Direction, key: &ObjectKey) {
        let Some(store_health) = self.0.stores.get(replica) else { return };
        let known = store_health.of(direction);
        {
            let mut last = lock(&known.succeeded);
            last.retain(|(other, _)| other != key);
            last.push_back((key.clone(), Instant::now()));
            if last.len() > 2 {
                last.pop_front();
            }
        }
        if lock(&known.evidence).record_success(Instant::now()) {
            self.end_doubt(replica, direction);
        }
        known.changes.send_replace(());
    }

    /// Diagnoses a failure; opens the replica's breaker if the store is at fault.
    pub async fn diagnose(&self, replica: &ReplicaName, direction: Direction, failed: FailedObject<'_>) -> Diagnosis {
        let Some(store_health) = self.0.stores.get(replica) else { return Diagnosis::UNATTRIBUTED };
        let may_be_the_stores = failed.why.scope != FailureScope::Object;
        if may_be_the_stores && let Some(rest) = store_health.rest(direction) {
            return Diagnosis::Store { rest };
        }
        let known = store_health.of(direction);
        // Before the failure is noted, or a success right after it were missed.
        let mut changes = known.changes.subscribe();
        let (suspicion, began) = {
            let mut evidence = lock(&known.evidence);
            let before = evidence.is_doubted();
            let suspicion = evidence.record_failure(failed.why, failed.key, failed.first, Instant::now());
            (suspicion, !before && evidence.is_doubted())
        };
        if began {
            debug!(replica.id = %replica, role = direction.as_str(), "Whether {replica} is at fault or its objects is in doubt: {}", failed.why.message);
            self.0.registry.set_doubt(replica, direction, true);
            known.changes.send_replace(());
        }
        let is_doubted = match suspicion {
            Suspicion::None => false,
            Suspicion::Doubt => true,
            Suspicion::Watched => {
                let _ = tokio::time::timeout(WATCHED_FOR, changes.changed()).await;
                lock(&known.evidence).is_doubted()
            }
        };
        if is_doubted {
            self.resolve(replica, store_health, direction, failed.why).await;
        }
        match store_health.rest(direction) {
            Some(rest) if may_be_the_stores => Diagnosis::Store { rest },
            _ => Diagnosis::Object { others: known.others(failed.key), failing_for: Duration::ZERO },
        }
    }

    /// Finds out whose fault it is, once for all objects that fail meanwhile.
    async fn resolve(&self, replica: &ReplicaName, store_health: &StoreHealth, direction: Direction, why: &Failure) {
        let (came, known) = (Instant::now(), store_health.of(direction));
        let mut last = known.ruling.lock().await;
        let settled = last.is_some_and(|(at, _)| at >= came)
            || store_health.rest(direction).is_some()
            || !lock(&known.evidence).is_doubted();
        if settled {
            return;
        }
        let canary = self.canary(replica, store_health).await;
        let mut probe_copies = TrialCount::default();
        if !canary.confirms(why.class) {
            if lock(&known.evidence).is_doubted() {
                probe_copies = self.try_others(replica, direction).await;
            }
            // A success in the meantime ends the doubt, also if the trial did not copy that object.
            if !lock(&known.evidence).is_doubted() {
                probe_copies.succeeded = probe_copies.succeeded.max(1);
            }
        }
        let mixed = lock(&known.evidence).is_mixed(why.class, Instant::now());
        let ruling = decide_fault(direction, why.class, canary, probe_copies, mixed);
        info!(
            replica.id = %replica, role = direction.as_str(),
            "Whose fault it is that objects fail at {replica}: {ruling}. A simple request was {canary}; of other objects that were tried: {probe_copies}; \
             the last that failed: {}", why.message
        );
        if let FaultVerdict::OpenBreaker(blocks) = ruling {
            self.open(replica, store_health, blocks, why).await;
        }
        let ended = {
            let mut evidence = lock(&known.evidence);
            evidence.apply(ruling, why.class, Instant::now());
            !evidence.is_doubted()
        };
        if ended {
            self.end_doubt(replica, direction);
        }
        *last = Some((Instant::now(), ruling));
    }

    /// Tries other objects, and still others while none succeeds and that costs little: those that are waiting may be
    /// at fault for the most part, and the store is not.
    async fn try_others(&self, replica: &ReplicaName, direction: Direction) -> TrialCount {
        let (begun, tried) = (Instant::now(), TriedKeys::default());
        let mut all = TrialCount::default();
        for _ in 0..TRIALS {
            let TrialCount { succeeded, failed } = match direction {
                Direction::Write => {
                    let request = ProbeCopyRequest {
                        pick: ProbeKeyChoice::Untried,
                        existing: None,
                        charges: false,
                        tried: tried.clone(),
                    };
                    self.try_writing(replica, request, TRIAL_WITHIN).await.count
                }
                Direction::Read => self.try_reading(replica, ProbeKeyChoice::Untried, &tried).await,
            };
            all.succeeded += succeeded;
            all.failed += failed;
            if succeeded > 0 || failed == 0 || begun.elapsed() > TRIALS_WITHIN {
                break;
            }
        }
        all
    }

    fn end_doubt(&self, replica: &ReplicaName, direction: Direction) {
        self.0.registry.set_doubt(replica, direction, false);
        self.0.claimer.wake();
    }

    /// Opens the breaker of a replica: first in this process, so that it begins nothing more; then for all daemons.
    async fn open(&self, replica: &ReplicaName, store_health: &StoreHealth, blocks: BreakerScope, why: &Failure) {
        let now = Instant::now();
        let reason = format!("{}: {}", why.class, why.message);
        self.0.registry.mark_unhealthy(replica, blocks, &reason);
        *lock(&store_health.open) =
            Some(OpenBreaker { blocks, why: reason, probe_at: now + next_probe(why.class, 0), noted: now });
        if let Err(error) = self.0.breakers.open_breaker(replica, blocks, why.class, &why.message).await {
            metrics::database_error("replica::open_breaker");
            warn!(replica.id = %replica, error = %error, "Could not open the breaker of {replica} for the other daemons");
        }
        self.0.gate.wake();
    }

    /// Returns how long an object is deferred that has no readable source.
    #[must_use]
    pub fn without_source(&self) -> Duration {
        let rests = self.0.stores.values().filter_map(|store_health| store_health.rest(Direction::Read));
        rests.min().unwrap_or(LONGEST_REST)
    }

    /// Takes over the breaker that the database returned to a query sent at `asked`; returns what is in force.
    pub(super) fn sync_breaker(
        &self,
        replica: &ReplicaName,
        shared: Option<&Breaker>,
        asked: Instant,
    ) -> Option<OpenBreaker> {
        let store_health = self.0.stores.get(replica)?;
        let mut open = lock(&store_health.open);
        match shared {
            Some(breaker) => {
                *open = Some(OpenBreaker {
                    blocks: breaker.blocks,
                    why: breaker.why(),
                    probe_at: asked + breaker.probe_in,
                    noted: asked,
                });
            }
            // Opened by us since: the answer is older than that.
            None if open.as_ref().is_some_and(|open| open.noted > asked) => {}
            None => {
                if open.take().is_some() {
                    for direction in [Direction::Read, Direction::Write] {
                        *lock(&store_health.of(direction).evidence) = Evidence::default();
                        self.0.registry.set_doubt(replica, direction, false);
                    }
                }
            }
        }
        open.clone()
    }

    /// Notes that some daemon has listed the bucket before: a refusal now means that the store is unhealthy.
    pub(super) fn note_listable(&self, replica: &ReplicaName) {
        if let Some(store_health) = self.0.stores.get(replica) {
            store_health.listable.store(true, Ordering::Relaxed);
        }
    }

    /// Finds out, once, whether the bucket may be listed.
    pub(super) async fn first_contact(&self, replica: &ReplicaName) {
        if let Some(store_health) = self.0.stores.get(replica)
            && !store_health.contacted.swap(true, Ordering::Relaxed)
        {
            // Whatever the result: if the store is at fault already, the failures there show it.
            let _ = canary::list(&store_health.store, &store_health.listable).await;
        }
    }

    /// Asks the store something simple, now.
    pub(super) async fn ping(&self, replica: &ReplicaName) -> PingResult {
        match self.0.stores.get(replica) {
            Some(store_health) => self.canary(replica, store_health).await,
            None => PingResult::Answers,
        }
    }

    async fn canary(&self, replica: &ReplicaName, store_health: &StoreHealth) -> PingResult {
        canary::ask(&self.0.breakers, replica, &store_health.store, &store_health.listable).await
    }

    /// Has due objects tried at the replica.
    pub(super) async fn try_writing(
        &self,
        replica: &ReplicaName,
        request: ProbeCopyRequest,
        within: Duration,
    ) -> ProbeCopyOutcome {
        let (order, results): (_, ProbeCopyResults) = ProbeCopyOrder::new(replica.clone(), request);
        self.0.registry.offer_probe_copy(order);
        self.0.claimer.wake();
        results.outcome(within).await
    }

    /// Reads the beginnings of a few objects that other targets wait for. No copy is charged with a failure of that.
    pub(super) async fn try_reading(
        &self,
        replica: &ReplicaName,
        pick: ProbeKeyChoice,
        tried: &TriedKeys,
    ) -> TrialCount {
        let Some(store_health) = self.0.stores.get(replica) else { return TrialCount::default() };
        let keys = self.readable_keys(replica, pick, tried).await;
        tried.add(&keys);
        let store = &store_health.store;
        let read = keys.iter().map(|key| async move { (key, canary::read(store, key).await) });
        let mut count = TrialCount::default();
        for (key, was_read) in futures::future::join_all(read).await {
            match was_read {
                Some(true) => {
                    count.succeeded += 1;
                    self.record_success(replica, Direction::Read, key);
                }
                Some(false) => count.failed += 1,
                None => {}
            }
        }
        count
    }

    /// Due objects that the replica should have.
    async fn readable_keys(&self, replica: &ReplicaName, pick: ProbeKeyChoice, tried: &TriedKeys) -> Vec<ObjectKey> {
        let open = self.0.registry.writable();
        let others = || self.0.registry.replicas().iter().map(|r| r.name.clone()).filter(|name| !open.contains(name));
        for lane in open.iter().cloned().chain(others()).filter(|lane| lane != replica) {
            match self.0.breakers.probe_keys(&lane, pick, TRIAL_OBJECTS, Some(replica), &tried.keys()).await {
                Ok(keys) if !keys.is_empty() => return keys,
                Ok(_) => {}
                Err(error) => {
                    metrics::database_error("replica::probe_keys");
                    warn!(replica.id = %replica, error = %error, "Could not query objects to try at {replica}");
                    break;
                }
            }
        }
        Vec::new()
    }

    /// Records for all daemons how a probe ended.
    pub(super) async fn end_probe(&self, replica: &ReplicaName, breaker: &Breaker, ended: ProbeResult) {
        debug!(replica.id = %replica, "{replica} was probed: {}", ended.words());
        if let Err(error) = self.0.breakers.end_probe(replica, breaker, ended).await {
            metrics::database_error("replica::end_probe");
            // Our hold on the probe expires, and some daemon tries again.
            warn!(replica.id = %replica, error = %error, "Could not record how the probe of {replica} ended");
        }
        self.0.gate.wake();
    }
}
