//! What this process knows of one store: its evidence in each direction, and its open breaker.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::{Duration, Instant},
};

use copyhold_core::domain::{BreakerScope, Direction, Evidence, FaultVerdict, ObjectKey};
use copyhold_s3::store::Store;
use tokio::sync::watch;

/// Rows without a source become due at least this often, and not before the probe is likely to be over.
pub(super) const LONGEST_REST: Duration = Duration::from_secs(30);
const AFTER_THE_PROBE: Duration = Duration::from_secs(1);
/// Rows whose target is blocked become due before its probe, which needs some to try. No daemon claims them until it is
/// over: by this time all of them know of the breaker.
const LONGEST_REST_OF_TARGET: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct StoreHealth {
    pub store: Arc<Store>,
    pub reading: DirectionHealth,
    pub writing: DirectionHealth,
    pub open: Mutex<Option<OpenBreaker>>,
    /// Its bucket was listed before. Without the right to list, which reading does not need, a refused listing is
    /// no evidence about the store.
    pub listable: AtomicBool,
    /// A listing was tried once, before there was any doubt, to find that out.
    pub contacted: AtomicBool,
}

/// What is known of a store in one direction.
#[derive(Debug)]
pub(super) struct DirectionHealth {
    pub evidence: Mutex<Evidence>,
    /// The last two objects that succeeded, the later one last.
    pub succeeded: Mutex<VecDeque<(ObjectKey, Instant)>>,
    /// Notified of each success, and when a doubt begins.
    pub changes: watch::Sender<()>,
    /// The last verdict, and when it was reached. Locked while one is sought.
    pub ruling: tokio::sync::Mutex<Option<(Instant, FaultVerdict)>>,
}

impl Default for DirectionHealth {
    fn default() -> Self {
        Self {
            evidence: Mutex::default(),
            succeeded: Mutex::default(),
            changes: watch::Sender::new(()),
            ruling: tokio::sync::Mutex::default(),
        }
    }
}

/// A breaker as this process knows it.
#[derive(Debug, Clone)]
pub(super) struct OpenBreaker {
    pub blocks: BreakerScope,
    pub why: String,
    pub probe_at: Instant,
    pub noted: Instant,
}

impl StoreHealth {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            reading: DirectionHealth::default(),
            writing: DirectionHealth::default(),
            open: Mutex::default(),
            listable: AtomicBool::default(),
            contacted: AtomicBool::default(),
        }
    }

    pub(super) fn of(&self, direction: Direction) -> &DirectionHealth {
        match direction {
            Direction::Read => &self.reading,
            Direction::Write => &self.writing,
        }
    }

    /// Returns for how long an object is deferred while the open breaker forbids this; `None`: it does not.
    pub(super) fn rest(&self, direction: Direction) -> Option<Duration> {
        let open = lock(&self.open);
        let open = open.as_ref().filter(|open| open.blocks.forbids(direction))?;
        let until = open.probe_at.saturating_duration_since(Instant::now());
        Some(match direction {
            Direction::Read => (until + AFTER_THE_PROBE).min(LONGEST_REST),
            Direction::Write => (until / 2).min(LONGEST_REST_OF_TARGET),
        })
    }
}

impl DirectionHealth {
    /// Returns how long ago another object succeeded.
    pub(super) fn others(&self, key: &ObjectKey) -> Option<Duration> {
        lock(&self.succeeded).iter().rev().find(|(other, _)| other != key).map(|(_, at)| at.elapsed())
    }
}

/// A poisoned lock only means that a task panicked between two of these short steps; what it guards is whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
