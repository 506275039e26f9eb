//! Runs one attempt: awaits what happens, hands it to [`AttemptState`] and executes the actions that it returns.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use copyhold_core::{
    domain::{Failure, Lease, Outcome, ReplicaName},
    timer::sleep_until_some,
};
use copyhold_db::{Leases, lease::FencedWrite};
use copyhold_s3::{
    copy::{self, CopyEnd, CopyStep, Job, Memory},
    store::Activity,
};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::{
    completer::Completer,
    content_changed::{ChangeDecision, ContentChanges},
    folded_keys::FoldedKeys,
    held_leases::HeldLeases,
    multipart_journal::Journals,
    record::AttemptRecord,
    state::{AbortReason, Action, AttemptState, Conclusion, Event},
    time_limit::TimeLimit,
    worker_slot::{Detach, WorkerSlot},
};
use crate::{
    metrics,
    wakeup::wake_channel::WakeSender,
    worker::{
        replica::{ActiveRead, Diagnosis, HealthMonitor, ProbeCopy, ProbeCopyResult, ReplicaRegistry, TargetPermits},
        slots::Slot,
    },
};

/// What an object got when it was claimed, beside its permits.
#[derive(Debug)]
pub struct AttemptResources {
    /// Its worker slot. The attempt gives it back as soon as the object only waits for a slow target, or is stuck.
    /// `None`: a probe copy, which needs no slot.
    pub slot: Option<Slot>,
    pub active_read: Option<ActiveRead>,
    /// How the copy to this target ends is evidence about its store.
    pub probe_copy: Option<ProbeCopy>,
}

/// What an attempt needs of the daemon.
#[derive(Debug, Clone)]
pub struct Runner {
    pub leases: Leases,
    pub held: HeldLeases,
    pub completer: Completer,
    pub journals: Journals,
    pub registry: ReplicaRegistry,
    pub health: HealthMonitor,
    pub memory: Memory,
    pub time_limit: TimeLimit,
    /// After this time nothing that a dead holder has sent still arrives at a store.
    pub settle: Duration,
    /// Decides what becomes of an unregistered content at the primary.
    pub changes: ContentChanges,
    /// Cancelled when everything under way is to stop.
    pub stop: CancellationToken,
    /// Notified whenever an attempt gives back a slot or a permit.
    pub freed: Arc<Notify>,
    /// Woken when a copy was deferred: the claimer has to look again when the next copy is due.
    pub wake_claimer: WakeSender,
}

/// The diagnoses that are being sought, each with its step.
type Diagnoses<'a> = FuturesUnordered<BoxFuture<'a, (CopyStep, Diagnosis)>>;

/// What one attempt holds while it runs.
struct Resources<'a> {
    permits: TargetPermits,
    active_read: Option<ActiveRead>,
    worker_slot: WorkerSlot,
    diagnoses: Diagnoses<'a>,
    /// Cancelling it stops the copy.
    lost: CancellationToken,
}

impl Runner {
    /// Copies one leased object to all replicas that lack it, and releases the lease.
    pub async fn run(&self, lease: Lease, job: Job, permits: TargetPermits, resources: AttemptResources) {
        if let Some(rest) = sources_deferred_for(&job) {
            if let Some(probe_copy) = &resources.probe_copy {
                probe_copy.ended(None);
            }
            drop((permits, resources));
            return self.defer(&lease, rest).await;
        }
        let (key, fence) = (lease.key.clone(), lease.fence);
        let attempt = AssertUnwindSafe(Box::pin(self.attempt(lease, job, permits, resources))).catch_unwind();
        if attempt.await.is_err() {
            // As if the holder had died: requests may be under way. If the heartbeat renewed the lease for ever, no
            // daemon could claim the object again.
            self.held.remove(&key, fence);
            error!(object.key = %key, "The work on {key} panicked; it is done again when its lease has run out");
        }
    }

    async fn attempt(&self, lease: Lease, mut job: Job, permits: TargetPermits, resources: AttemptResources) {
        let begun = Instant::now();
        let AttemptResources { slot, active_read, probe_copy } = resources;
        let lost = self.held.register(&lease, &self.stop);
        let record = self.begin(&lease, &mut job).await;
        let (sender, mut steps) = mpsc::unbounded_channel();
        let nothing_left = record.is_done();
        let activity = Activity::of(&job.key);
        let copying = activity.watch(async {
            if nothing_left { CopyEnd::Done } else { copy::copy(&job, &self.memory, &lost, &sender).await }
        });
        tokio::pin!(copying);

        let mut attempt = AttemptState::new(&lease, record, self.time_limit, begun);
        let probe_copy = probe_copy.as_ref();
        let mut held = Resources {
            permits,
            active_read,
            worker_slot: WorkerSlot::new(slot, self.registry.slow_copies().clone(), activity.clone()),
            diagnoses: FuturesUnordered::new(),
            lost: lost.clone(),
        };
        while !attempt.is_decided() {
            let event = tokio::select! {
                biased;
                Some(step) = steps.recv() => Event::Step(step),
                Some((step, diagnosis)) = held.diagnoses.next() => Event::Diagnosed(step, diagnosis),
                ended = &mut copying, if attempt.is_copying() => Event::CopyEnded(ended),
                () = sleep_until_some(held.worker_slot.next_check()), if attempt.is_copying() => {
                    Event::SlotChecked(held.worker_slot.detach(Instant::now()))
                }
                () = sleep_until_some(attempt.deadline()) => Event::Timer,
            };
            let has_ended = matches!(event, Event::CopyEnded(_));
            self.handle(&lease, probe_copy, &mut attempt, &mut held, event).await;
            if has_ended {
                // The last target's step comes together with the end.
                while let Ok(step) = steps.try_recv() {
                    self.handle(&lease, probe_copy, &mut attempt, &mut held, Event::Step(step)).await;
                }
            }
        }
        self.held.mark_ending(&lease.key, lease.fence);
        if !self.conclude(&lease, &mut attempt).await {
            // Before the row is free: the next holder must find them.
            self.note_unsettled(&lease, attempt.record.unsettled(&lease, true, self.settle)).await;
            self.release(&lease).await;
        }
        self.held.remove(&lease.key, lease.fence);
        metrics::object_done(begun.elapsed());
    }

    /// Hands an event to the attempt, and executes what follows from it.
    async fn handle<'a>(
        &'a self,
        lease: &'a Lease,
        probe_copy: Option<&'a ProbeCopy>,
        attempt: &mut AttemptState,
        held: &mut Resources<'a>,
        event: Event,
    ) {
        if let Event::Step(CopyStep::Lacks { replica, property }) = &event {
            metrics::not_carried(replica, *property);
        }
        let mut actions = VecDeque::from(attempt.on(event, Instant::now()));
        while let Some(action) = actions.pop_front() {
            match action {
                Action::ReturnPermit { target, succeeded } => {
                    if let Some(permit) = held.permits.remove(&target) {
                        self.registry.record_copy_end(&target, &permit, succeeded);
                        self.freed.notify_one();
                    }
                }
                Action::EndRead => held.active_read = None,
                Action::Diagnose(step) => {
                    if attempt.is_copying() {
                        let waits_for_slow = self.registry.are_slow(held.permits.keys());
                        held.worker_slot.note(&step, waits_for_slow, Instant::now());
                    }
                    held.diagnoses.push(self.diagnose_step(lease, probe_copy, step).boxed());
                }
                Action::WriteOutcomes => {
                    let report = attempt.record.report(lease, false, self.settle);
                    let answer = self.write(lease, report).await;
                    actions.extend(attempt.on(Event::Written(answer), Instant::now()));
                }
                Action::CancelCopy => held.lost.cancel(),
                Action::NotifyFreed => self.freed.notify_one(),
                Action::ReleaseStuckTargets => {
                    debug!(object.key = %lease.key, "No request of {} has moved anything for a while; others have its worker", lease.key);
                    if let Some(probe_copy) = probe_copy.filter(|of| held.permits.contains_key(&of.replica)) {
                        probe_copy.ended(Some(ProbeCopyResult::Failed));
                    }
                    held.permits.clear();
                }
                Action::DetachUntilDiagnosed => {
                    if held.worker_slot.detach_until_ruled() == Detach::Done {
                        self.freed.notify_one();
                    }
                }
            }
        }
    }

    /// Returns what is known before anything is read. Targets that would hold another object's copy are taken off the
    /// job.
    async fn begin(&self, lease: &Lease, job: &mut Job) -> AttemptRecord {
        let mut record = AttemptRecord::new(lease);
        record.add_outcomes(defer_spared_targets(lease, job));
        record.add_outcomes(self.folded_keys().keep_apart(lease, job).await);
        let targets = job.targets.iter().map(|target| target.store.name());
        record.expect(targets, job.sources.iter().map(|source| source.store.name()));
        record
    }

    /// Writes how the attempt ended. `true`: the lease is released.
    async fn conclude(&self, lease: &Lease, attempt: &mut AttemptState) -> bool {
        let aborted = attempt.aborted();
        if aborted == Some(AbortReason::TimeLimit) {
            metrics::copy_overdue();
        }
        match attempt.conclude() {
            // If the lease is lost, the proof is not written either.
            Conclusion::Stopped => attempt.record.has_proof() && self.write_last(lease, &mut attempt.record).await,
            Conclusion::Changed { from, content, said } => match self.changes.decide(lease, &from).await {
                ChangeDecision::Begin => {
                    self.note_unsettled(lease, attempt.record.unsettled(lease, false, self.settle)).await;
                    self.changes.begin_generation(lease, &from, content, said).await
                }
                ChangeDecision::Park(why) => self.write_parked(lease, &mut attempt.record, from, why).await,
                ChangeDecision::Unknown => false,
            },
            Conclusion::Report => self.write_last(lease, &mut attempt.record).await,
        }
    }

    /// Writes the last report. `true`: the lease is released.
    async fn write_last(&self, lease: &Lease, record: &mut AttemptRecord) -> bool {
        self.write(lease, record.report(lease, true, self.settle)).await != FencedWrite::Superseded
    }

    /// The same where a replica holds a content that is not copied.
    async fn write_parked(&self, lease: &Lease, record: &mut AttemptRecord, from: ReplicaName, why: Failure) -> bool {
        record.park(from, why);
        record.conclude();
        self.write_last(lease, record).await
    }

    /// Releases a lease untried; the copies that are due are deferred for so long.
    pub(in crate::worker) async fn defer(&self, lease: &Lease, rest: Duration) {
        self.held.register(lease, &self.stop);
        let mut record = AttemptRecord::new(lease);
        record.defer_all(rest);
        self.held.mark_ending(&lease.key, lease.fence);
        if !self.write_last(lease, &mut record).await {
            self.release(lease).await;
        }
        self.held.remove(&lease.key, lease.fence);
    }

    /// Asks when the primary's copy was recorded, if nothing is kept of the reading that fixed the content. That is so
    /// in rows that are older than that column.
    pub(in crate::worker) async fn recall(&self, lease: &Lease, job: &mut Job) {
        if let Some(primary) = job.sources.iter().find(|source| source.primary && source.recorded) {
            job.kept = self.changes.kept(lease, primary.store.name()).await;
        }
    }

    pub(super) fn folded_keys(&self) -> FoldedKeys<'_> {
        FoldedKeys { leases: &self.leases, registry: &self.registry }
    }
}

/// Returns for how long no source may be asked for the object; `None`: one may be.
fn sources_deferred_for(job: &Job) -> Option<Duration> {
    let rests = job.sources.iter().map(|source| source.store.spared_for(&job.key)).collect::<Option<Vec<_>>>()?;
    rests.into_iter().min()
}

/// Takes off the job those targets whose stores have asked not to be sent the key for a while, so that the object is
/// not read in vain.
fn defer_spared_targets(lease: &Lease, job: &mut Job) -> Vec<(ReplicaName, Outcome)> {
    let mut outcomes = Vec::new();
    job.targets.retain(|target| match target.store.spared_for(&lease.key) {
        None => true,
        Some(delay) => {
            outcomes.push((target.store.name().clone(), Outcome::Deferred { delay }));
            false
        }
    });
    outcomes
}
