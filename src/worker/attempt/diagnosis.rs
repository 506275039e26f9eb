//! Finds out what a step of a copy means. That takes a moment only where a store may be at fault.

use copyhold_core::domain::{Direction, Failure, FailureClass, FailureScope, Lease, MAX_ATTEMPTS, ReplicaName};
use copyhold_s3::copy::CopyStep;

use super::{folded_keys, task::Runner};
use crate::worker::replica::{Diagnosis, FailedObject, ProbeCopy, ProbeCopyResult};

impl Runner {
    pub(super) async fn diagnose_step(
        &self,
        lease: &Lease,
        probe_copy: Option<&ProbeCopy>,
        step: CopyStep,
    ) -> (CopyStep, Diagnosis) {
        let diagnosis = match &step {
            CopyStep::Opened { .. }
            | CopyStep::Described { .. }
            | CopyStep::Lacks { .. }
            | CopyStep::Kept { .. }
            | CopyStep::WriteBegun { .. }
            | CopyStep::WriteEnded { .. } => Diagnosis::UNATTRIBUTED,
            // The store could be read, whatever the bytes were.
            CopyStep::Read { from, .. } | CopyStep::Changed { from, .. } | CopyStep::Stale { replica: from, .. } => {
                self.health.record_success(from, Direction::Read, &lease.key);
                Diagnosis::UNATTRIBUTED
            }
            CopyStep::SourceFailed { replica, why } => {
                self.diagnose(lease, replica, Direction::Read, replica, why).await
            }
            CopyStep::Target { replica, result } => {
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
                Some(why) => (why.failed_source.is_none() && why.scope != FailureScope::Object)
                    .then_some(ProbeCopyResult::Failed),
            });
        }
        let Some(why) = failure else {
            self.health.record_success(target, Direction::Write, &lease.key);
            return Diagnosis::UNATTRIBUTED;
        };
        if !self.folded_keys().part_from_other(lease, target).await {
            return Diagnosis::Store { rest: folded_keys::REST };
        }
        match &why.failed_source {
            Some(source) => self.diagnose(lease, source, Direction::Read, target, why).await,
            None if probe_copy.is_some_and(|probe_copy| probe_copy.charges) => Diagnosis::UNATTRIBUTED,
            None => self.diagnose(lease, target, Direction::Write, target, why).await,
        }
    }

    /// Finds out whose fault it is that the store `at` failed as a source or a target, which prevents the copy to
    /// `target`.
    async fn diagnose(
        &self,
        lease: &Lease,
        at: &ReplicaName,
        direction: Direction,
        target: &ReplicaName,
        why: &Failure,
    ) -> Diagnosis {
        let prior = |name: &ReplicaName| lease.replicas.iter().find(|r| r.replica == *name).and_then(|r| r.prior);
        // A failure of a source is on record at each target that was due.
        let first = match direction {
            Direction::Write => prior(at).is_none(),
            Direction::Read => lease.targets().any(|r| r.prior.is_none()),
        };
        let diagnosis = self.health.diagnose(at, direction, FailedObject { key: &lease.key, first, why }).await;
        match (diagnosis, prior(target)) {
            // The copy may be parked. Then it matters since when it fails.
            (Diagnosis::Object { others: Some(ago), .. }, Some(prior))
                if prior.class == Some(why.class) && prior.attempts + 1 >= MAX_ATTEMPTS && parks_beside_others(why) =>
            {
                let failing_for = self.leases.failing_for(&lease.key, target, lease.generation).await;
                let failing_for = failing_for.ok().flatten().unwrap_or_default();
                Diagnosis::Object { others: Some(ago), failing_for }
            }
            (diagnosis, _) => diagnosis,
        }
    }
}

/// Whether a failure of this class parks an object only where others succeed.
fn parks_beside_others(why: &Failure) -> bool {
    matches!(why.class, FailureClass::Denied | FailureClass::Misconfigured | FailureClass::Full | FailureClass::Refused)
}
