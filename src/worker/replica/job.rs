//! Chooses the sources and targets of an attempt from its lease and what is known of the replicas.

use std::{sync::Arc, time::Duration};

use copyhold_core::domain::{FailureClass, Lease, RecordedSource};
use copyhold_s3::copy::{Job, Journal, OnExisting, Source, Target};

use super::{
    access::ReplicaAccess,
    probe_copy::ProbeCopy,
    registry::{ActiveRead, Replica, ReplicaRegistry, TargetPermit, TargetPermits},
};
use crate::worker::slots::SlotPool;

/// How far a target may fall behind the first that has the object.
const LAG: Duration = Duration::from_mins(1);

/// The application owns what the primary in force holds, whatever the replica's section says: it is never overwritten.
const NEVER_OVERWRITE: OnExisting = OnExisting::Adopt { older_than: None };

impl ReplicaRegistry {
    /// Returns what to copy from where to where, with a permit for each target. A target without a free permit is left
    /// out: its copy stays due, and another claim makes it.
    ///
    /// Sources are the replicas on record, the primary first. If none is on record, the primary is one, whatever the
    /// row says: an object may be registered before any daemon has seen it there. Then it is no target, since reading
    /// it is its proof. The same holds for replicas that were the primary when the object was registered. While the
    /// only ones on record are unavailable, there is no source.
    ///
    /// `probe_copy` names a target to try although its replica is in doubt, or open for probe copies alone.
    #[must_use]
    pub fn job(
        &self,
        lease: &Lease,
        pool: SlotPool,
        probe_copy: Option<&ProbeCopy>,
        journal: Arc<dyn Journal>,
    ) -> (Job, TargetPermits, Option<ActiveRead>) {
        let snapshot = self.snapshot();
        let is_primary = |r: &Replica| snapshot.primary.as_ref() == Some(&r.name);
        let readable = |r: &Replica| r.read && snapshot.is_readable(&r.name);
        let replicas = || self.replicas().iter().zip(&lease.replicas);
        let mut sources: Vec<&Replica> =
            replicas().filter(|(r, state)| state.recorded && readable(r)).map(|(r, _)| r).collect();
        let unavailable = |r: &Replica| matches!(snapshot.access.get(&r.name), Some(ReplicaAccess::Unavailable { .. }));
        if sources.is_empty() && !replicas().any(|(r, state)| state.recorded && r.read && unavailable(r)) {
            // Not for a later generation: a former primary holds the content of an earlier one.
            let was_primary =
                |r: &Replica| snapshot.former.get(&r.name).is_some_and(|f| lease.generation <= f.begun_through);
            let may_have = |r: &Replica| is_primary(r) || was_primary(r);
            sources.extend(replicas().map(|(r, _)| r).filter(|r| may_have(r) && readable(r)));
        }
        sources.sort_by_key(|r| !is_primary(r));
        let mut permits = TargetPermits::new();
        let targets = replicas()
            .filter(|(r, state)| state.due && !sources.iter().any(|s| s.name == r.name))
            .filter_map(|(r, state)| {
                let probe_copy = probe_copy.filter(|probe_copy| probe_copy.replica == r.name);
                let damaged = state.prior.is_some_and(|prior| prior.class == Some(FailureClass::Corrupt));
                let existing = match (snapshot.access.get(&r.name)?, probe_copy) {
                    // A daemon read other bytes there. They may be a content that no program has registered.
                    (ReplicaAccess::Writable(existing), _) if damaged => *existing,
                    (ReplicaAccess::Writable(existing), _) => {
                        snapshot.on_existing(*existing, &r.name, lease.registration_order)
                    }
                    (ReplicaAccess::ReadOnly { .. }, Some(probe_copy)) => probe_copy.existing?,
                    (
                        ReplicaAccess::ReadOnly { .. }
                        | ReplicaAccess::Unavailable { .. }
                        | ReplicaAccess::Blocked { .. },
                        _,
                    ) => return None,
                };
                let existing = if is_primary(r) { NEVER_OVERWRITE } else { existing };
                let permit = match probe_copy {
                    Some(_) => TargetPermit::for_probe_copy(),
                    None => self.take_permit(r, pool)?,
                };
                permits.insert(r.name.clone(), permit);
                let again = lease.swept.is_some() || state.prior.is_some();
                Some(Target {
                    store: Arc::clone(&r.store),
                    existing,
                    slow: self.is_slow(r),
                    again,
                    damaged,
                    folds: r.store.folds(),
                })
            })
            .collect();
        let recorded = |r: &Replica| lease.replicas.iter().any(|state| state.replica == r.name && state.recorded);
        // While there is no primary, no replica's content may be judged by another's.
        let primary = |r: &Replica| snapshot.primary.is_none() || is_primary(r);
        let source = |r: &Replica| Source { store: Arc::clone(&r.store), recorded: recorded(r), primary: primary(r) };
        let active_read = sources.first().map(|source| ActiveRead::begin(source));
        let primary_now = self.replicas().iter().find(|r| is_primary(r) && readable(r));
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
        (job, permits, active_read)
    }
}
