//! One attempt at one object, from its lease to the last report.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use copyhold_core::{
    domain::{Direction, Failure, FailureClass, FailureScope, Lease, MAX_ATTEMPTS, NextAttempt, Outcome, ReplicaName},
    timer::sleep_until_some,
};
use copyhold_db::queue::{Answer, Queue, Report, UnsettledWrite};
use copyhold_s3::{
    copy::{self, CopyEnd, CopyStep, Job, Memory},
    store::Activity,
};
use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    allowance::Allowance,
    changed::{ChangeDecision, Changes},
    completer::Completer,
    health::{Diagnosis, Failed, Health},
    held::Held,
    journal::Journals,
    lanes::{Lanes, Permits, Reading},
    notes::Notes,
    slots::Slot,
    straggler::{Left, Place},
    trial::{Trial, TrialResult},
    twins,
};
use crate::{metrics, wake::Waker};

/// How long a proof waits for those of the other targets, so that they are written together:
/// small objects end on all targets within milliseconds.
const TOGETHER: Duration = Duration::from_millis(20);

/// How long it is tried to give back a row that somebody has in hand, and how often.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(5);
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Between two attempts to note writes that may still arrive.
const NOTE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Why a copy was broken off though its lease was ours.
enum BrokenOff {
    /// It took longer than it may.
    Overdue,
    /// There were too many that wait for slow targets.
    CrowdedOut,
}

/// What was given to an object when it was claimed, beside its permits.
#[derive(Debug)]
pub struct Claim {
    /// Its worker. It is given back as soon as the object only waits for a slow target, or is stuck. `None`: it is tried
    /// beside those that have one.
    pub slot: Option<Slot>,
    pub reading: Option<Reading>,
    /// How it ends at this target says something of the store.
    pub trial: Option<Trial>,
}

/// What the work on one object needs.
#[derive(Debug, Clone)]
pub struct Runner {
    pub queue: Queue,
    pub held: Held,
    pub completer: Completer,
    pub journals: Journals,
    pub lanes: Lanes,
    pub health: Health,
    pub memory: Memory,
    pub allowance: Allowance,
    /// After this time nothing that a dead holder has sent still arrives at a store.
    pub settle: Duration,
    /// What becomes of a content at the primary that nobody registered.
    pub changes: Changes,
    /// Cancelled when everything under way is to be let go.
    pub stop: CancellationToken,
    /// Told whenever a slot or a permit is given back.
    pub freed: Arc<Notify>,
    /// Told when a copy was put off: whoever waits for the next that is due has to look again.
    pub waker: Waker,
}

/// How long it rests because no source may be asked for it; `None`: one may.
fn sources_rest(job: &Job) -> Option<Duration> {
    let rests = job.sources.iter().map(|source| source.store.spared_for(&job.key)).collect::<Option<Vec<_>>>()?;
    rests.into_iter().min()
}

/// Takes those targets off the job whose stores have asked to be left alone where the object is: it is not read in vain.
fn leave_alone(lease: &Lease, job: &mut Job) -> Vec<(ReplicaName, Outcome)> {
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

impl Runner {
    /// Copies one leased object to all replicas that lack it, and gives the lease back.
    pub async fn run(&self, lease: Lease, job: Job, permits: Permits, claim: Claim) {
        if let Some(rest) = sources_rest(&job) {
            if let Some(trial) = &claim.trial {
                trial.ended(None);
            }
            drop((permits, claim));
            return self.put_off(&lease, rest).await;
        }
        let (key, fence) = (lease.key.clone(), lease.fence);
        let attempt = AssertUnwindSafe(Box::pin(self.attempt(lease, job, permits, claim))).catch_unwind();
        if attempt.await.is_err() {
            // As if its holder had died: requests may be under way. Renewed for ever, it would be nobody's.
            self.held.strike(&key, fence);
            error!(object.key = %key, "The work on {key} panicked; it is done again when its lease has run out");
        }
    }

    #[expect(clippy::too_many_lines, reason = "one loop over all that may happen while an object is copied")]
    async fn attempt(&self, lease: Lease, mut job: Job, mut permits: Permits, claim: Claim) {
        let begun = Instant::now();
        let Claim { slot, mut reading, trial } = claim;
        let lost = self.held.enter(&lease, &self.stop);
        let mut notes = self.begin(&lease, &mut job).await;
        let (steps, mut taken) = mpsc::unbounded_channel();
        let is_done = notes.is_done();
        let activity = Activity::of(&job.key);
        let copying = activity
            .watch(async { if is_done { CopyEnd::Done } else { copy::copy(&job, &self.memory, &lost, &steps).await } });
        tokio::pin!(copying);

        let mut size_bytes = lease.size_bytes;
        let mut limit = self.allowance.of(size_bytes.unwrap_or(0));
        let mut broken_off = None;
        // Steps whose meaning is still being found out.
        let mut judging = FuturesUnordered::new();
        let trial = trial.as_ref();
        let mut place = Place::new(slot, self.lanes.stragglers().clone(), activity.clone());
        let mut write_at: Option<Instant> = None;
        let ended = loop {
            tokio::select! {
                biased;
                Some(step) = taken.recv() => {
                    self.give_back(&mut permits, &step);
                    notes.note_fact(&step);
                    place.note(&step, self.lanes.are_slow(permits.keys()), Instant::now());
                    match &step {
                        CopyStep::Opened { size_bytes: found } => {
                            size_bytes = Some(*found);
                            limit = limit.max(self.allowance.of(*found));
                        }
                        CopyStep::Read { .. } => reading = None,
                        _ => {}
                    }
                    judging.push(self.judge(&lease, trial, step));
                }
                Some((step, diagnosis)) = judging.next() => {
                    notes.take(step, diagnosis);
                    if notes.has_proof() {
                        write_at.get_or_insert_with(|| Instant::now() + TOGETHER);
                    }
                }
                ended = &mut copying => break ended,
                () = sleep_until_some(place.leaves_at()) => match place.leave(Instant::now()) {
                    Left::Yes => self.freed.notify_one(),
                    Left::NotYet => {}
                    Left::CrowdedOut => {
                        broken_off = Some(BrokenOff::CrowdedOut);
                        lost.cancel();
                    }
                    Left::Stuck => {
                        debug!(object.key = %lease.key, "No request of {} has moved anything for a while; others have its worker", lease.key);
                        if let Some(trial) = trial.filter(|trial| permits.contains_key(&trial.replica)) {
                            trial.ended(Some(TrialResult::Failed));
                        }
                        permits.clear();
                        reading = None;
                        self.freed.notify_one();
                    }
                },
                () = tokio::time::sleep_until((begun + limit).into()), if broken_off.is_none() => {
                    // As for a lost lease: when the copy has ended, no request of it is under way any more.
                    broken_off = Some(BrokenOff::Overdue);
                    lost.cancel();
                }
                () = sleep_until_some(write_at) => {
                    write_at = None;
                    if self.write(&lease, notes.report(&lease, false, self.settle)).await == Answer::Changed {
                        lost.cancel();
                    }
                }
            }
        };
        drop(reading);
        let stopped = ended == CopyEnd::Cancelled && broken_off.is_none();
        // The last target's step comes together with the end.
        while let Ok(step) = taken.try_recv() {
            self.give_back(&mut permits, &step);
            notes.note_fact(&step);
            match step {
                // What a failure means takes time to find out, and whoever comes next finds it out as well.
                step if !stopped => judging.push(self.judge(&lease, trial, step)),
                CopyStep::Read { .. } | CopyStep::Target { result: Ok(_), .. } => notes.take(step, Diagnosis::NOBODY),
                _ => {}
            }
        }
        if !stopped {
            self.await_rulings(&lease, judging, &mut place, &mut notes).await;
        }
        self.held.end(&lease.key, lease.fence);
        if ended == CopyEnd::Cancelled {
            match broken_off {
                None => {}
                Some(BrokenOff::Overdue) => notes.overdue(limit, size_bytes),
                Some(BrokenOff::CrowdedOut) => notes.crowded_out(),
            }
        }
        let given_back = if stopped {
            // If the lease is lost, the proof is not written either.
            notes.has_proof() && self.write(&lease, notes.report(&lease, true, self.settle)).await != Answer::Changed
        } else if let Some((from, content, said)) = notes.changed.take() {
            match self.changes.decide(&lease, &from).await {
                ChangeDecision::Begin => {
                    self.note_unsettled(&lease, notes.unsettled(&lease, false, self.settle)).await;
                    self.changes.begin_generation(&lease, &from, content, said).await
                }
                ChangeDecision::Park(why) => self.conclude_parked(&lease, &mut notes, from, why).await,
                ChangeDecision::Unknown => false,
            }
        } else {
            self.conclude(&lease, &mut notes).await
        };
        if !given_back {
            // Before the row is free: whoever claims it next must find them.
            self.note_unsettled(&lease, notes.unsettled(&lease, true, self.settle)).await;
            self.release(&lease).await;
        }
        self.held.strike(&lease.key, lease.fence);
        metrics::object_done(begun.elapsed());
    }

    /// What is known before anything is read. Targets that would hold another object's copy are off the job.
    async fn begin(&self, lease: &Lease, job: &mut Job) -> Notes {
        let mut notes = Notes::new(lease);
        notes.refuse(leave_alone(lease, job));
        notes.refuse(self.keep_apart(lease, job).await);
        notes.expect(job);
        notes
    }

    /// Waits until the rest is judged. Whose fault it is takes time to find out: neither a worker nor what is proven waits
    /// for that.
    async fn await_rulings(
        &self,
        lease: &Lease,
        mut judging: FuturesUnordered<impl Future<Output = (CopyStep, Diagnosis)>>,
        place: &mut Place,
        notes: &mut Notes,
    ) {
        let mut write_at = Some(Instant::now() + TOGETHER);
        loop {
            tokio::select! {
                biased;
                judged = judging.next() => match judged {
                    Some((step, diagnosis)) => notes.take(step, diagnosis),
                    None => return,
                },
                () = sleep_until_some(write_at) => {
                    write_at = None;
                    if place.await_ruling() == Left::Yes {
                        self.freed.notify_one();
                    }
                    if notes.has_proof() {
                        // If the lease is lost, so it is when the rest is written.
                        let _ = self.write(lease, notes.report(lease, false, self.settle)).await;
                    }
                }
            }
        }
    }

    /// Writes how it ended. `true`: the lease is given back.
    async fn conclude(&self, lease: &Lease, notes: &mut Notes) -> bool {
        notes.conclude();
        self.write(lease, notes.report(lease, true, self.settle)).await != Answer::Changed
    }

    /// The same for what stands at a replica and is not copied.
    async fn conclude_parked(&self, lease: &Lease, notes: &mut Notes, from: ReplicaName, why: Failure) -> bool {
        notes.park(from, why);
        self.conclude(lease, notes).await
    }

    /// Asks when the primary's copy was recorded, where nothing is kept of the reading that fixed the content: rows from
    /// before that was kept.
    pub(super) async fn recall(&self, lease: &Lease, job: &mut Job) {
        if let Some(primary) = job.sources.iter().find(|source| source.primary && source.recorded) {
            job.kept = self.changes.kept(lease, primary.store.name()).await;
        }
    }

    /// Finds out what a step means, which takes a moment only where a store may be at fault.
    async fn judge(&self, lease: &Lease, trial: Option<&Trial>, step: CopyStep) -> (CopyStep, Diagnosis) {
        let diagnosis = match &step {
            CopyStep::Opened { .. }
            | CopyStep::Described { .. }
            | CopyStep::Lacks { .. }
            | CopyStep::Kept { .. }
            | CopyStep::WriteBegun { .. }
            | CopyStep::WriteEnded { .. } => Diagnosis::NOBODY,
            // Whatever it was, it could be read.
            CopyStep::Read { from, .. } | CopyStep::Changed { from, .. } | CopyStep::Stale { replica: from, .. } => {
                self.health.worked(from, Direction::Read, &lease.key);
                Diagnosis::NOBODY
            }
            CopyStep::SourceFailed { replica, why } => {
                self.diagnose(lease, replica, Direction::Read, replica, why).await
            }
            CopyStep::Target { replica, result } => {
                let trial = trial.filter(|trial| trial.replica == *replica);
                if let Some(trial) = trial {
                    trial.ended(match result {
                        Ok(_) => Some(TrialResult::Succeeded),
                        Err(why) => (why.failed_source.is_none() && why.scope != FailureScope::Object)
                            .then_some(TrialResult::Failed),
                    });
                }
                match result {
                    Ok(_) => {
                        self.health.worked(replica, Direction::Write, &lease.key);
                        Diagnosis::NOBODY
                    }
                    Err(_) if !self.part_from_other(lease, replica).await => Diagnosis::Store { rest: twins::REST },
                    Err(why) => match &why.failed_source {
                        Some(source) => self.diagnose(lease, source, Direction::Read, replica, why).await,
                        None if trial.is_some_and(|trial| trial.charges) => Diagnosis::NOBODY,
                        None => self.diagnose(lease, replica, Direction::Write, replica, why).await,
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
        role: Direction,
        target: &ReplicaName,
        why: &Failure,
    ) -> Diagnosis {
        let prior = |name: &ReplicaName| lease.replicas.iter().find(|r| r.replica == *name).and_then(|r| r.prior);
        // What fails at a source is on record at each target that was due.
        let first = match role {
            Direction::Write => prior(at).is_none(),
            Direction::Read => lease.targets().any(|r| r.prior.is_none()),
        };
        let diagnosis = self.health.diagnose(at, role, Failed { key: &lease.key, first, why }).await;
        match (diagnosis, prior(target)) {
            // It may be parked: then it matters since when it fails.
            (Diagnosis::Object { others: Some(ago), .. }, Some(prior))
                if prior.class == Some(why.class) && prior.attempts + 1 >= MAX_ATTEMPTS && parks_beside_others(why) =>
            {
                let failing_for = self.queue.failing_for(&lease.key, target, lease.generation).await;
                let failing_for = failing_for.ok().flatten().unwrap_or_default();
                Diagnosis::Object { others: Some(ago), failing_for }
            }
            (diagnosis, _) => diagnosis,
        }
    }

    /// Gives a lease back untried; the copies that are due rest for so long.
    pub(super) async fn put_off(&self, lease: &Lease, rest: Duration) {
        self.held.enter(lease, &self.stop);
        let mut notes = Notes::new(lease);
        notes.put_off(rest);
        self.held.end(&lease.key, lease.fence);
        if self.write(lease, notes.report(lease, true, self.settle)).await == Answer::Changed {
            self.release(lease).await;
        }
        self.held.strike(&lease.key, lease.fence);
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
    fn give_back(&self, permits: &mut Permits, step: &CopyStep) {
        if let CopyStep::Target { replica, result } = step
            && let Some(permit) = permits.remove(replica)
        {
            self.lanes.give_back(replica, &permit, result.is_ok());
            self.freed.notify_one();
        }
    }

    async fn write(&self, lease: &Lease, report: Report) -> Answer {
        let told = report.clone();
        let answer = match self.held.until(&lease.key, lease.fence) {
            Some(sleep_until_some) => self.completer.write(report, sleep_until_some).await,
            None => Answer::Changed,
        };
        if answer == Answer::Refused {
            // Told by the completer, with the reason.
            self.waker.wake();
        } else if answer == Answer::Recorded {
            tell(lease, &told);
            if told.outcomes.iter().any(|(_, outcome)| !matches!(outcome, Outcome::Recorded { .. })) {
                self.waker.wake();
            }
        } else {
            info!(object.key = %lease.key, "What was found out about {} came too late: it was registered again, or its lease is lost", lease.key);
        }
        answer
    }

    /// The row may still carry our fence: the key was registered again, or we are to stop. Every request of ours has
    /// ended by now, so nothing of the old content can arrive at a target later.
    pub(super) async fn release(&self, lease: &Lease) {
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
        self.waker.wake();
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
    matches!(why.class, FailureClass::Denied | FailureClass::Misconfigured | FailureClass::Full | FailureClass::Refused)
}

/// Logs and counts what is now on record.
fn tell(lease: &Lease, report: &Report) {
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
                    NextAttempt::After { delay, .. } => {
                        warn!(object.key = %key, replica.id = %replica, %class, "Copy of {key} to {replica} failed ({class}), next try in {delay:.1?}: {message}");
                    }
                    NextAttempt::Parked => {
                        warn!(object.key = %key, replica.id = %replica, %class, "Copy of {key} to {replica} failed ({class}) and is parked: {message}");
                    }
                }
            }
            Outcome::Deferred { delay } => {
                debug!(object.key = %key, replica.id = %replica, "The copy of {key} to {replica} rests for {delay:.1?}");
            }
            Outcome::Cleared { why, .. } => {
                metrics::failed(replica, why.class);
                warn!(object.key = %key, replica.id = %replica, "{key} is not at {replica} though it was on record: {}", why.message);
            }
        }
    }
}
