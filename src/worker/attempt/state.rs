//! One attempt as a state machine: takes what has happened, returns what to do. No I/O, no clock, no async.
//!
//! [`Runner`](super::Runner) executes the actions. [`AttemptRecord`] turns the steps into outcomes.

use std::time::{Duration, Instant};

use copyhold_core::domain::{Content, Lease, ReplicaName, SourceReading};
use copyhold_db::lease::FencedWrite;
use copyhold_s3::copy::{CopyEnd, CopyStep};

use super::{record::AttemptRecord, time_limit::TimeLimit, worker_slot::Detach};
use crate::worker::replica::Diagnosis;

/// How long a proof waits for those of the other targets, so that one statement writes them together: small objects end
/// on all targets within milliseconds.
const TOGETHER: Duration = Duration::from_millis(20);

/// An attempt, from its first step to its conclusion.
#[derive(Debug)]
pub(super) struct AttemptState {
    pub record: AttemptRecord,
    begun: Instant,
    time_limit: TimeLimit,
    size_bytes: Option<u64>,
    /// How long the copy may take. It grows when the store states a larger size than the row.
    limit: Duration,
    phase: Phase,
    aborted: Option<AbortReason>,
    /// Steps that wait for their diagnosis.
    undiagnosed: usize,
    /// When to write the outcomes that are known so far.
    write_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Copying,
    /// The copy has ended. Some of its failures may still wait for their diagnosis.
    Diagnosing {
        was_cancelled: bool,
    },
    /// The lease is lost, or the daemon is to stop. Failures are not diagnosed any more: the next holder finds them
    /// again.
    Stopped,
}

/// Why the daemon aborted a copy although it held the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AbortReason {
    /// It took longer than it may.
    TimeLimit,
    /// Too many copies wait for slow targets.
    CrowdedOut,
}

/// What has happened.
#[derive(Debug)]
pub(super) enum Event {
    Step(CopyStep),
    Diagnosed(CopyStep, Diagnosis),
    SlotChecked(Detach),
    /// The copy has ended: no request of it is under way any more.
    CopyEnded(CopyEnd),
    /// [`AttemptState::deadline`] has come.
    Timer,
    /// The answer to [`Action::WriteOutcomes`].
    Written(FencedWrite),
}

/// What to do, in this order.
#[derive(Debug)]
pub(super) enum Action {
    /// The target has its answer, so it needs its permit no longer.
    ReturnPermit { target: ReplicaName, succeeded: bool },
    /// The source is not read any more.
    EndRead,
    /// Find out whose fault it is, and answer with [`Event::Diagnosed`].
    Diagnose(CopyStep),
    /// Write the outcomes that are known so far, and answer with [`Event::Written`].
    WriteOutcomes,
    /// Stop the copy; [`Event::CopyEnded`] follows.
    CancelCopy,
    /// A worker slot is free.
    NotifyFreed,
    /// Give the permits of all targets back: none of the requests moves anything.
    ReleaseStuckTargets,
    /// Give the worker slot back if that is possible: only diagnoses are awaited.
    DetachUntilDiagnosed,
}

/// How the attempt ends.
#[derive(Debug)]
pub(super) enum Conclusion {
    /// Write what is proven, if anything is, and release the lease.
    Stopped,
    /// The primary has another content by now.
    Changed { from: ReplicaName, content: Content, said: SourceReading },
    /// Write all outcomes.
    Report,
}

impl AttemptState {
    pub(super) fn new(lease: &Lease, record: AttemptRecord, time_limit: TimeLimit, begun: Instant) -> Self {
        Self {
            record,
            begun,
            time_limit,
            size_bytes: lease.size_bytes,
            limit: time_limit.for_size(lease.size_bytes.unwrap_or(0)),
            phase: Phase::Copying,
            aborted: None,
            undiagnosed: 0,
            write_at: None,
        }
    }

    pub(super) fn is_copying(&self) -> bool {
        self.phase == Phase::Copying
    }

    /// Whether nothing more has to happen before [`AttemptState::conclude`].
    pub(super) fn is_decided(&self) -> bool {
        match self.phase {
            Phase::Copying => false,
            Phase::Diagnosing { .. } => self.undiagnosed == 0,
            Phase::Stopped => true,
        }
    }

    /// Returns when to send [`Event::Timer`]; `None`: never.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.times_out_at().into_iter().chain(self.write_at).min()
    }

    fn times_out_at(&self) -> Option<Instant> {
        (self.phase == Phase::Copying && self.aborted.is_none()).then(|| self.begun + self.limit)
    }

    /// Takes what happened at `now`; returns what to do.
    pub(super) fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Step(step) => self.on_step(step),
            Event::Diagnosed(step, diagnosis) => {
                self.undiagnosed -= 1;
                self.record.apply(step, diagnosis);
                if self.phase == Phase::Copying && self.record.has_proof() {
                    self.write_at.get_or_insert(now + TOGETHER);
                }
                Vec::new()
            }
            Event::SlotChecked(Detach::Done) => vec![Action::NotifyFreed],
            Event::SlotChecked(Detach::CrowdedOut) => self.abort(AbortReason::CrowdedOut),
            Event::SlotChecked(Detach::Stuck) => {
                vec![Action::ReleaseStuckTargets, Action::EndRead, Action::NotifyFreed]
            }
            Event::CopyEnded(ended) => {
                let was_cancelled = ended == CopyEnd::Cancelled;
                if was_cancelled && self.aborted.is_none() {
                    (self.phase, self.write_at) = (Phase::Stopped, None);
                } else {
                    (self.phase, self.write_at) = (Phase::Diagnosing { was_cancelled }, Some(now + TOGETHER));
                }
                vec![Action::EndRead]
            }
            Event::Timer => self.on_timer(now),
            // While diagnoses are awaited, the last report finds out the same.
            Event::Written(FencedWrite::Superseded) if self.phase == Phase::Copying => vec![Action::CancelCopy],
            Event::Written(_) | Event::SlotChecked(Detach::NotYet) => Vec::new(),
        }
    }

    fn on_step(&mut self, step: CopyStep) -> Vec<Action> {
        self.record.observe(&step);
        let mut actions = Vec::new();
        match &step {
            CopyStep::Target { replica, result } => {
                actions.push(Action::ReturnPermit { target: replica.clone(), succeeded: result.is_ok() });
            }
            CopyStep::Opened { size_bytes } => {
                self.size_bytes = Some(*size_bytes);
                self.limit = self.limit.max(self.time_limit.for_size(*size_bytes));
            }
            CopyStep::Read { .. } => actions.push(Action::EndRead),
            _ => {}
        }
        if self.phase != Phase::Stopped {
            self.undiagnosed += 1;
            actions.push(Action::Diagnose(step));
        } else if matches!(step, CopyStep::Read { .. } | CopyStep::Target { result: Ok(_), .. }) {
            // To find out what a failure means takes time that a stopped attempt does not have.
            self.record.apply(step, Diagnosis::UNATTRIBUTED);
        }
        actions
    }

    fn on_timer(&mut self, now: Instant) -> Vec<Action> {
        if self.times_out_at().is_some_and(|at| at <= now) {
            return self.abort(AbortReason::TimeLimit);
        }
        if self.write_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.write_at = None;
        let mut actions = Vec::new();
        if self.phase != Phase::Copying {
            actions.push(Action::DetachUntilDiagnosed);
        }
        if self.record.has_proof() {
            actions.push(Action::WriteOutcomes);
        }
        actions
    }

    /// As for a lost lease, the copy is cancelled: when it has ended, no request of it is under way any more.
    fn abort(&mut self, reason: AbortReason) -> Vec<Action> {
        self.aborted = Some(reason);
        vec![Action::CancelCopy]
    }

    /// Returns why the copy did not come to its end although the lease was held.
    pub(super) fn aborted(&self) -> Option<AbortReason> {
        let was_cancelled = matches!(self.phase, Phase::Diagnosing { was_cancelled: true });
        self.aborted.filter(|_| was_cancelled)
    }

    /// Completes the outcomes once [`AttemptState::is_decided`].
    pub(super) fn conclude(&mut self) -> Conclusion {
        match self.aborted() {
            None => {}
            Some(AbortReason::TimeLimit) => self.record.exceed_time_limit(self.limit, self.size_bytes),
            Some(AbortReason::CrowdedOut) => self.record.crowded_out(),
        }
        if self.phase == Phase::Stopped {
            return Conclusion::Stopped;
        }
        if let Some((from, content, said)) = self.record.changed.take() {
            return Conclusion::Changed { from, content, said };
        }
        self.record.conclude();
        Conclusion::Report
    }
}

#[cfg(test)]
mod tests;
