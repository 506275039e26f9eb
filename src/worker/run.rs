use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use rand::RngExt as _;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    allowance::Allowance,
    completer::Completer,
    health::{Diagnosis, Health},
    held::Held,
    lanes::{Lanes, Permits, Trial},
    slots::Slot,
    straggler::{Left, Place},
};
use crate::{
    copy::{self, Ended, Job, Memory, Step},
    domain::{Class, Content, Failure, Lease, Next, Outcome, ReplicaName, Role, Verified, next_try},
    metrics,
    queue::{Answer, Queue, Report},
    wake::Waker,
};

/// How long a proof waits for those of the other targets, so that they are written together:
/// small objects end on all targets within milliseconds.
const TOGETHER: Duration = Duration::from_millis(20);

/// How long a copy rests that was let go because slow ones held too much.
const LET_GO_FOR: Duration = Duration::from_secs(30);

/// What the work on one object needs.
#[derive(Debug, Clone)]
pub struct Runner {
    pub queue: Queue,
    pub held: Held,
    pub completer: Completer,
    pub lanes: Lanes,
    pub health: Health,
    pub memory: Memory,
    pub allowance: Allowance,
    /// After this time nothing that a dead holder has sent still arrives at a store.
    pub settle: Duration,
    /// Cancelled when everything under way is to be let go.
    pub stop: CancellationToken,
    /// Told whenever a slot or a permit is given back.
    pub freed: Arc<Notify>,
    /// Told when a copy was put off: whoever waits for the next that is due has to look again.
    pub waker: Waker,
}

impl Runner {
    /// Copies one leased object to all replicas that lack it, and gives the lease back.
    ///
    /// `slot` is given back as soon as it only waits for a slow target. `trial`: how it ends at this target is told to all daemons.
    pub async fn run(&self, lease: Lease, job: Job, mut permits: Permits, slot: Slot, trial: Option<Trial>) {
        let begun = Instant::now();
        let lost = self.held.enter(&lease, &self.stop);
        let (steps, mut taken) = mpsc::unbounded_channel();
        let let_go = lost.child_token();
        let copying = copy::copy(&job, &self.memory, &let_go, &steps);
        tokio::pin!(copying);

        let mut notes = Notes::new(&lease, self.settle);
        notes.expect(&job);
        let mut size_bytes = lease.size_bytes;
        let mut limit = self.allowance.of(size_bytes.unwrap_or(0));
        let mut overdue = false;
        // Steps whose meaning is still being found out.
        let mut judging = FuturesUnordered::new();
        let trial = trial.as_ref();
        let mut place = Place::new(slot, self.lanes.stragglers().clone());
        let mut write_at: Option<Instant> = None;
        let ended = loop {
            tokio::select! {
                biased;
                Some(step) = taken.recv() => {
                    self.give_back(&mut permits, &step);
                    if let Step::Opened { size_bytes: found } = step {
                        size_bytes = Some(found);
                        limit = limit.max(self.allowance.of(found));
                    }
                    place.note(&step, self.lanes.are_slow(permits.keys()), Instant::now());
                    judging.push(self.judge(&lease, trial, step));
                }
                Some((step, diagnosis)) = judging.next() => {
                    notes.take(step, diagnosis);
                    if notes.has_proof() {
                        write_at.get_or_insert_with(|| Instant::now() + TOGETHER);
                    }
                }
                ended = &mut copying => break ended,
                () = at(Some(begun + limit)), if !overdue => {
                    // As for a lost lease: when the copy has ended, no request of it is under way any more.
                    overdue = true;
                    let_go.cancel();
                }
                () = at(place.leaves_at()) => match place.leave(Instant::now()) {
                    Left::Yes => self.freed.notify_one(),
                    Left::NotYet => {}
                    Left::CrowdedOut => let_go.cancel(),
                },
                () = at(write_at) => {
                    write_at = None;
                    if self.write(&lease, notes.report(&lease, false)).await == Answer::Changed {
                        lost.cancel();
                    }
                }
            }
        };
        // The last target's step comes together with the end.
        while let Ok(step) = taken.try_recv() {
            self.give_back(&mut permits, &step);
            judging.push(self.judge(&lease, trial, step));
        }
        // Let go for others' sake, or because it took too long, it is to be told all the same.
        let stopped = ended == Ended::Cancelled && lost.is_cancelled();
        if !stopped {
            while let Some((step, diagnosis)) = judging.next().await {
                notes.take(step, diagnosis);
            }
        }
        self.held.end(&lease.key, lease.fence);
        let given_back = if stopped {
            false
        } else if let Some((from, content)) = notes.changed.take() {
            self.begin_generation(&lease, &from, content).await
        } else {
            if ended == Ended::Cancelled {
                if overdue { notes.overdue(limit, size_bytes) } else { notes.rest() }
            }
            notes.conclude();
            self.write(&lease, notes.report(&lease, true)).await != Answer::Changed
        };
        if !given_back {
            self.release(&lease).await;
        }
        self.held.strike(&lease.key, lease.fence);
        metrics::object_done(begun.elapsed());
    }

    /// Finds out what a step means, which takes a moment only where a store may be away.
    async fn judge(&self, lease: &Lease, trial: Option<&Trial>, step: Step) -> (Step, Diagnosis) {
        let diagnosis = match &step {
            Step::Opened { .. } => Diagnosis::Object,
            // Whatever it was, it could be read.
            Step::Read { from, .. } | Step::Changed { from, .. } | Step::Stale { replica: from, .. } => {
                self.health.worked(from, Role::Source);
                Diagnosis::Object
            }
            Step::SourceFailed { replica, why } => self.health.diagnose(replica, Role::Source, &lease.key, why).await,
            Step::Target { replica, result } => {
                if let Some(trial) = trial.filter(|trial| trial.replica == *replica) {
                    self.health.tried(trial, result).await;
                }
                match result {
                    Ok(_) => {
                        self.health.worked(replica, Role::Target);
                        Diagnosis::Object
                    }
                    Err(why) => match &why.source {
                        Some(source) => self.health.diagnose(source, Role::Source, &lease.key, why).await,
                        None => self.health.diagnose(replica, Role::Target, &lease.key, why).await,
                    },
                }
            }
        };
        (step, diagnosis)
    }

    /// Gives a lease back untried; the copies that are due rest for so long.
    pub(super) async fn put_off(&self, lease: &Lease, rest: Duration) {
        self.held.enter(lease, &self.stop);
        let mut notes = Notes::new(lease, self.settle);
        notes.outcomes = lease.targets().map(|r| (r.replica.clone(), Outcome::Rests { delay: rest })).collect();
        self.held.end(&lease.key, lease.fence);
        if self.write(lease, notes.report(lease, true)).await == Answer::Changed {
            self.release(lease).await;
        }
        self.held.strike(&lease.key, lease.fence);
    }

    /// A target that has its answer needs its permit no longer, whatever is still to be written down.
    fn give_back(&self, permits: &mut Permits, step: &Step) {
        if let Step::Target { replica, result } = step
            && let Some(permit) = permits.remove(replica)
        {
            self.lanes.give_back(replica, &permit, result.is_ok());
            self.freed.notify_one();
        }
    }

    async fn write(&self, lease: &Lease, report: Report) -> Answer {
        let Some(until) = self.held.until(&lease.key, lease.fence) else { return Answer::Changed };
        let told = report.clone();
        let answer = self.completer.write(report, until).await;
        if answer == Answer::Recorded {
            tell(lease, &told);
            if told.outcomes.iter().any(|(_, outcome)| !matches!(outcome, Outcome::Recorded(_))) {
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
        let released = self.queue.release(&[(lease.key.clone(), lease.fence)]).await;
        // Registered again while it was copied, it is due now, and nobody else tells the claimer.
        self.waker.wake();
        if let Err(error) = released {
            warn!(object.key = %lease.key, error = %error, "The lease of {} could not be given back and will be swept", lease.key);
        }
    }
}

/// Never, while there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// What the copy has said so far and is not written yet.
struct Notes {
    age: Duration,
    priors: HashMap<ReplicaName, crate::domain::PriorFailure>,
    recorded: Vec<ReplicaName>,
    due: Vec<ReplicaName>,
    content: Option<Content>,
    /// The primary has another content by now.
    changed: Option<(ReplicaName, Content)>,
    /// Replicas that are on record and turned out not to have the object, or not this content of it.
    missing: Vec<(ReplicaName, Failure)>,
    outcomes: Vec<(ReplicaName, Outcome)>,
    /// Replicas of which the copy has said nothing yet.
    unanswered: Vec<ReplicaName>,
    /// Whether some source had it.
    was_read: bool,
    /// What is recorded under this lease is to be read once more after this long.
    settle: Option<Duration>,
    /// Whether anything is.
    proven: bool,
}

impl Notes {
    fn new(lease: &Lease, settle: Duration) -> Self {
        Self {
            age: lease.age,
            priors: lease.replicas.iter().filter_map(|r| Some((r.replica.clone(), r.prior?))).collect(),
            recorded: lease.replicas.iter().filter(|r| r.recorded).map(|r| r.replica.clone()).collect(),
            due: lease.targets().map(|r| r.replica.clone()).collect(),
            content: None,
            changed: None,
            missing: Vec::new(),
            outcomes: Vec::new(),
            unanswered: Vec::new(),
            was_read: false,
            settle: lease.swept.is_some().then_some(settle),
            proven: false,
        }
    }

    /// Of its targets the copy will say how it ended; of a source that is due, that it was read.
    fn expect(&mut self, job: &Job) {
        let targets = job.targets.iter().map(|t| t.store.name());
        let sources = job.sources.iter().map(|s| s.store.name()).filter(|name| self.due.contains(name));
        self.unanswered = targets.chain(sources).cloned().collect();
    }

    /// It took too long, and was stopped.
    fn overdue(&mut self, limit: Duration, size_bytes: Option<u64>) {
        metrics::copy_overdue();
        let size = size_bytes.map_or_else(|| "an object of unknown size".to_owned(), |size| format!("{size} bytes"));
        let message = format!("stopped after {limit:.0?}, which is all that {size} may take");
        let why = Failure { class: Class::Transient, message, retry_after: None, source: None };
        for replica in std::mem::take(&mut self.unanswered) {
            let outcome = Outcome::Failed { next: self.next(&replica, &why), why: why.clone() };
            self.outcomes.push((replica, outcome));
        }
    }

    fn take(&mut self, step: Step, diagnosis: Diagnosis) {
        if let Step::Read { from: of, .. } | Step::SourceFailed { replica: of, .. } | Step::Target { replica: of, .. } =
            &step
        {
            self.unanswered.retain(|replica| replica != of);
        }
        match step {
            Step::Opened { .. } => {}
            Step::Read { from, content } => {
                self.content = Some(content);
                self.was_read = true;
                if !self.recorded.contains(&from) {
                    self.outcomes.push((from, Outcome::Recorded(Verified::Source)));
                }
            }
            Step::Changed { from, content } => self.changed = Some((from, content)),
            Step::Stale { replica, why } => self.missing.push((replica, why)),
            Step::SourceFailed { replica, why } => {
                if why.class == Class::Gone && self.recorded.contains(&replica) {
                    self.missing.push((replica, why));
                } else if self.due.contains(&replica) {
                    // It was to be proven by reading it, and is no target.
                    let outcome = self.failed(&replica, why, diagnosis, true);
                    self.outcomes.push((replica, outcome));
                }
            }
            Step::Target { replica, result } => {
                let outcome = match result {
                    Ok(proof) => Outcome::Recorded(proof),
                    Err(why) => {
                        let of_source = why.source.is_some();
                        self.failed(&replica, why, diagnosis, of_source)
                    }
                };
                self.outcomes.push((replica, outcome));
            }
        }
    }

    /// These were begun and broken off, and no answer came.
    fn rest(&mut self) {
        let rests = |replica| (replica, Outcome::Rests { delay: LET_GO_FOR });
        self.outcomes.extend(std::mem::take(&mut self.unanswered).into_iter().map(rests));
    }

    /// What a store did is charged to no copy; and a target that was never asked has nothing to explain.
    fn failed(&self, replica: &ReplicaName, why: Failure, diagnosis: Diagnosis, of_source: bool) -> Outcome {
        match diagnosis {
            Diagnosis::Object => Outcome::Failed { next: self.next(replica, &why), why },
            Diagnosis::Store { rest } if of_source => Outcome::Rests { delay: rest },
            Diagnosis::Store { rest } => Outcome::Failed { next: Next::After { delay: rest, counted: false }, why },
        }
    }

    /// A recorded time that is known to be false is taken back. If another source had the object, the gap is to be
    /// filled at once; if none had, all wait alike for the upload to end.
    fn conclude(&mut self) {
        for (replica, why) in std::mem::take(&mut self.missing) {
            let next = if self.was_read && why.class == Class::Gone {
                Next::After { delay: Duration::ZERO, counted: true }
            } else {
                self.next(&replica, &why)
            };
            self.outcomes.push((replica, Outcome::Cleared { next, why }));
        }
    }

    fn next(&self, replica: &ReplicaName, why: &Failure) -> Next {
        let prior = self.priors.get(replica).filter(|p| p.class == Some(why.class));
        next_try(why, prior.map_or(0, |p| p.attempts), self.age, rand::rng().random())
    }

    fn has_proof(&self) -> bool {
        self.outcomes.iter().any(|(_, o)| matches!(o, Outcome::Recorded(_)))
    }

    fn report(&mut self, lease: &Lease, release: bool) -> Report {
        self.proven |= self.has_proof();
        Report {
            key: lease.key.clone(),
            generation: lease.generation,
            fence: lease.fence,
            content: self.content,
            outcomes: std::mem::take(&mut self.outcomes),
            release,
            settle: self.settle.filter(|_| self.proven),
        }
    }
}

/// Logs and counts what is now on record.
fn tell(lease: &Lease, report: &Report) {
    let key = &lease.key;
    for (replica, outcome) in &report.outcomes {
        match outcome {
            Outcome::Recorded(proof) => {
                let bytes = report.content.map_or(0, |c| c.size_bytes);
                metrics::copied(replica, bytes, lease.age + lease.claimed.elapsed());
                debug!(object.key = %key, replica.id = %replica, bytes, proof = ?proof, "Copy of {key} at {replica} is recorded");
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
