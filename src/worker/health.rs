//! Tells a store that is at fault from an object that is, and opens the breakers.
//!
//! A failure is judged before its outcome is written, so that no copy is charged with what is its store's.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use copyhold_core::domain::{
    BreakerScope, Direction, Evidence, Failure, FailureScope, FaultVerdict, ObjectKey, PingResult, ReplicaName,
    Suspicion, TRIAL_OBJECTS, TrialCount, decide_fault, next_probe,
};
use copyhold_db::queue::{Breaker, Pick, Probed, Queue};
use copyhold_s3::store::Store;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{
    canary,
    lanes::Lanes,
    trial::{TrialOrder, TrialOutcome, TrialResults, Tried, Wanted},
};
use crate::{metrics, wake::Waker};

/// How long a store may take to say that it is there.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a trial is waited for: somewhat longer than it takes to see that its objects are stuck.
const TRIAL_WITHIN: Duration = Duration::from_secs(8);
/// Trials of one doubt, at most, of which none begins later than this. Behind a denied prefix of a third of all that waited,
/// one trial found nothing but its objects in 8 of 100.
const TRIALS: usize = 3;
const TRIALS_WITHIN: Duration = Duration::from_secs(1);
/// How long a failure waits for others of its kind, or for a success, before its object is charged with it.
const WATCHED_FOR: Duration = Duration::from_secs(3);
/// Rows without a source come back at least this often, and not before its probe is likely to be over.
const LONGEST_REST: Duration = Duration::from_secs(30);
const AFTER_THE_PROBE: Duration = Duration::from_secs(1);
/// Rows whose target is left alone are due again before its probe, which needs some to try; nothing claims them until it
/// is over. By this time all daemons know of the breaker.
const LONGEST_REST_OF_TARGET: Duration = Duration::from_secs(5);

/// What this process knows of the stores.
#[derive(Debug, Clone)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Queue,
    lanes: Lanes,
    /// Told when a breaker was opened here.
    doorkeeper: Waker,
    /// Told when there is something to try.
    claimer: Waker,
    patients: BTreeMap<ReplicaName, Patient>,
}

#[derive(Debug)]
struct Patient {
    store: Arc<Store>,
    reading: InRole,
    writing: InRole,
    open: Mutex<Option<Open>>,
    /// Its bucket was listed before. Without the right to list, which reading alone does not need, a refused listing says
    /// nothing of the store.
    lists: AtomicBool,
    /// It was asked once, before there was any doubt, to learn that.
    met: AtomicBool,
}

/// What is known of a store in one role.
#[derive(Debug)]
struct InRole {
    evidence: Mutex<Evidence>,
    /// The last two objects that succeeded, the later one last.
    succeeded: Mutex<VecDeque<(ObjectKey, Instant)>>,
    /// Told of each success, and when a doubt begins.
    news: watch::Sender<()>,
    /// The last ruling, and when. Locked while one is sought.
    ruling: tokio::sync::Mutex<Option<(Instant, FaultVerdict)>>,
}

impl Default for InRole {
    fn default() -> Self {
        Self {
            evidence: Mutex::default(),
            succeeded: Mutex::default(),
            news: watch::Sender::new(()),
            ruling: tokio::sync::Mutex::default(),
        }
    }
}

/// A breaker as this process knows it.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub blocks: BreakerScope,
    pub why: String,
    probe_at: Instant,
    noted: Instant,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Diagnosis {
    /// This object's, or nobody's in particular.
    Object {
        /// How long ago another object succeeded there, in the same role; `None`: none did since this process began.
        others: Option<Duration>,
        /// How long ago this one failed first, as far as it was asked.
        failing_for: Duration,
    },
    /// The store's, which is not to be asked for so long.
    Store { rest: Duration },
}

impl Diagnosis {
    /// Nobody's in particular.
    pub const NOBODY: Self = Self::Object { others: None, failing_for: Duration::ZERO };
}

/// One object that failed.
#[derive(Debug, Clone, Copy)]
pub struct Failed<'a> {
    pub key: &'a ObjectKey,
    /// It has no failure on record there in this generation.
    pub first: bool,
    pub why: &'a Failure,
}

impl Health {
    /// `doorkeeper`: woken when a breaker was opened. `claimer`: woken when objects are to be tried.
    #[must_use]
    pub fn new(queue: Queue, lanes: Lanes, doorkeeper: Waker, claimer: Waker) -> Self {
        let patient = |store: &Arc<Store>| Patient {
            store: Arc::clone(store),
            reading: InRole::default(),
            writing: InRole::default(),
            open: Mutex::default(),
            lists: AtomicBool::default(),
            met: AtomicBool::default(),
        };
        let patients = lanes.replicas().iter().map(|r| (r.name.clone(), patient(&r.store))).collect();
        Self(Arc::new(Inner { queue, lanes, doorkeeper, claimer, patients }))
    }

    /// An object was read from the replica, or written to it.
    pub fn worked(&self, replica: &ReplicaName, role: Direction, key: &ObjectKey) {
        let Some(patient) = self.0.patients.get(replica) else { return };
        let known = patient.of(role);
        {
            let mut last = lock(&known.succeeded);
            last.retain(|(other, _)| other != key);
            last.push_back((key.clone(), Instant::now()));
            if last.len() > 2 {
                last.pop_front();
            }
        }
        if lock(&known.evidence).record_success(Instant::now()) {
            self.end_doubt(replica, role);
        }
        known.news.send_replace(());
    }

    /// Judges a failure; opens the replica's breaker where that is the finding.
    pub async fn diagnose(&self, replica: &ReplicaName, role: Direction, failed: Failed<'_>) -> Diagnosis {
        let Some(patient) = self.0.patients.get(replica) else { return Diagnosis::NOBODY };
        let may_be_the_stores = failed.why.scope != FailureScope::Object;
        if may_be_the_stores && let Some(rest) = patient.rest(role) {
            return Diagnosis::Store { rest };
        }
        let known = patient.of(role);
        // Before the failure is noted, or a success right after it were missed.
        let mut news = known.news.subscribe();
        let (suspicion, began) = {
            let mut evidence = lock(&known.evidence);
            let before = evidence.is_doubted();
            let suspicion = evidence.record_failure(failed.why, failed.key, failed.first, Instant::now());
            (suspicion, !before && evidence.is_doubted())
        };
        if began {
            debug!(replica.id = %replica, role = role.as_str(), "Whether {replica} is at fault or its objects is in doubt: {}", failed.why.message);
            self.0.lanes.doubt(replica, role, true);
            known.news.send_replace(());
        }
        let is_doubted = match suspicion {
            Suspicion::None => false,
            Suspicion::Doubt => true,
            Suspicion::Watched => {
                let _ = tokio::time::timeout(WATCHED_FOR, news.changed()).await;
                lock(&known.evidence).is_doubted()
            }
        };
        if is_doubted {
            self.resolve(replica, patient, role, failed.why).await;
        }
        match patient.rest(role) {
            Some(rest) if may_be_the_stores => Diagnosis::Store { rest },
            _ => Diagnosis::Object { others: known.others(failed.key), failing_for: Duration::ZERO },
        }
    }

    /// Has it found out whose fault it is, once for all that fail meanwhile.
    async fn resolve(&self, replica: &ReplicaName, patient: &Patient, role: Direction, why: &Failure) {
        let (came, known) = (Instant::now(), patient.of(role));
        let mut last = known.ruling.lock().await;
        let settled = last.is_some_and(|(at, _)| at >= came)
            || patient.rest(role).is_some()
            || !lock(&known.evidence).is_doubted();
        if settled {
            return;
        }
        let canary = self.canary(replica, patient).await;
        let mut trial = TrialCount::default();
        if !canary.confirms(why.class) {
            if lock(&known.evidence).is_doubted() {
                trial = self.try_others(replica, role).await;
            }
            // A success, be it of another object than those of the trial.
            if !lock(&known.evidence).is_doubted() {
                trial.succeeded = trial.succeeded.max(1);
            }
        }
        let mixed = lock(&known.evidence).is_mixed(why.class, Instant::now());
        let ruling = decide_fault(role, why.class, canary, trial, mixed);
        info!(
            replica.id = %replica, role = role.as_str(),
            "Whose fault it is that objects fail at {replica}: {ruling}. A simple request was {canary}; of other objects that were tried: {trial}; \
             the last that failed: {}", why.message
        );
        if let FaultVerdict::OpenBreaker(blocks) = ruling {
            self.open(replica, patient, blocks, why).await;
        }
        let ended = {
            let mut evidence = lock(&known.evidence);
            evidence.apply(ruling, why.class, Instant::now());
            !evidence.is_doubted()
        };
        if ended {
            self.end_doubt(replica, role);
        }
        *last = Some((Instant::now(), ruling));
    }

    /// Tries other objects, and still others while none succeeds and that costs little: those that are waiting may be at
    /// fault for the most part, and the store is not.
    async fn try_others(&self, replica: &ReplicaName, role: Direction) -> TrialCount {
        let (begun, tried) = (Instant::now(), Tried::default());
        let mut all = TrialCount::default();
        for _ in 0..TRIALS {
            let TrialCount { succeeded, failed } = match role {
                Direction::Write => {
                    let wanted = Wanted { pick: Pick::Untried, existing: None, charges: false, tried: tried.clone() };
                    self.try_writing(replica, wanted, TRIAL_WITHIN).await.count
                }
                Direction::Read => self.try_reading(replica, Pick::Untried, &tried).await,
            };
            all.succeeded += succeeded;
            all.failed += failed;
            if succeeded > 0 || failed == 0 || begun.elapsed() > TRIALS_WITHIN {
                break;
            }
        }
        all
    }

    fn end_doubt(&self, replica: &ReplicaName, role: Direction) {
        self.0.lanes.doubt(replica, role, false);
        self.0.claimer.wake();
    }

    async fn open(&self, replica: &ReplicaName, patient: &Patient, blocks: BreakerScope, why: &Failure) {
        // Here at once, so that nothing more is begun; then for all.
        let now = Instant::now();
        let told = format!("{}: {}", why.class, why.message);
        self.0.lanes.sicken(replica, blocks, &told);
        *lock(&patient.open) = Some(Open { blocks, why: told, probe_at: now + next_probe(why.class, 0), noted: now });
        if let Err(error) = self.0.queue.open_breaker(replica, blocks, why.class, &why.message).await {
            metrics::database_error("queue::open_breaker");
            warn!(replica.id = %replica, error = %error, "The other daemons could not be told that {replica} is not well");
        }
        self.0.doorkeeper.wake();
    }

    /// How long an object rests that no replica can be read for.
    #[must_use]
    pub fn without_source(&self) -> Duration {
        let rests = self.0.patients.values().filter_map(|patient| patient.rest(Direction::Read));
        rests.min().unwrap_or(LONGEST_REST)
    }

    /// Takes over what the database said when it was asked at `asked`; returns what is in force.
    pub(super) fn learn(&self, replica: &ReplicaName, shared: Option<&Breaker>, asked: Instant) -> Option<Open> {
        let patient = self.0.patients.get(replica)?;
        let mut open = lock(&patient.open);
        match shared {
            Some(breaker) => {
                *open = Some(Open {
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
                    for role in [Direction::Read, Direction::Write] {
                        *lock(&patient.of(role).evidence) = Evidence::default();
                        self.0.lanes.doubt(replica, role, false);
                    }
                }
            }
        }
        open.clone()
    }

    /// Its bucket was listed before by some daemon: one that is refused now is a store that is not well.
    pub(super) fn lists(&self, replica: &ReplicaName) {
        if let Some(patient) = self.0.patients.get(replica) {
            patient.lists.store(true, Ordering::Relaxed);
        }
    }

    /// Learns, once, whether the bucket may be listed.
    pub(super) async fn meet(&self, replica: &ReplicaName) {
        if let Some(patient) = self.0.patients.get(replica)
            && !patient.met.swap(true, Ordering::Relaxed)
        {
            // Whatever it says: a store that is at fault already is found out by what fails there.
            let _ = canary::list(&patient.store, &patient.lists).await;
        }
    }

    /// Asks the store something simple, now.
    pub(super) async fn ask(&self, replica: &ReplicaName) -> PingResult {
        match self.0.patients.get(replica) {
            Some(patient) => self.canary(replica, patient).await,
            None => PingResult::Answers,
        }
    }

    async fn canary(&self, replica: &ReplicaName, patient: &Patient) -> PingResult {
        canary::ask(&self.0.queue, replica, &patient.store, &patient.lists).await
    }

    /// Has due objects tried at the replica.
    pub(super) async fn try_writing(&self, replica: &ReplicaName, wanted: Wanted, within: Duration) -> TrialOutcome {
        let (order, results): (_, TrialResults) = TrialOrder::new(replica.clone(), wanted);
        self.0.lanes.offer(order);
        self.0.claimer.wake();
        results.outcome(within).await
    }

    /// Reads the beginnings of a few objects that others wait for. Nobody is charged with that.
    pub(super) async fn try_reading(&self, replica: &ReplicaName, pick: Pick, tried: &Tried) -> TrialCount {
        let Some(patient) = self.0.patients.get(replica) else { return TrialCount::default() };
        let keys = self.readable_keys(replica, pick, tried).await;
        tried.add(&keys);
        let store = &patient.store;
        let read = keys.iter().map(|key| async move { (key, canary::read(store, key).await) });
        let mut count = TrialCount::default();
        for (key, was_read) in futures::future::join_all(read).await {
            match was_read {
                Some(true) => {
                    count.succeeded += 1;
                    self.worked(replica, Direction::Read, key);
                }
                Some(false) => count.failed += 1,
                None => {}
            }
        }
        count
    }

    /// Due objects that the replica should have.
    async fn readable_keys(&self, replica: &ReplicaName, pick: Pick, tried: &Tried) -> Vec<ObjectKey> {
        let open = self.0.lanes.open();
        let others = || self.0.lanes.replicas().iter().map(|r| r.name.clone()).filter(|name| !open.contains(name));
        for lane in open.iter().cloned().chain(others()).filter(|lane| lane != replica) {
            match self.0.queue.trial_keys(&lane, pick, TRIAL_OBJECTS, Some(replica), &tried.keys()).await {
                Ok(keys) if !keys.is_empty() => return keys,
                Ok(_) => {}
                Err(error) => {
                    metrics::database_error("queue::trial_keys");
                    warn!(replica.id = %replica, error = %error, "Could not look for objects to try at {replica}");
                    break;
                }
            }
        }
        Vec::new()
    }

    /// Tells all daemons how a probe ended.
    pub(super) async fn end_probe(&self, replica: &ReplicaName, breaker: &Breaker, ended: Probed) {
        debug!(replica.id = %replica, "{replica} was probed: {}", ended.words());
        if let Err(error) = self.0.queue.end_probe(replica, breaker, ended).await {
            metrics::database_error("queue::end_probe");
            // Our hold on the probe runs out, and somebody tries again.
            warn!(replica.id = %replica, error = %error, "It could not be said how the probe of {replica} ended");
        }
        self.0.doorkeeper.wake();
    }
}

impl Patient {
    fn of(&self, role: Direction) -> &InRole {
        match role {
            Direction::Read => &self.reading,
            Direction::Write => &self.writing,
        }
    }

    /// How long an object rests while its breaker forbids this; `None`: it does not.
    fn rest(&self, role: Direction) -> Option<Duration> {
        let open = lock(&self.open);
        let open = open.as_ref().filter(|open| open.blocks.forbids(role))?;
        let until = open.probe_at.saturating_duration_since(Instant::now());
        Some(match role {
            Direction::Read => (until + AFTER_THE_PROBE).min(LONGEST_REST),
            Direction::Write => (until / 2).min(LONGEST_REST_OF_TARGET),
        })
    }
}

impl InRole {
    /// How long ago another object succeeded.
    fn others(&self, key: &ObjectKey) -> Option<Duration> {
        lock(&self.succeeded).iter().rev().find(|(other, _)| other != key).map(|(_, at)| at.elapsed())
    }
}

/// A poisoned lock only means that somebody panicked between two of these short steps; what it guards is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
