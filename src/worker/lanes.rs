use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use super::slots::{Room, Slot, Slots};
use crate::{
    copy::{Job, OnExisting, Source, Target},
    domain::{Lease, ReplicaName},
    metrics,
    store::Store,
};

/// The replicas of this daemon: which may be read, which may be written to and how, and why not.
#[derive(Debug, Clone)]
pub struct Lanes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    replicas: Vec<Replica>,
    view: RwLock<View>,
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
    /// When one was last given back.
    freed: Arc<Mutex<Instant>>,
}

/// A target none of whose permits has come back for so long hangs, and the others go on without it.
const HANGS_AFTER: Duration = Duration::from_secs(1);

/// Which lanes to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// These, for so many rows that each of their targets has a permit for every one of them.
    Ask { lanes: Vec<ReplicaName>, rows: usize },
    /// None yet: a permit is about to come back. Asking the others meanwhile would copy each object twice, once per
    /// target, and leave the second copy behind the lane's floor.
    Wait,
}

impl Replica {
    /// `workers` objects are in flight at most, `reserved` of them fresh ones. One target may keep three quarters of
    /// either busy.
    #[must_use]
    pub fn new(store: Store, read: bool, workers: usize, reserved: usize) -> Self {
        let three_quarters = |n: usize| (n * 3).div_ceil(4);
        let permits =
            Slots::new(three_quarters(workers - reserved) + three_quarters(reserved), three_quarters(reserved));
        let freed = Arc::new(Mutex::new(Instant::now()));
        Self { name: store.name().clone(), store: Arc::new(store), read, permits, freed }
    }
}

/// The right to write to some targets; a target's is given back as soon as its copy has ended.
pub type Permits = HashMap<ReplicaName, Slot>;

/// What is known of the replicas at the moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The primary in force.
    pub primary: Option<ReplicaName>,
    pub standings: BTreeMap<ReplicaName, Standing>,
}

/// What this daemon may do with a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: its bucket is not the one that the recorded copies are in, or that is not known yet.
    Barred { why: String },
    /// It may be read but not written to.
    ReadOnly { why: String },
    /// It may be written to.
    Open(OnExisting),
}

impl Inner {
    fn replicas_open(&self) -> Vec<&Replica> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let open = |replica: &&Replica| matches!(view.standings.get(&replica.name), Some(Standing::Open(_)));
        self.replicas.iter().filter(open).collect()
    }
}

impl Lanes {
    /// Nothing is served until [`Lanes::set`] says so.
    #[must_use]
    pub fn new(replicas: Vec<Replica>) -> Self {
        Self(Arc::new(Inner { replicas, view: RwLock::default() }))
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

    #[must_use]
    pub fn view(&self) -> View {
        self.0.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The lanes that may be written to, in the order of the configuration.
    #[must_use]
    pub fn open(&self) -> Vec<ReplicaName> {
        self.0.replicas_open().into_iter().map(|replica| replica.name.clone()).collect()
    }

    /// Which of them to ask, and for how much.
    #[must_use]
    pub fn choose(&self, room: Room) -> Choice {
        let (mut lanes, mut rows) = (Vec::new(), usize::MAX);
        for replica in self.0.replicas_open() {
            match replica.permits.free(room) {
                0 if replica.freed.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < HANGS_AFTER => {
                    return Choice::Wait;
                }
                0 => {}
                free => {
                    rows = rows.min(free);
                    lanes.push(replica.name.clone());
                }
            }
        }
        if lanes.is_empty() { Choice::Wait } else { Choice::Ask { lanes, rows } }
    }

    /// A copy to this target has ended, and its permit is free.
    pub fn freed(&self, target: &ReplicaName) {
        if let Some(replica) = self.0.replicas.iter().find(|r| r.name == *target) {
            *replica.freed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }

    /// What is to be copied from where to where, with a permit for each target. A target that has none left is left
    /// out: its copy stays due, and another claim makes it.
    ///
    /// Sources are the replicas on record, the primary first. The primary is also one when no other is, whatever the
    /// row says of it: an object may be registered before anybody has seen it there. Then it is no target: reading
    /// it is its proof.
    #[must_use]
    pub fn job(&self, lease: &Lease, room: Room) -> (Job, Permits) {
        let view = self.view();
        let is_primary = |r: &Replica| view.primary.as_ref() == Some(&r.name);
        let readable =
            |r: &Replica| r.read && !matches!(view.standings.get(&r.name), None | Some(Standing::Barred { .. }));
        let replicas = || self.0.replicas.iter().zip(&lease.replicas);
        let mut sources: Vec<&Replica> =
            replicas().filter(|(r, state)| state.recorded && readable(r)).map(|(r, _)| r).collect();
        if sources.is_empty() {
            sources.extend(replicas().map(|(r, _)| r).filter(|r| is_primary(r) && readable(r)));
        }
        sources.sort_by_key(|r| !is_primary(r));
        let mut permits = Permits::new();
        let targets = replicas()
            .filter(|(r, state)| state.due && !sources.iter().any(|s| s.name == r.name))
            .filter_map(|(r, _)| match view.standings.get(&r.name)? {
                Standing::Open(existing) => {
                    permits.insert(r.name.clone(), r.permits.take(room, 1).pop()?);
                    Some(Target { store: Arc::clone(&r.store), existing: *existing })
                }
                Standing::ReadOnly { .. } | Standing::Barred { .. } => None,
            })
            .collect();
        let recorded = |r: &Replica| lease.replicas.iter().any(|state| state.replica == r.name && state.recorded);
        // While there is none, no replica's content may be judged by another's.
        let primary = |r: &Replica| view.primary.is_none() || is_primary(r);
        let source = |r: &Replica| Source { store: Arc::clone(&r.store), recorded: recorded(r), primary: primary(r) };
        let job = Job {
            key: lease.key.clone(),
            content: lease.content,
            stated_bytes: lease.size_bytes,
            sources: sources.into_iter().map(source).collect(),
            targets,
        };
        (job, permits)
    }
}
