//! What this daemon may do with each replica, and with how many copies at the same time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use copyhold_core::domain::{
    BreakerScope, Direction, FailureClass, Lease, MAX_IN_DOUBT, RecordedSource, RegistrationOrder, ReplicaName,
};
use copyhold_db::queue::Former;
use copyhold_s3::{
    copy::{Job, Journal, OnExisting, Source, Target},
    store::Store,
};

use super::{
    pulse::{Pulse, takes_bytes_slowly},
    slots::{Room, Slot, Slots},
    straggler::Stragglers,
    trial::{Trial, TrialOrder},
};
use crate::metrics;

/// The replicas of this daemon: which may be read, which may be written to and how, and why not.
#[derive(Debug, Clone)]
pub struct Lanes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    replicas: Vec<Replica>,
    view: RwLock<View>,
    trials: Mutex<Vec<TrialOrder>>,
    stragglers: Stragglers,
}

/// One replica of the configuration.
#[derive(Debug, Clone)]
pub struct Replica {
    pub name: ReplicaName,
    pub store: Arc<Store>,
    /// It may be a source.
    pub read: bool,
    /// Copies that may be under way to it: fewer than there are workers, so that a slow one leaves some to the others.
    permits: Slots,
    pulse: Arc<Pulse>,
    doubts: Arc<Doubts>,
    /// Objects that are about to be read there.
    reading: Arc<AtomicUsize>,
}

/// Since when a replica is in doubt, in each role.
#[derive(Debug, Default)]
struct Doubts {
    reading: Mutex<Option<Instant>>,
    writing: Mutex<Option<Instant>>,
}

impl Doubts {
    fn of(&self, role: Direction) -> Option<Instant> {
        *self.lock(role)
    }

    fn lock(&self, role: Direction) -> std::sync::MutexGuard<'_, Option<Instant>> {
        let of = match role {
            Direction::Read => &self.reading,
            Direction::Write => &self.writing,
        };
        of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object that is about to be read somewhere.
#[derive(Debug)]
pub struct Reading(Arc<AtomicUsize>);

impl Reading {
    fn begin(replica: &Replica) -> Self {
        replica.reading.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&replica.reading))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A target in doubt is waited for this long, since most doubts end sooner; then the others go on without it.
const DOUBTED_FOR: Duration = Duration::from_secs(1);

/// How far a target may fall behind the first that has the object.
const LAG: Duration = Duration::from_mins(1);

/// Which lanes to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// These, for so many rows that each of their targets has a permit for every one of them.
    Ask { lanes: Vec<ReplicaName>, rows: usize },
    /// None yet: a permit is about to come back. Asking the others meanwhile would copy each object twice, once per
    /// target, and leave the second copy behind the lane's floor.
    Wait,
}

/// What stands at the primary in force is the application's, whatever its section says of what was there before: it is
/// never written over.
fn leave_alone() -> OnExisting {
    OnExisting::Adopt { older_than: None }
}

impl Replica {
    /// `workers` objects are in flight at most, `reserved` of them fresh ones. One target may keep three quarters of
    /// either busy.
    #[must_use]
    pub fn new(store: Store, read: bool, workers: usize, reserved: usize) -> Self {
        let three_quarters = |n: usize| (n * 3).div_ceil(4);
        let permits =
            Slots::new(three_quarters(workers - reserved) + three_quarters(reserved), three_quarters(reserved));
        let pulse = Arc::new(Pulse::new(Instant::now()));
        let (doubts, reading) = (Arc::default(), Arc::default());
        Self { name: store.name().clone(), store: Arc::new(store), read, permits, pulse, doubts, reading }
    }
}

/// The right to write to some targets; a target's is given back as soon as its copy has ended.
pub type Permits = HashMap<ReplicaName, Permit>;

/// The right to write one object to one target.
#[derive(Debug)]
pub struct Permit {
    /// `None`: the object is tried beside those that have one.
    _slot: Option<Slot>,
    taken: Instant,
}

/// What is known of the replicas at the moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The primary in force.
    pub primary: Option<ReplicaName>,
    pub standings: BTreeMap<ReplicaName, Standing>,
    /// Those that were the primary once, and what is known of their contents for that.
    pub former: BTreeMap<ReplicaName, Former>,
}

/// What this daemon may do with a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: its bucket is not the one that the recorded copies are in, or that is not known yet.
    Barred { why: String },
    /// Nothing for now: its store is not well.
    Away { why: String },
    /// It may be read but not written to.
    ReadOnly { why: String },
    /// It may be written to.
    Open(OnExisting),
}

impl Permit {
    fn new(slot: Option<Slot>) -> Self {
        Self { _slot: slot, taken: Instant::now() }
    }
}

impl View {
    /// What is known of the contents of a replica that is not the primary any more, if the object was registered while
    /// it was, or before.
    fn was_primary_for(&self, replica: &ReplicaName, arrival: RegistrationOrder) -> Option<&Former> {
        self.former.get(replica).filter(|former| arrival <= former.through && self.primary.as_ref() != Some(replica))
    }

    /// What to do where something stands already. Under the key of an object that was registered while the replica was
    /// the primary stands what was registered then: an earlier content of the object's own, which is written over when
    /// that is registered anew at the primary of today. What was there before Copyhold came is left alone as ever.
    fn on_existing(&self, existing: OnExisting, replica: &ReplicaName, arrival: RegistrationOrder) -> OnExisting {
        match (existing, self.was_primary_for(replica, arrival)) {
            (OnExisting::Adopt { .. }, Some(former)) => {
                let foreign = |before| OnExisting::Adopt { older_than: Some(before) };
                former.foreign_before.map_or(OnExisting::PutOver, foreign)
            }
            (existing, _) => existing,
        }
    }
}

impl Standing {
    pub(super) fn is_readable(&self) -> bool {
        match self {
            Self::Barred { .. } | Self::Away { .. } => false,
            Self::ReadOnly { .. } | Self::Open(_) => true,
        }
    }
}

impl Inner {
    fn replicas_open(&self) -> Vec<&Replica> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let open = |replica: &&Replica| matches!(view.standings.get(&replica.name), Some(Standing::Open(_)));
        self.replicas.iter().filter(open).collect()
    }

    /// Whether its copies take many times as long as those to another, or single requests of size do.
    fn is_slow(&self, replica: &Replica) -> bool {
        let mut others = self.replicas_open();
        others.retain(|other| other.name != replica.name);
        let speeds = others.iter().filter_map(|other| other.store.bytes_per_second());
        replica.pulse.is_slow(others.iter().map(|other| &*other.pulse))
            || takes_bytes_slowly(replica.store.bytes_per_second(), speeds)
    }

    /// Permits that may be taken for it. A slow target gets none while its objects hold much of the memory already, and one
    /// in doubt few.
    fn free(&self, replica: &Replica, room: Room) -> usize {
        if self.stragglers.are_full() && self.is_slow(replica) {
            return 0;
        }
        let free = replica.permits.free(room);
        if replica.doubts.of(Direction::Write).is_some() {
            free.min(MAX_IN_DOUBT.saturating_sub(replica.permits.taken()))
        } else {
            free
        }
    }

    /// Whether the others go on without it when it has no permit: they would be as slow.
    fn holds_up_no_other(&self, replica: &Replica) -> bool {
        let now = Instant::now();
        let doubted = |since: Instant| now.saturating_duration_since(since) >= DOUBTED_FOR;
        replica.pulse.hangs(now) || replica.doubts.of(Direction::Write).is_some_and(doubted) || self.is_slow(replica)
    }

    /// Objects that may be begun while their source is in doubt; `None`: it is not.
    fn readable_in_doubt(&self) -> Option<usize> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let primary = self.replicas.iter().find(|r| view.primary.as_ref() == Some(&r.name))?;
        primary.doubts.of(Direction::Read)?;
        Some(MAX_IN_DOUBT.saturating_sub(primary.reading.load(Ordering::Relaxed)))
    }
}

impl Lanes {
    /// Nothing is served until [`Lanes::set`] says so.
    #[must_use]
    pub fn new(replicas: Vec<Replica>, stragglers: Stragglers) -> Self {
        Self(Arc::new(Inner { replicas, view: RwLock::default(), trials: Mutex::default(), stragglers }))
    }

    #[must_use]
    pub fn replicas(&self) -> &[Replica] {
        &self.0.replicas
    }

    /// Takes over what was found out.
    pub fn set(&self, view: View) {
        for (replica, standing) in &view.standings {
            metrics::replica_served(replica, matches!(standing, Standing::Open(_)));
        }
        *self.0.view.write().unwrap_or_else(PoisonError::into_inner) = view;
    }

    /// Takes one replica out of use at once; the next [`Lanes::set`] says more.
    pub(super) fn sicken(&self, replica: &ReplicaName, blocks: BreakerScope, why: &str) {
        let mut view = self.0.view.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(standing) = view.standings.get_mut(replica) {
            let why = why.to_owned();
            match (blocks, &standing) {
                (BreakerScope::All, Standing::ReadOnly { .. } | Standing::Open(_)) => {
                    *standing = Standing::Away { why }
                }
                (BreakerScope::Writing, Standing::Open(_)) => *standing = Standing::ReadOnly { why },
                _ => {}
            }
        }
    }

    /// Lets some objects be tried.
    pub(super) fn offer(&self, trial: TrialOrder) {
        let mut trials = self.0.trials.lock().unwrap_or_else(PoisonError::into_inner);
        trials.retain(|t| t.replica != trial.replica);
        trials.push(trial);
    }

    /// What is to be tried, once.
    pub(super) fn take_trial(&self) -> Option<TrialOrder> {
        let mut trials = self.0.trials.lock().unwrap_or_else(PoisonError::into_inner);
        trials.retain(|trial| !trial.is_over());
        trials.pop()
    }

    /// Puts a replica in doubt, or ends that.
    pub(super) fn doubt(&self, replica: &ReplicaName, role: Direction, is_doubted: bool) {
        if let Some(replica) = self.0.replicas.iter().find(|r| r.name == *replica) {
            let mut since = replica.doubts.lock(role);
            *since = is_doubted.then(|| since.unwrap_or_else(Instant::now));
            let either = since.is_some();
            drop(since);
            let other = if role == Direction::Read { Direction::Write } else { Direction::Read };
            metrics::in_doubt(&replica.name, either || replica.doubts.of(other).is_some());
        }
    }

    #[must_use]
    pub fn view(&self) -> View {
        self.0.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The lanes that may be written to, in the order of the configuration.
    #[must_use]
    pub fn open(&self) -> Vec<ReplicaName> {
        self.0.replicas_open().into_iter().map(|replica| replica.name.clone()).collect()
    }

    /// Whether the primary in force may be read: if not, hardly an object has a source.
    #[must_use]
    pub fn primary_is_readable(&self) -> bool {
        let view = self.view();
        view.primary.is_some_and(|primary| view.standings.get(&primary).is_some_and(Standing::is_readable))
    }

    /// The replicas that may be read.
    #[must_use]
    pub fn readable(&self) -> Vec<ReplicaName> {
        let view = self.view();
        let readable = |r: &&Replica| r.read && view.standings.get(&r.name).is_some_and(Standing::is_readable);
        self.0.replicas.iter().filter(readable).map(|r| r.name.clone()).collect()
    }

    /// Which of them to ask, and for how much.
    #[must_use]
    pub fn choose(&self, room: Room) -> Choice {
        let (mut lanes, mut rows) = (Vec::new(), self.0.readable_in_doubt().unwrap_or(usize::MAX));
        if rows == 0 {
            return Choice::Wait;
        }
        for replica in self.0.replicas_open() {
            match self.0.free(replica, room) {
                0 if !self.0.holds_up_no_other(replica) => return Choice::Wait,
                0 => {}
                free => {
                    rows = rows.min(free);
                    lanes.push(replica.name.clone());
                }
            }
        }
        if lanes.is_empty() { Choice::Wait } else { Choice::Ask { lanes, rows } }
    }

    /// A copy to this target has ended.
    pub fn give_back(&self, target: &ReplicaName, permit: &Permit, well: bool) {
        if let Some(replica) = self.0.replicas.iter().find(|r| r.name == *target) {
            replica.pulse.beat(permit.taken.elapsed(), well, Instant::now());
        }
    }

    /// Whether all of these are slow; `None`: there are none.
    pub(super) fn are_slow<'a>(&self, targets: impl Iterator<Item = &'a ReplicaName>) -> Option<bool> {
        let slow = |target: &ReplicaName| self.0.replicas.iter().any(|r| r.name == *target && self.0.is_slow(r));
        targets.map(slow).reduce(|all, slow| all && slow)
    }

    pub(super) fn stragglers(&self) -> &Stragglers {
        &self.0.stragglers
    }

    /// What is to be copied from where to where, with a permit for each target. A target that has none left is left
    /// out: its copy stays due, and another claim makes it.
    ///
    /// Sources are the replicas on record, the primary first. The primary is also one when no other is, whatever the
    /// row says of it: an object may be registered before anybody has seen it there. Then it is no target: reading
    /// it is its proof. So are those that were the primary when it was registered. While the only ones on record are
    /// away, there is no source.
    ///
    /// `trial`: a target besides those that are well, or in spite of a doubt.
    #[must_use]
    pub fn job(
        &self,
        lease: &Lease,
        room: Room,
        trial: Option<&Trial>,
        journal: Arc<dyn Journal>,
    ) -> (Job, Permits, Option<Reading>) {
        let view = self.view();
        let is_primary = |r: &Replica| view.primary.as_ref() == Some(&r.name);
        let readable = |r: &Replica| r.read && view.standings.get(&r.name).is_some_and(Standing::is_readable);
        let replicas = || self.0.replicas.iter().zip(&lease.replicas);
        let mut sources: Vec<&Replica> =
            replicas().filter(|(r, state)| state.recorded && readable(r)).map(|(r, _)| r).collect();
        let away = |r: &Replica| matches!(view.standings.get(&r.name), Some(Standing::Away { .. }));
        if sources.is_empty() && !replicas().any(|(r, state)| state.recorded && r.read && away(r)) {
            // Not for a later generation: what stands there is the content of an earlier one.
            let was_primary =
                |r: &Replica| view.former.get(&r.name).is_some_and(|f| lease.generation <= f.begun_through);
            let may_have = |r: &Replica| is_primary(r) || was_primary(r);
            sources.extend(replicas().map(|(r, _)| r).filter(|r| may_have(r) && readable(r)));
        }
        sources.sort_by_key(|r| !is_primary(r));
        let mut permits = Permits::new();
        let targets = replicas()
            .filter(|(r, state)| state.due && !sources.iter().any(|s| s.name == r.name))
            .filter_map(|(r, state)| {
                let damaged = state.prior.is_some_and(|prior| prior.class == Some(FailureClass::Corrupt));
                let existing = match (view.standings.get(&r.name)?, trial) {
                    // What was read there and is not the object may be a content that nobody has registered.
                    (Standing::Open(existing), _) if damaged => *existing,
                    (Standing::Open(existing), _) => view.on_existing(*existing, &r.name, lease.registration_order),
                    (Standing::ReadOnly { .. }, Some(trial)) if trial.replica == r.name => trial.existing?,
                    (Standing::ReadOnly { .. } | Standing::Away { .. } | Standing::Barred { .. }, _) => return None,
                };
                let existing = if is_primary(r) { leave_alone() } else { existing };
                let slot = if trial.is_some_and(|trial| trial.replica == r.name) {
                    None
                } else {
                    Some(r.permits.take(room, self.0.free(r, room).min(1)).pop()?)
                };
                permits.insert(r.name.clone(), Permit::new(slot));
                let again = lease.swept.is_some() || state.prior.is_some();
                Some(Target {
                    store: Arc::clone(&r.store),
                    existing,
                    slow: self.0.is_slow(r),
                    again,
                    damaged,
                    folds: r.store.folds(),
                })
            })
            .collect();
        let recorded = |r: &Replica| lease.replicas.iter().any(|state| state.replica == r.name && state.recorded);
        // While there is none, no replica's content may be judged by another's.
        let primary = |r: &Replica| view.primary.is_none() || is_primary(r);
        let source = |r: &Replica| Source { store: Arc::clone(&r.store), recorded: recorded(r), primary: primary(r) };
        let reading = sources.first().map(|source| Reading::begin(source));
        let primary_now = self.0.replicas.iter().find(|r| is_primary(r) && readable(r));
        let job = Job {
            key: lease.key.clone(),
            content: lease.content,
            metadata: lease.metadata,
            primary: primary_now.map(|r| Arc::clone(&r.store)),
            kept: RecordedSource { reading: lease.source.clone(), recorded_us: None },
            stated_bytes: lease.size_bytes,
            sources: sources.into_iter().map(source).collect(),
            targets,
            lag: LAG,
            journal,
        };
        (job, permits, reading)
    }
}
