//! One attempt at one object, from its lease to the last report.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use copyhold_core::{
    domain::{Class, Failure, Lease, Next, Outcome, ReplicaName, Role, Scope, TRIES},
    timer::until,
};
use copyhold_db::queue::{Answer, Queue, Report, UnsettledWrite};
use copyhold_s3::{
    copy::{self, Ended, Job, Memory, Step},
    store::Activity,
};
use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    completer::Completer,
    content_changed::{ChangeDecision, ContentChanges},
    folded_keys::{self, FoldedKeys},
    held_leases::HeldLeases,
    multipart_journal::Journals,
    record::AttemptRecord,
    time_limit::TimeLimit,
    worker_slot::{Detach, WorkerSlot},
};
use crate::{
    metrics,
    wakeup::wake_channel::WakeSender,
    worker::{
        replica::{
            ActiveRead, Diagnosis, FailedObject, HealthMonitor, ProbeCopy, ProbeCopyResult, ReplicaRegistry,
            TargetPermits,
        },
        slots::Slot,
    },
};

/// How long a proof waits for those of the other targets, so that they are written together:
/// small objects end on all targets within milliseconds.
const TOGETHER: Duration = Duration::from_millis(20);

/// How long it is tried to give back a row that somebody has in hand, and how often.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(5);
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Between two attempts to note writes that may still arrive.
const NOTE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Why a copy was broken off though its lease was ours.
enum AbortReason {
    /// It took longer than it may.
    TimeLimit,
    /// There were too many that wait for slow targets.
    CrowdedOut,
}

/// What was given to an object when it was claimed, beside its permits.
#[derive(Debug)]
pub struct AttemptResources {
    /// Its worker. It is given back as soon as the object only waits for a slow target, or is stuck. `None`: it is tried
    /// beside those that have one.
    pub slot: Option<Slot>,
    pub active_read: Option<ActiveRead>,
    /// How it ends at this target says something of the store.
    pub probe_copy: Option<ProbeCopy>,
}

/// What the work on one object needs.
#[derive(Debug, Clone)]
pub struct Runner {
    pub queue: Queue,
    pub held: HeldLeases,
    pub completer: Completer,
    pub journals: Journals,
    pub registry: ReplicaRegistry,
    pub health: HealthMonitor,
    pub memory: Memory,
    pub time_limit: TimeLimit,
    /// After this time nothing that a dead holder has sent still arrives at a store.
    pub settle: Duration,
    /// What becomes of a content at the primary that nobody registered.
    pub changes: ContentChanges,
    /// Cancelled when everything under way is to be let go.
    pub stop: CancellationToken,
    /// Told whenever a slot or a permit is given back.
    pub freed: Arc<Notify>,
    /// Told when a copy was put off: whoever waits for the next that is due has to look again.
    pub wake_claimer: WakeSender,
}

/// How long it rests because no source may be asked for it; `None`: one may.
fn sources_deferred_for(job: &Job) -> Option<Duration> {
    let rests = job.sources.iter().map(|source| source.store.spares(&job.key)).collect::<Option<Vec<_>>>()?;
    rests.into_iter().min()
}

/// Takes those targets off the job whose stores have asked to be left alone where the object is: it is not read in vain.
fn defer_spared_targets(lease: &Lease, job: &mut Job) -> Vec<(ReplicaName, Outcome)> {
    let mut outcomes = Vec::new();
    job.targets.retain(|target| match target.store.spares(&lease.key) {
        None => true,
        Some(delay) => {
            outcomes.push((target.store.name().clone(), Outcome::Rests { delay }));
            false
        }
    });
    outcomes
}

impl Runner {
    /// Copies one leased object to all replicas that lack it, and gives the lease back.
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
            // As if its holder had died: requests may be under way. Renewed for ever, it would be nobody's.
            self.held.remove(&key, fence);
            error!(object.key = %key, "The work on {key} panicked; it is done again when its lease has run out");
        }
    }

    #[expect(clippy::too_many_lines, reason = "one loop over all that may happen while an object is copied")]
    async fn attempt(&self, lease: Lease, mut job: Job, mut permits: TargetPermits, resources: AttemptResources) {
        let begun = Instant::now();
        let AttemptResources { slot, mut active_read, probe_copy } = resources;
        let lost = self.held.register(&lease, &self.stop);
        let mut record = self.begin(&lease, &mut job).await;
        let (steps, mut taken) = mpsc::unbounded_channel();
        let is_done = record.is_done();
        let activity = Activity::of(&job.key);
        let copying = activity
            .watch(async { if is_done { Ended::Done } else { copy::copy(&job, &self.memory, &lost, &steps).await } });
        tokio::pin!(copying);

        let mut size_bytes = lease.size_bytes;
        let mut limit = self.time_limit.for_size(size_bytes.unwrap_or(0));
        let mut aborted = None;
        // Steps whose meaning is still being found out.
        let mut judging = FuturesUnordered::new();
        let probe_copy = probe_copy.as_ref();
        let mut worker_slot = WorkerSlot::new(slot, self.registry.slow_copies().clone(), activity.clone());
        let mut write_at: Option<Instant> = None;
        let ended = loop {
            tokio::select! {
                biased;
                Some(step) = taken.recv() => {
                    self.return_permit(&mut permits, &step);
                    record.observe(&step);
                    worker_slot.note(&step, self.registry.are_slow(permits.keys()), Instant::now());
                    match &step {
                        Step::Opened { size_bytes: found } => {
                            size_bytes = Some(*found);
                            limit = limit.max(self.time_limit.for_size(*found));
                        }
                        Step::Read { .. } => active_read = None,
                        _ => {}
                    }
                    judging.push(self.judge(&lease, probe_copy, step));
                }
                Some((step, diagnosis)) = judging.next() => {
                    record.apply(step, diagnosis);
                    if record.has_proof() {
                        write_at.get_or_insert_with(|| Instant::now() + TOGETHER);
                    }
                }
                ended = &mut copying => break ended,
                () = until(worker_slot.next_check()) => match worker_slot.detach(Instant::now()) {
                    Detach::Done => self.freed.notify_one(),
                    Detach::NotYet => {}
                    Detach::CrowdedOut => {
                        aborted = Some(AbortReason::CrowdedOut);
                        lost.cancel();
                    }
                    Detach::Stuck => {
                        debug!(object.key = %lease.key, "No request of {} has moved anything for a while; others have its worker", lease.key);
                        if let Some(probe_copy) = probe_copy.filter(|probe_copy| permits.contains_key(&probe_copy.replica)) {
                            probe_copy.ended(Some(ProbeCopyResult::Failed));
                        }
                        permits.clear();
                        active_read = None;
                        self.freed.notify_one();
                    }
                },
                () = tokio::time::sleep_until((begun + limit).into()), if aborted.is_none() => {
                    // As for a lost lease: when the copy has ended, no request of it is under way any more.
                    aborted = Some(AbortReason::TimeLimit);
                    lost.cancel();
                }
                () = until(write_at) => {
                    write_at = None;
                    if self.write(&lease, record.report(&lease, false, self.settle)).await == Answer::Changed {
                        lost.cancel();
                    }
                }
            }
        };
        drop(active_read);
        let stopped = ended == Ended::Cancelled && aborted.is_none();
        // The last target's step comes together with the end.
        while let Ok(step) = taken.try_recv() {
            self.return_permit(&mut permits, &step);
            record.observe(&step);
            match step {
                // What a failure means takes time to find out, and whoever comes next finds it out as well.
                step if !stopped => judging.push(self.judge(&lease, probe_copy, step)),
                Step::Read { .. } | Step::Target { result: Ok(_), .. } => record.apply(step, Diagnosis::UNATTRIBUTED),
                _ => {}
            }
        }
        if !stopped {
            self.await_rulings(&lease, judging, &mut worker_slot, &mut record).await;
        }
        self.held.mark_ending(&lease.key, lease.fence);
        if ended == Ended::Cancelled {
            match aborted {
                None => {}
                Some(AbortReason::TimeLimit) => record.exceed_time_limit(limit, size_bytes),
                Some(AbortReason::CrowdedOut) => record.crowded_out(),
            }
        }
        let given_back = if stopped {
            // If the lease is lost, the proof is not written either.
            record.has_proof() && self.write(&lease, record.report(&lease, true, self.settle)).await != Answer::Changed
        } else if let Some((from, content, said)) = record.changed.take() {
            match self.changes.decide(&lease, &from).await {
                ChangeDecision::Begin => {
                    self.note_unsettled(&lease, record.unsettled(&lease, false, self.settle)).await;
                    self.changes.begin_generation(&lease, &from, content, said).await
                }
                ChangeDecision::Park(why) => self.conclude_parked(&lease, &mut record, from, why).await,
                ChangeDecision::Unknown => false,
            }
        } else {
            self.conclude(&lease, &mut record).await
        };
        if !given_back {
            // Before the row is free: whoever claims it next must find them.
            self.note_unsettled(&lease, record.unsettled(&lease, true, self.settle)).await;
            self.release(&lease).await;
        }
        self.held.remove(&lease.key, lease.fence);
        metrics::object_done(begun.elapsed());
    }

    fn folded_keys(&self) -> FoldedKeys<'_> {
        FoldedKeys { queue: &self.queue, registry: &self.registry }
    }

    /// What is known before anything is read. Targets that would hold another object's copy are off the job.
    async fn begin(&self, lease: &Lease, job: &mut Job) -> AttemptRecord {
        let mut record = AttemptRecord::new(lease);
        record.add_outcomes(defer_spared_targets(lease, job));
        record.add_outcomes(self.folded_keys().keep_apart(lease, job).await);
        record.expect(job);
        record
    }

    /// Waits until the rest is judged. Whose fault it is takes time to find out: neither a worker nor what is proven waits
    /// for that.
    async fn await_rulings(
        &self,
        lease: &Lease,
        mut judging: FuturesUnordered<impl Future<Output = (Step, Diagnosis)>>,
        worker_slot: &mut WorkerSlot,
        record: &mut AttemptRecord,
    ) {
        let mut write_at = Some(Instant::now() + TOGETHER);
        loop {
            tokio::select! {
                biased;
                judged = judging.next() => match judged {
                    Some((step, diagnosis)) => record.apply(step, diagnosis),
                    None => return,
                },
                () = until(write_at) => {
                    write_at = None;
                    if worker_slot.detach_until_ruled() == Detach::Done {
                        self.freed.notify_one();
                    }
                    if record.has_proof() {
                        // If the lease is lost, so it is when the rest is written.
                        let _ = self.write(lease, record.report(lease, false, self.settle)).await;
                    }
                }
            }
        }
    }

    /// Writes how it ended. `true`: the lease is given back.
    async fn conclude(&self, lease: &Lease, record: &mut AttemptRecord) -> bool {
        record.conclude();
        self.write(lease, record.report(lease, true, self.settle)).await != Answer::Changed
    }

    /// The same for what stands at a replica and is not copied.
    async fn conclude_parked(
        &self,
        lease: &Lease,
        record: &mut AttemptRecord,
        from: ReplicaName,
        why: Failure,
    ) -> bool {
        record.park(from, why);
        self.conclude(lease, record).await
    }

    /// Asks when the primary's copy was recorded, where nothing is kept of the reading that fixed the content: rows from
    /// before that was kept.
    pub(in crate::worker) async fn recall(&self, lease: &Lease, job: &mut Job) {
        if let Some(primary) = job.sources.iter().find(|source| source.primary && source.recorded) {
            job.kept = self.changes.kept(lease, primary.store.name()).await;
        }
    }

    /// Finds out what a step means, which takes a moment only where a store may be at fault.
    async fn judge(&self, lease: &Lease, probe_copy: Option<&ProbeCopy>, step: Step) -> (Step, Diagnosis) {
        let diagnosis = match &step {
            Step::Opened { .. }
            | Step::Described { .. }
            | Step::Lacks { .. }
            | Step::Kept { .. }
            | Step::WriteBegun { .. }
            | Step::WriteEnded { .. } => Diagnosis::UNATTRIBUTED,
            // Whatever it was, it could be read.
            Step::Read { from, .. } | Step::Changed { from, .. } | Step::Stale { replica: from, .. } => {
                self.health.record_success(from, Role::Source, &lease.key);
                Diagnosis::UNATTRIBUTED
            }
            Step::SourceFailed { replica, why } => self.diagnose(lease, replica, Role::Source, replica, why).await,
            Step::Target { replica, result } => {
                let probe_copy = probe_copy.filter(|probe_copy| probe_copy.replica == *replica);
                if let Some(probe_copy) = probe_copy {
                    probe_copy.ended(match result {
                        Ok(_) => Some(ProbeCopyResult::Succeeded),
                        Err(why) => {
                            (why.source.is_none() && why.scope != Scope::Object).then_some(ProbeCopyResult::Failed)
                        }
                    });
                }
                match result {
                    Ok(_) => {
                        self.health.record_success(replica, Role::Target, &lease.key);
                        Diagnosis::UNATTRIBUTED
                    }
                    Err(_) if !self.folded_keys().part_from_other(lease, replica).await => {
                        Diagnosis::Store { rest: folded_keys::REST }
                    }
                    Err(why) => match &why.source {
                        Some(source) => self.diagnose(lease, source, Role::Source, replica, why).await,
                        None if probe_copy.is_some_and(|probe_copy| probe_copy.charges) => Diagnosis::UNATTRIBUTED,
                        None => self.diagnose(lease, replica, Role::Target, replica, why).await,
                    },
                }
            }
        };
        (step, diagnosis)
    }

    /// Whose fault it is that `at` failed in this role, which keeps the copy to `target` from being made.
    async fn diagnose(
        &self,
        lease: &Lease,
        at: &ReplicaName,
        role: Role,
        target: &ReplicaName,
        why: &Failure,
    ) -> Diagnosis {
        let prior = |name: &ReplicaName| lease.replicas.iter().find(|r| r.replica == *name).and_then(|r| r.prior);
        // What fails at a source is on record at each target that was due.
        let first = match role {
            Role::Target => prior(at).is_none(),
            Role::Source => lease.targets().any(|r| r.prior.is_none()),
        };
        let diagnosis = self.health.diagnose(at, role, FailedObject { key: &lease.key, first, why }).await;
        match (diagnosis, prior(target)) {
            // It may be parked: then it matters since when it fails.
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

    /// Gives a lease back untried; the copies that are due rest for so long.
    pub(in crate::worker) async fn defer(&self, lease: &Lease, rest: Duration) {
        self.held.register(lease, &self.stop);
        let mut record = AttemptRecord::new(lease);
        record.defer_all(rest);
        self.held.mark_ending(&lease.key, lease.fence);
        if self.write(lease, record.report(lease, true, self.settle)).await == Answer::Changed {
            self.release(lease).await;
        }
        self.held.remove(&lease.key, lease.fence);
    }

    /// Notes writes that may still arrive at a store, without the lease, until that has succeeded. While PostgreSQL is
    /// away nothing is claimed either; and if this process ends first, its leases are swept.
    async fn note_unsettled(&self, lease: &Lease, writes: Vec<UnsettledWrite>) {
        if writes.is_empty() {
            return;
        }
        let mut complained = false;
        while let Err(error) = self.queue.note_unsettled(&writes).await {
            metrics::database_error("queue::note_unsettled");
            if !std::mem::replace(&mut complained, true) {
                warn!(object.key = %lease.key, error = %error, "That writes of {} may still arrive could not be noted, trying again", lease.key);
            }
            tokio::time::sleep(NOTE_AGAIN_AFTER).await;
        }
        debug!(object.key = %lease.key, writes = writes.len(), "{} writes of {} may still arrive; what is recorded under them is read again", writes.len(), lease.key);
    }

    /// A target that has its answer needs its permit no longer, whatever is still to be written down.
    fn return_permit(&self, permits: &mut TargetPermits, step: &Step) {
        if let Step::Target { replica, result } = step
            && let Some(permit) = permits.remove(replica)
        {
            self.registry.record_copy_end(replica, &permit, result.is_ok());
            self.freed.notify_one();
        }
    }

    async fn write(&self, lease: &Lease, report: Report) -> Answer {
        let written = report.clone();
        let answer = match self.held.until(&lease.key, lease.fence) {
            Some(until) => self.completer.write(report, until).await,
            None => Answer::Changed,
        };
        if answer == Answer::Refused {
            // Told by the completer, with the reason.
            self.wake_claimer.wake();
        } else if answer == Answer::Recorded {
            log_written(lease, &written);
            if written.outcomes.iter().any(|(_, outcome)| !matches!(outcome, Outcome::Recorded { .. })) {
                self.wake_claimer.wake();
            }
        } else {
            info!(object.key = %lease.key, "What was found out about {} came too late: it was registered again, or its lease is lost", lease.key);
        }
        answer
    }

    /// The row may still carry our fence: the key was registered again, or we are to stop. Every request of ours has
    /// ended by now, so nothing of the old content can arrive at a target later.
    pub(in crate::worker) async fn release(&self, lease: &Lease) {
        let give_up_at = Instant::now() + GIVE_BACK_WITHIN;
        let released = loop {
            let released = self.queue.release(&[(lease.key.clone(), lease.fence)]).await;
            match &released {
                // Left to the sweeper, an application's lock would look like a death.
                Ok(answers) if matches!(answers.first(), Some((.., Answer::Busy))) && Instant::now() < give_up_at => {
                    debug!(object.key = %lease.key, "{} is in somebody's hands, and cannot be given back yet", lease.key);
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Ok(_) | Err(_) => break released,
            }
        };
        // Registered again while it was copied, it is due now, and nobody else tells the claimer.
        self.wake_claimer.wake();
        if let Ok(answers) = &released
            && matches!(answers.first(), Some((.., Answer::Changed)))
            && let Err(error) = self.queue.tell_lost(&lease.key, lease.fence).await
        {
            warn!(object.key = %lease.key, error = %error, "That the lease of {} is lost could not be written to the log", lease.key);
        }
        if let Err(error) = released {
            warn!(object.key = %lease.key, error = %error, "The lease of {} could not be given back and will be swept", lease.key);
        }
    }
}

/// Whether it parks an object only where others succeed.
fn parks_beside_others(why: &Failure) -> bool {
    matches!(why.class, Class::Denied | Class::Misconfigured | Class::Full | Class::Refused)
}

/// Logs and counts what is now on record.
fn log_written(lease: &Lease, report: &Report) {
    let key = &lease.key;
    for (replica, outcome) in &report.outcomes {
        match outcome {
            Outcome::Recorded { proof, .. } => {
                let bytes = report.content.map_or(0, |c| c.size_bytes);
                metrics::copied(replica, bytes, lease.age + lease.claimed.elapsed());
                for property in report.not_carried.iter().flatten().filter(|property| !property.is_tried()) {
                    metrics::not_carried(replica, *property);
                }
                debug!(object.key = %key, replica.id = %replica, bytes, proof = proof.as_str(), "Copy of {key} at {replica} is recorded");
            }
            Outcome::Failed { next, why } => {
                metrics::failed(replica, why.class);
                let (class, message) = (why.class, &why.message);
                match next {
                    Next::After { delay, .. } => {
                        warn!(object.key = %key, replica.id = %replica, %class, "Copy of {key} to {replica} failed ({class}), next try in {delay:.1?}: {message}");
                    }
                    Next::Parked => {
                        warn!(object.key = %key, replica.id = %replica, %class, "Copy of {key} to {replica} failed ({class}) and is parked: {message}");
                    }
                }
            }
            Outcome::Rests { delay } => {
                debug!(object.key = %key, replica.id = %replica, "The copy of {key} to {replica} rests for {delay:.1?}");
            }
            Outcome::Cleared { why, .. } => {
                metrics::failed(replica, why.class);
                warn!(object.key = %key, replica.id = %replica, "{key} is not at {replica} though it was on record: {}", why.message);
            }
        }
    }
}
