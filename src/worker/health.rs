use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::{debug, warn};

use super::lanes::{Lanes, Trial};
use crate::{
    domain::{Blocks, Class, Evidence, Failure, ObjectKey, ReplicaName, Role, Verdict, Verified, next_probe},
    metrics,
    queue::{Breaker, Probed, Queue},
    store::Store,
    wake::Waker,
};

/// How long a store may take to say that it is there.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Failures that come close together share one question.
const ANSWER_HOLDS_FOR: Duration = Duration::from_secs(1);
/// Rows that rest for a store come back at least this often, and not before its probe is likely to be over.
const LONGEST_REST: Duration = Duration::from_secs(30);
const AFTER_THE_PROBE: Duration = Duration::from_secs(1);

/// Tells a store that is away from an object that fails, and opens the breakers.
///
/// A failure is judged before its outcome is written, so that no copy is charged with what is its store's.
#[derive(Debug, Clone)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Queue,
    lanes: Lanes,
    /// Told when a breaker was opened here.
    doorkeeper: Waker,
    patients: BTreeMap<ReplicaName, Patient>,
}

#[derive(Debug)]
struct Patient {
    store: Arc<Store>,
    evidence: Mutex<Evidence>,
    open: Mutex<Option<Open>>,
    /// Its bucket was listed before. Without the right to list, which reading alone does not need, a refused listing says
    /// nothing of the store.
    lists: AtomicBool,
    /// It was asked once, before there was any doubt, to learn that.
    met: AtomicBool,
    /// What the store last said when it was asked, and when. Locked while it is being asked.
    answer: tokio::sync::Mutex<Option<(Instant, Result<(), Sick>)>>,
}

/// A breaker as this process knows it.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub blocks: Blocks,
    pub why: String,
    probe_at: Instant,
    noted: Instant,
}

/// A store that could not do something simple.
#[derive(Debug, Clone)]
pub(super) struct Sick {
    class: Class,
    pub message: String,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Diagnosis {
    /// This object's, or nobody's in particular.
    Object,
    /// The store's, which is not to be asked for so long.
    Store { rest: Duration },
}

impl Health {
    /// `doorkeeper`: woken when a breaker was opened.
    #[must_use]
    pub fn new(queue: Queue, lanes: Lanes, doorkeeper: Waker) -> Self {
        let patient = |store: &Arc<Store>| Patient {
            store: Arc::clone(store),
            evidence: Mutex::default(),
            open: Mutex::default(),
            lists: AtomicBool::default(),
            met: AtomicBool::default(),
            answer: tokio::sync::Mutex::default(),
        };
        let patients = lanes.replicas().iter().map(|r| (r.name.clone(), patient(&r.store))).collect();
        Self(Arc::new(Inner { queue, lanes, doorkeeper, patients }))
    }

    /// An object was read from the replica, or written to it.
    pub fn worked(&self, replica: &ReplicaName, role: Role) {
        if let Some(patient) = self.0.patients.get(replica) {
            lock(&patient.evidence).worked(role);
        }
    }

    /// Judges a failure; opens the replica's breaker where that is the finding.
    pub async fn diagnose(&self, replica: &ReplicaName, role: Role, key: &ObjectKey, why: &Failure) -> Diagnosis {
        let Some(patient) = self.0.patients.get(replica) else { return Diagnosis::Object };
        let verdict = lock(&patient.evidence).failed(role, why.class, key, Instant::now());
        let answering = match verdict {
            Verdict::Object => return Diagnosis::Object,
            _ if patient.rest(role).is_some() => None,
            Verdict::Store(blocks) => Some((blocks, why.class, why.message.clone())),
            Verdict::Ask { answering } => match patient.ask_once().await {
                Ok(()) if answering.is_none() => return Diagnosis::Object,
                Ok(()) => answering.map(|blocks| (blocks, why.class, why.message.clone())),
                Err(sick) => {
                    Some((Blocks::All, sick.class, format!("{}; and its bucket: {}", why.message, sick.message)))
                }
            },
        };
        // Whoever asked together with us may have opened it already.
        if patient.rest(role).is_none()
            && let Some((blocks, class, message)) = answering
        {
            self.open(replica, patient, blocks, class, &message).await;
        }
        Diagnosis::Store { rest: patient.rest(role).unwrap_or(AFTER_THE_PROBE) }
    }

    async fn open(&self, replica: &ReplicaName, patient: &Patient, blocks: Blocks, class: Class, message: &str) {
        // Here at once, so that nothing more is begun; then for all.
        let now = Instant::now();
        let why = format!("{class}: {message}");
        self.0.lanes.sicken(replica, blocks, &why);
        *lock(&patient.open) = Some(Open { blocks, why, probe_at: now + next_probe(class, 0), noted: now });
        if let Err(error) = self.0.queue.open_breaker(replica, blocks, class, message).await {
            metrics::database_error("queue::open_breaker");
            warn!(replica.id = %replica, error = %error, "The other daemons could not be told that {replica} is not well");
        }
        self.0.doorkeeper.wake();
    }

    /// How long an object rests that no replica can be read for.
    #[must_use]
    pub fn without_source(&self) -> Duration {
        let rests = self.0.patients.values().filter_map(|patient| patient.rest(Role::Source));
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
                    *lock(&patient.evidence) = Evidence::default();
                }
            }
        }
        metrics::breaker_open(replica, open.is_some());
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
            // Whatever it says: a store that is sick already is found out by what fails there.
            let _ = patient.ask().await;
        }
    }

    /// Asks the store something simple, now.
    pub(super) async fn ask(&self, replica: &ReplicaName) -> Result<(), Sick> {
        match self.0.patients.get(replica) {
            Some(patient) => patient.ask().await,
            None => Ok(()),
        }
    }

    /// One real object was tried on a replica that is not written to.
    pub async fn tried(&self, trial: &Trial, result: &Result<Verified, Failure>) {
        let ended = match result {
            Ok(_) => Probed::Well,
            Err(why) if why.source.is_none() && why.class.may_be_of_the_store() => Probed::Sick,
            // It says nothing of the store: another object will be tried.
            Err(_) => return,
        };
        self.end_probe(&trial.replica, &trial.breaker, ended).await;
    }

    /// Tells all daemons how a probe ended.
    pub(super) async fn end_probe(&self, replica: &ReplicaName, breaker: &Breaker, ended: Probed) {
        debug!(replica.id = %replica, ?ended, "{replica} was probed");
        if let Err(error) = self.0.queue.end_probe(replica, breaker, ended).await {
            metrics::database_error("queue::end_probe");
            // Our hold on the probe runs out, and somebody tries again.
            warn!(replica.id = %replica, error = %error, "It could not be said how the probe of {replica} ended");
        }
        self.0.doorkeeper.wake();
    }
}

impl Patient {
    fn rest(&self, role: Role) -> Option<Duration> {
        let open = lock(&self.open);
        let open = open.as_ref().filter(|open| open.blocks.forbids(role))?;
        let until = open.probe_at.saturating_duration_since(Instant::now());
        Some((until + AFTER_THE_PROBE).min(LONGEST_REST))
    }

    /// The same for all who ask at about the same time.
    async fn ask_once(&self) -> Result<(), Sick> {
        let mut last = self.answer.lock().await;
        if let Some((at, answer)) = &*last
            && at.elapsed() < ANSWER_HOLDS_FOR
        {
            return answer.clone();
        }
        let answer = self.ask().await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }

    async fn ask(&self) -> Result<(), Sick> {
        match tokio::time::timeout(ANSWER_WITHIN, self.store.check_list()).await {
            Err(_) => Err(Sick { class: Class::Transient, message: format!("no answer within {ANSWER_WITHIN:?}") }),
            // It is there, and has too much to do.
            Ok(Err(error)) if error.class() == Class::Throttled => Ok(()),
            Ok(Err(error)) if error.class() == Class::Denied && !self.lists.load(Ordering::Relaxed) => Ok(()),
            Ok(Err(error)) if error.class().may_be_of_the_store() => {
                Err(Sick { class: error.class(), message: error.to_string() })
            }
            Ok(Err(_)) => Ok(()),
            Ok(Ok(())) => {
                self.lists.store(true, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

/// A poisoned lock only means that somebody panicked between two of these short steps; what it guards is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
