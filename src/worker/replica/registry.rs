//! The replicas of this daemon: their access, their permits, and which lanes to claim from.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use copyhold_core::domain::{BreakerScope, Direction, MAX_IN_DOUBT, ReplicaName};
use copyhold_s3::store::Store;

use super::{
    access::{ReplicaAccess, ReplicaSnapshot},
    probe_copy::ProbeCopyOrder,
    slow_targets::SlowCopies,
    speed::{TargetSpeed, takes_bytes_slowly},
};
use crate::{
    metrics,
    worker::slots::{Slot, SlotPool, Slots},
};

/// An attempt waits this long for a target in doubt, since most doubts end sooner. Then the others continue without it.
const DOUBTED_FOR: Duration = Duration::from_secs(1);

/// The replicas of this daemon: which it may read, which it may write to and how, and why not.
#[derive(Debug, Clone)]
pub struct ReplicaRegistry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    replicas: Vec<Replica>,
    snapshot: RwLock<ReplicaSnapshot>,
    probe_copies: Mutex<Vec<ProbeCopyOrder>>,
    slow_copies: SlowCopies,
}

/// One replica of the configuration.
#[derive(Debug, Clone)]
pub struct Replica {
    pub name: ReplicaName,
    pub store: Arc<Store>,
    /// It may be a source.
    pub read: bool,
    /// Copies that may be under way to it: fewer than there are workers, so that a slow target leaves some to the
    /// others.
    permits: Slots,
    speed: Arc<TargetSpeed>,
    doubts: Arc<Doubts>,
    /// Objects that are about to be read there.
    active_reads: Arc<AtomicUsize>,
}

/// Since when a replica is in doubt, as a source and as a target.
#[derive(Debug, Default)]
struct Doubts {
    reading: Mutex<Option<Instant>>,
    writing: Mutex<Option<Instant>>,
}

/// An object that is about to be read somewhere.
#[derive(Debug)]
pub struct ActiveRead(Arc<AtomicUsize>);

/// The right to write to some targets. An attempt gives a target's back as soon as that copy has ended.
pub type TargetPermits = HashMap<ReplicaName, TargetPermit>;

/// The right to write one object to one target.
#[derive(Debug)]
pub struct TargetPermit {
    /// `None`: a probe copy, which needs no slot.
    _slot: Option<Slot>,
    taken: Instant,
}

/// Which lanes to ask for work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneChoice {
    /// These, for at most `rows` rows: each of their targets has a permit for every one of them.
    Ask { lanes: Vec<ReplicaName>, rows: usize },
    /// None yet: a permit is about to come back. Asking the other lanes meanwhile would copy each object twice, once
    /// per target, and leave the second copy behind the lane's low-water mark.
    Wait,
}

impl Replica {
    /// At most `workers` objects are in flight, `reserved` of them recently registered ones. One target may keep three
    /// quarters of either busy.
    #[must_use]
    pub fn new(store: Store, read: bool, workers: usize, reserved: usize) -> Self {
        let three_quarters = |n: usize| (n * 3).div_ceil(4);
        let permits =
            Slots::new(three_quarters(workers - reserved) + three_quarters(reserved), three_quarters(reserved));
        let speed = Arc::new(TargetSpeed::new(Instant::now()));
        let (doubts, active_reads) = (Arc::default(), Arc::default());
        Self { name: store.name().clone(), store: Arc::new(store), read, permits, speed, doubts, active_reads }
    }
}

impl ReplicaRegistry {
    /// No replica is usable before the first [`ReplicaRegistry::set`].
    #[must_use]
    pub fn new(replicas: Vec<Replica>, slow_copies: SlowCopies) -> Self {
        Self(Arc::new(Inner { replicas, snapshot: RwLock::default(), probe_copies: Mutex::default(), slow_copies }))
    }

    #[must_use]
    pub fn replicas(&self) -> &[Replica] {
        &self.0.replicas
    }

    /// Replaces what is known of the replicas.
    pub fn set(&self, snapshot: ReplicaSnapshot) {
        for (replica, access) in &snapshot.access {
            metrics::replica_served(replica, matches!(access, ReplicaAccess::Writable(_)));
        }
        *self.0.snapshot.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    #[must_use]
    pub fn snapshot(&self) -> ReplicaSnapshot {
        self.0.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes one replica out of use at once; the next [`ReplicaRegistry::set`] replaces this.
    pub(super) fn mark_unhealthy(&self, replica: &ReplicaName, blocks: BreakerScope, why: &str) {
        self.0.snapshot.write().unwrap_or_else(PoisonError::into_inner).mark_unhealthy(replica, blocks, why);
    }

    /// Returns the lanes whose replicas are writable, in the order of the configuration.
    #[must_use]
    pub fn writable(&self) -> Vec<ReplicaName> {
        self.0.writable().into_iter().map(|replica| replica.name.clone()).collect()
    }

    /// Whether the primary in force may be read: if not, hardly an object has a source.
    #[must_use]
    pub fn primary_is_readable(&self) -> bool {
        let snapshot = self.snapshot();
        snapshot.primary.as_ref().is_some_and(|primary| snapshot.is_readable(primary))
    }

    /// Returns the replicas that may be read.
    #[must_use]
    pub fn readable(&self) -> Vec<ReplicaName> {
        let snapshot = self.snapshot();
        let readable = |r: &&Replica| r.read && snapshot.is_readable(&r.name);
        self.0.replicas.iter().filter(readable).map(|r| r.name.clone()).collect()
    }

    /// Decides which lanes to ask, and for how many rows.
    #[must_use]
    pub fn choose(&self, pool: SlotPool) -> LaneChoice {
        let (mut lanes, mut rows) = (Vec::new(), self.0.readable_in_doubt().unwrap_or(usize::MAX));
        if rows == 0 {
            return LaneChoice::Wait;
        }
        for replica in self.0.writable() {
            match self.0.free(replica, pool) {
                0 if !self.0.others_go_on_without(replica) => return LaneChoice::Wait,
                0 => {}
                free => {
                    rows = rows.min(free);
                    lanes.push(replica.name.clone());
                }
            }
        }
        if lanes.is_empty() { LaneChoice::Wait } else { LaneChoice::Ask { lanes, rows } }
    }

    /// Takes a permit for one copy; `None`: there is none left.
    pub(super) fn take_permit(&self, replica: &Replica, pool: SlotPool) -> Option<TargetPermit> {
        let slot = replica.permits.take(pool, self.0.free(replica, pool).min(1)).pop()?;
        Some(TargetPermit { _slot: Some(slot), taken: Instant::now() })
    }

    /// Records that a copy to this target has ended.
    pub fn record_copy_end(&self, target: &ReplicaName, permit: &TargetPermit, succeeded: bool) {
        if let Some(replica) = self.0.get(target) {
            replica.speed.record(permit.taken.elapsed(), succeeded, Instant::now());
        }
    }

    pub(super) fn is_slow(&self, replica: &Replica) -> bool {
        self.0.is_slow(replica)
    }

    /// Whether all of these targets are slow; `None`: there are none.
    pub(in crate::worker) fn are_slow<'a>(&self, targets: impl Iterator<Item = &'a ReplicaName>) -> Option<bool> {
        let slow = |target: &ReplicaName| self.0.get(target).is_some_and(|replica| self.0.is_slow(replica));
        targets.map(slow).reduce(|all, slow| all && slow)
    }

    pub(in crate::worker) fn slow_copies(&self) -> &SlowCopies {
        &self.0.slow_copies
    }

    /// Puts a replica in doubt, or ends that.
    pub(super) fn set_doubt(&self, replica: &ReplicaName, direction: Direction, is_doubted: bool) {
        if let Some(replica) = self.0.get(replica) {
            let mut since = replica.doubts.lock(direction);
            *since = is_doubted.then(|| since.unwrap_or_else(Instant::now));
            let either = since.is_some();
            drop(since);
            let other = if direction == Direction::Read { Direction::Write } else { Direction::Read };
            metrics::in_doubt(&replica.name, either || replica.doubts.since(other).is_some());
        }
    }

    /// Lets the claimer try some objects at a replica.
    pub(super) fn offer_probe_copy(&self, order: ProbeCopyOrder) {
        let mut orders = self.0.probe_copies.lock().unwrap_or_else(PoisonError::into_inner);
        orders.retain(|other| other.replica != order.replica);
        orders.push(order);
    }

    /// Takes an order for probe copies that is not over yet. Each order is taken once.
    pub(in crate::worker) fn take_probe_copy_order(&self) -> Option<ProbeCopyOrder> {
        let mut orders = self.0.probe_copies.lock().unwrap_or_else(PoisonError::into_inner);
        orders.retain(|order| !order.is_over());
        orders.pop()
    }
}

impl Inner {
    fn get(&self, name: &ReplicaName) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.name == *name)
    }

    fn writable(&self) -> Vec<&Replica> {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        let writable =
            |replica: &&Replica| matches!(snapshot.access.get(&replica.name), Some(ReplicaAccess::Writable(_)));
        self.replicas.iter().filter(writable).collect()
    }

    /// Whether copies to this replica take many times as long as copies to another, or its single large requests do.
    fn is_slow(&self, replica: &Replica) -> bool {
        let mut others = self.writable();
        others.retain(|other| other.name != replica.name);
        let speeds = others.iter().filter_map(|other| other.store.bytes_per_second());
        replica.speed.is_slow(others.iter().map(|other| &*other.speed))
            || takes_bytes_slowly(replica.store.bytes_per_second(), speeds)
    }

    /// Returns how many permits may be taken for it. A slow target gets none while its objects hold much of the memory
    /// already, and one in doubt gets few.
    fn free(&self, replica: &Replica, pool: SlotPool) -> usize {
        if self.slow_copies.are_full() && self.is_slow(replica) {
            return 0;
        }
        let free = replica.permits.free(pool);
        if replica.doubts.since(Direction::Write).is_some() {
            free.min(MAX_IN_DOUBT.saturating_sub(replica.permits.taken()))
        } else {
            free
        }
    }

    /// Whether the other lanes are asked although this replica has no permit left. Otherwise every target would run at
    /// the speed of the slowest.
    fn others_go_on_without(&self, replica: &Replica) -> bool {
        let now = Instant::now();
        let doubted = |since: Instant| now.saturating_duration_since(since) >= DOUBTED_FOR;
        replica.speed.is_stalled(now)
            || replica.doubts.since(Direction::Write).is_some_and(doubted)
            || self.is_slow(replica)
    }

    /// Returns how many objects may be begun while their source is in doubt; `None`: it is not.
    fn readable_in_doubt(&self) -> Option<usize> {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        let primary = self.get(snapshot.primary.as_ref()?)?;
        primary.doubts.since(Direction::Read)?;
        Some(MAX_IN_DOUBT.saturating_sub(primary.active_reads.load(Ordering::Relaxed)))
    }
}

impl Doubts {
    fn since(&self, direction: Direction) -> Option<Instant> {
        *self.lock(direction)
    }

    fn lock(&self, direction: Direction) -> MutexGuard<'_, Option<Instant>> {
        let doubt = match direction {
            Direction::Read => &self.reading,
            Direction::Write => &self.writing,
        };
        doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ActiveRead {
    pub(super) fn begin(replica: &Replica) -> Self {
        replica.active_reads.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&replica.active_reads))
    }
}

impl Drop for ActiveRead {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TargetPermit {
    pub(super) fn for_probe_copy() -> Self {
        Self { _slot: None, taken: Instant::now() }
    }
}
