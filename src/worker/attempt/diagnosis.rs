//! Finds out what a step of a copy means. That takes a moment only where a store may be at fault.

use copyhold_core::domain::{Class, Failure, Lease, ReplicaName, Role, Scope, TRIES};
use copyhold_s3::copy::Step;

use super::{folded_keys, task::Runner};
use crate::worker::replica::{Diagnosis, FailedObject, ProbeCopy, ProbeCopyResult};

impl Runner {
    pub(super) async fn diagnose_step(
        &self,
        lease: &Lease,
        probe_copy: Option<&ProbeCopy>,
        step: Step,
    ) -> (Step, Diagnosis) {
        let diagnosis = match &step {
            Step::Opened { .. }
            | Step::Described { .. }
            | Step::Lacks { .. }
            | Step::Kept { .. }
            | Step::WriteBegun { .. }
            | Step::WriteEnded { .. } => Diagnosis::UNATTRIBUTED,
            // The store could be read, whatever the bytes were.
            Step::Read { from, .. } | Step::Changed { from, .. } | Step::Stale { replica: from, .. } => {
                self.health.record_success(from, Role::Source, &lease.key);
                Diagnosis::UNATTRIBUTED
            }
            Step::SourceFailed { replica, why } => self.diagnose(lease, replica, Role::Source, replica, why).await,
            Step::Target { replica, result } => {
                self.diagnose_target(lease, probe_copy, replica, result.as_ref().err()).await
            }
        };
        (step, diagnosis)
    }

    async fn diagnose_target(
        &self,
        lease: &Lease,
        probe_copy: Option<&ProbeCopy>,
        target: &ReplicaName,
        failure: Option<&Failure>,
    ) -> Diagnosis {
        let probe_copy = probe_copy.filter(|probe_copy| probe_copy.replica == *target);
        if let Some(probe_copy) = probe_copy {
            probe_copy.ended(match failure {
                None => Some(ProbeCopyResult::Succeeded),
                Some(why) => (why.source.is_none() && why.scope != Scope::Object).then_some(ProbeCopyResult::Failed),
            });
        }
        let Some(why) = failure else {
            self.health.record_success(target, Role::Target, &lease.key);
            return Diagnosis::UNATTRIBUTED;
        };
        if !self.folded_keys().part_from_other(lease, target).await {
            return Diagnosis::Store { rest: folded_keys::REST };
        }
        match &why.source {
            Some(source) => self.diagnose(lease, source, Role::Source, target, why).await,
            None if probe_copy.is_some_and(|probe_copy| probe_copy.charges) => Diagnosis::UNATTRIBUTED,
            None => self.diagnose(lease, target, Role::Target, target, why).await,
        }
    }

    /// Finds out whose fault it is that the store `at` failed in this role, which prevents the copy to `target`.
    async fn diagnose(
        &self,
        lease: &Lease,
        at: &ReplicaName,
        role: Role,
        target: &ReplicaName,
        why: &Failure,
    ) -> Diagnosis {
        let prior = |name: &ReplicaName| lease.replicas.iter().find(|r| r.replica == *name).and_then(|r| r.prior);
        // A failure of a source is on record at each target that was due.
        let first = match role {
            Role::Target => prior(at).is_none(),
            Role::Source => lease.targets().any(|r| r.prior.is_none()),
        };
        let diagnosis = self.health.diagnose(at, role, FailedObject { key: &lease.key, first, why }).await;
        match (diagnosis, prior(target)) {
            // The copy may be parked. Then it matters since when it fails.
            (Diagnosis::Object { others: Some(ago), .. }, Some(prior))
                if prior.class == Some(why.class) && prior.attempts + 1 >= TRIES && parks_beside_others(why) =>
            {
                let failing_for = self.queue.failing_for(&lease.key, target, lease.generation).await;
                let failing_for = failing_for.ok().flatten().unwrap_or_default();
                Diagnosis::Object { others: Some(ago), failing_for }
            }
            (diagnosis, _) => diagnosis,
        }
    }
}

/// Whether a failure of this class parks an object only where others succeed.
fn parks_beside_others(why: &Failure) -> bool {
    matches!(why.class, Class::Denied | Class::Misconfigured | Class::Full | Class::Refused)
}
