//! Writes the results of attempts, many in one statement. It decides nothing about the results.
//!
//! A result that PostgreSQL refuses does not hold up the others: halves are tried, and in place of a result that is
//! refused alone it is written that its copies failed.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use copyhold_core::domain::{Failure, FailureClass, Fence, NextAttempt, ObjectKey, Outcome, ReplicaName, escaped};
use copyhold_db::{
    DatabaseError, Leases,
    connections::LogThrottle,
    lease::{FencedWrite, Report},
};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, warn};

use crate::metrics;

/// Reports of one statement at most.
const BATCH: usize = 128;
/// How long the next attempt waits when PostgreSQL is unavailable or a row is locked.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a batch loses against other transactions before it is halved: appenders of events wait for one another.
const CONFLICTS: u32 = 5;
/// How often a result that PostgreSQL does not answer in time is tried again alone, each time after twice the pause.
const TRIES_ALONE: u32 = 5;
/// Results that are written alone between two batches of the others, at most.
const ALONE_AT_ONCE: usize = 8;
/// Statements that may fail in a row of halves; what is left then is written one by one.
const FAILURES: usize = 24;
/// A part of a batch that PostgreSQL did not answer in time gets so long.
const PART_WITHIN: Duration = Duration::from_secs(3);
/// A copy that PostgreSQL refuses to record is made again after this time. An operator has to look at the database.
const REFUSED_FOR: Duration = Duration::from_mins(5);
/// Of PostgreSQL's message.
const MESSAGE_CHARS: usize = 300;

/// Takes reports from the attempts.
#[derive(Debug, Clone)]
pub struct Completer(mpsc::Sender<PendingReport>);

/// Writes them: whatever has come in while the statement before was being written makes the next.
#[derive(Debug)]
pub struct ReportWriter {
    leases: Leases,
    reports: mpsc::Receiver<PendingReport>,
    /// That nothing can be written.
    throttle: LogThrottle,
    /// Batches in a row that could not be written.
    failures: u64,
    /// Batches in a row that have lost against other transactions.
    conflicts: u32,
}

#[derive(Debug)]
struct PendingReport {
    report: Report,
    /// Past it the lease is not ours any more, and there is no point in writing.
    until: Instant,
    answer: oneshot::Sender<FencedWrite>,
}

/// A report and all who wait for it: several of one object make one.
struct QueuedReport {
    report: Report,
    until: Instant,
    answers: Vec<oneshot::Sender<FencedWrite>>,
    /// It was refused, and is written alone.
    alone: Option<LoneRetry>,
}

#[derive(Debug, Clone, Copy)]
struct LoneRetry {
    tries: u32,
    next: Instant,
}

type ReportId = (ObjectKey, Fence);
type Batch = HashMap<ReportId, QueuedReport>;

/// The two ends. The writer ends when all completers are gone and everything is written.
#[must_use]
pub fn completer(leases: Leases) -> (Completer, ReportWriter) {
    let (sender, reports) = mpsc::channel(BATCH);
    (Completer(sender), ReportWriter { leases, reports, throttle: LogThrottle::new(), failures: 0, conflicts: 0 })
}

impl Completer {
    /// Has the report written, however long PostgreSQL is unavailable, as long as the lease lasts.
    /// [`FencedWrite::Superseded`]: it was not.
    pub async fn write(&self, report: Report, until: Instant) -> FencedWrite {
        let (answer, answered) = oneshot::channel();
        if self.0.send(PendingReport { report, until, answer }).await.is_err() {
            return FencedWrite::Superseded;
        }
        // A writer that is gone has not written: the lease will expire, and another daemon takes over.
        answered.await.unwrap_or(FencedWrite::Superseded)
    }
}

impl ReportWriter {
    pub async fn run(mut self) {
        let mut waiting = Batch::new();
        let mut incoming = Vec::new();
        loop {
            if waiting.is_empty() {
                if self.reports.recv_many(&mut incoming, BATCH).await == 0 {
                    return;
                }
            } else {
                // Something is to be tried again: wait a little, or for new reports.
                let _ = tokio::time::timeout(PAUSE, self.reports.recv_many(&mut incoming, BATCH)).await;
            }
            for report in incoming.drain(..) {
                merge(&mut waiting, report);
            }
            waiting = self.write(waiting).await;
        }
    }

    /// Writes what waits; returns what is to be tried again.
    async fn write(&mut self, batch: Batch) -> Batch {
        let now = Instant::now();
        let (alone, together): (Batch, Batch) = batch.into_iter().partition(|(_, waiting)| waiting.alone.is_some());
        let mut again = if together.is_empty() { Batch::new() } else { self.write_together(together).await };
        let mut written = 0;
        for (of, waiting) in alone {
            let is_due = written < ALONE_AT_ONCE && waiting.alone.is_none_or(|alone| alone.next <= now);
            written += usize::from(is_due);
            let one = Batch::from([(of, waiting)]);
            again.extend(if is_due { self.write_apart(one).await } else { one });
        }
        again
    }

    async fn write_together(&mut self, batch: Batch) -> Batch {
        let error = match self.leases.complete(&reports(&batch)).await {
            Ok(answers) => {
                self.throttle.is_over();
                (self.failures, self.conflicts) = (0, 0);
                return settle(batch, answers);
            }
            Err(error) => error,
        };
        metrics::database_error("lease::complete");
        self.conflicts = if error.is_conflict() { self.conflicts + 1 } else { 0 };
        let is_of_a_row = if error.is_no_answer() {
            // PostgreSQL answers other statements: one of these reports may take so long, or wait.
            self.leases.probe().await.is_ok()
        } else {
            error.may_concern_one_row() && (!error.is_conflict() || self.conflicts > CONFLICTS)
        };
        if is_of_a_row {
            return self.write_apart(batch).await;
        }
        self.complain(&error, batch.len());
        keep(batch)
    }

    /// Writes halves of what is refused, down to single results.
    async fn write_apart(&mut self, batch: Batch) -> Batch {
        let (mut again, mut failures) = (Batch::new(), 0);
        let mut left = halves(batch);
        while let Some(part) = left.pop() {
            let error = match self.leases.complete_within(PART_WITHIN, &reports(&part)).await {
                Ok(answers) => {
                    again.extend(settle(part, answers));
                    continue;
                }
                Err(error) => error,
            };
            metrics::database_error("lease::complete");
            failures += 1;
            if !error.may_concern_one_row() && !error.is_no_answer() {
                self.complain(&error, part.len());
                again.extend(keep(part));
                again.extend(left.drain(..).flat_map(keep));
            } else if part.len() == 1 {
                for one in part {
                    again.extend(self.refused(one, &error).await);
                }
            } else if failures < FAILURES {
                left.extend(halves(part));
            } else {
                // Apparently the fault of no single row.
                self.complain(&error, part.len());
                again.extend(keep(part).into_iter().map(apart));
            }
        }
        again
    }

    /// A report that lost against another transaction may succeed later; one that is refused for its data is not tried
    /// again.
    async fn refused(&mut self, (of, mut waiting): (ReportId, QueuedReport), error: &DatabaseError) -> Batch {
        let tries = waiting.alone.map_or(0, |alone| alone.tries);
        let timed_out = error.is_no_answer() || error.sqlstate().as_deref() == Some("57014");
        // A lock of another transaction is no refusal, however long it is held: the copy is proven, and its lease
        // lasts.
        if error.is_conflict() || (timed_out && tries < TRIES_ALONE) {
            return self.later((of, waiting), error);
        }
        let (key, reason) = (&of.0, message(error));
        let instead = failed(&waiting.report, &reason);
        match self.leases.complete_within(PART_WITHIN, &[instead]).await.map(|answers| answers.first().map(|a| a.2)) {
            Ok(Some(FencedWrite::Applied)) => {
                error!(object.key = %key, error = %reason, "PostgreSQL refuses the result for {key}, whose copies are made again in {REFUSED_FOR:?}: {reason}");
                answer_all(waiting, FencedWrite::FailureWritten);
                Batch::new()
            }
            Ok(Some(FencedWrite::RowLocked)) => {
                let next = Instant::now() + PAUSE;
                waiting.alone = Some(LoneRetry { tries: TRIES_ALONE, next });
                keep(Batch::from([(of, waiting)]))
            }
            Ok(_) => {
                answer_all(waiting, FencedWrite::Superseded);
                Batch::new()
            }
            Err(second) if second.is_conflict() || (second.is_unavailable() && !second.is_no_answer()) => {
                keep(Batch::from([(of, waiting)]))
            }
            // A column or a right is missing, to all rows as it seems: the proofs wait for the repair.
            Err(second) if second.is_schema_error() => self.later((of, waiting), error),
            Err(_) => {
                error!(object.key = %key, error = %reason, "PostgreSQL refuses the result for {key}, and also that its copies failed; its lease runs out: {reason}");
                answer_all(waiting, FencedWrite::Superseded);
                Batch::new()
            }
        }
    }

    /// It is tried again alone, each time after twice the pause.
    fn later(&mut self, (of, mut waiting): (ReportId, QueuedReport), error: &DatabaseError) -> Batch {
        self.complain(error, 1);
        let tries = waiting.alone.map_or(0, |alone| alone.tries);
        let next = Instant::now() + PAUSE * 2_u32.pow(tries.min(TRIES_ALONE));
        waiting.alone = Some(LoneRetry { tries: tries.saturating_add(1), next });
        keep(Batch::from([(of, waiting)]))
    }

    /// Logs that nothing can be written; the writer tries ten times a second.
    fn complain(&mut self, error: &DatabaseError, results: usize) {
        self.failures += 1;
        // Appenders of events wait for one another for moments only.
        if self.failures == 1 && error.is_conflict() {
            debug!(results, "The log was held by others for too long, trying again");
        } else {
            self.throttle.fails(|times| {
                warn!(error = %error, results, times, "Could not record results; trying again");
            });
        }
    }
}

fn reports(batch: &Batch) -> Vec<Report> {
    batch.values().map(|waiting| waiting.report.clone()).collect()
}

/// Answers the callers that wait for these results; returns those whose rows another transaction has locked.
fn settle(batch: Batch, answers: Vec<(ObjectKey, Fence, FencedWrite)>) -> Batch {
    let answers: HashMap<_, _> = answers.into_iter().map(|(key, fence, answer)| ((key, fence), answer)).collect();
    let mut again = Batch::new();
    for (of, waiting) in batch {
        match answers.get(&of).copied().unwrap_or(FencedWrite::Superseded) {
            FencedWrite::RowLocked if waiting.until > Instant::now() => {
                again.insert(of, waiting);
            }
            FencedWrite::RowLocked | FencedWrite::Superseded => answer_all(waiting, FencedWrite::Superseded),
            answer @ (FencedWrite::Applied | FencedWrite::FailureWritten) => answer_all(waiting, answer),
        }
    }
    again
}

/// Those whose lease lasts; of the others nothing can be written any more.
fn keep(batch: Batch) -> Batch {
    let now = Instant::now();
    let (live, late): (Batch, Batch) = batch.into_iter().partition(|(_, waiting)| waiting.until > now);
    for waiting in late.into_values() {
        answer_all(waiting, FencedWrite::Superseded);
    }
    live
}

/// Of one result that result.
fn halves(batch: Batch) -> Vec<Batch> {
    if batch.len() < 2 {
        return vec![batch];
    }
    let half = batch.len() / 2;
    let mut first = Vec::from_iter(batch);
    let second = first.split_off(half);
    vec![second.into_iter().collect(), first.into_iter().collect()]
}

fn apart((of, mut waiting): (ReportId, QueuedReport)) -> (ReportId, QueuedReport) {
    let next = Instant::now() + PAUSE;
    waiting.alone.get_or_insert(LoneRetry { tries: 0, next });
    (of, waiting)
}

/// Returns a report in which every copy failed, because PostgreSQL refuses the original's data. Writes of unknown
/// outcome are noted all the same.
fn failed(report: &Report, reason: &str) -> Report {
    let failed = |(replica, _): &(ReplicaName, Outcome)| {
        let why =
            Failure::new(FailureClass::Misconfigured, format!("PostgreSQL refuses to record the result: {reason}"));
        (replica.clone(), Outcome::Failed { next: NextAttempt::After { delay: REFUSED_FOR, counted: true }, why })
    };
    Report {
        outcomes: report.outcomes.iter().map(failed).collect(),
        content: None,
        metadata: None,
        not_carried: None,
        source: None,
        survived: false,
        ..report.clone()
    }
}

/// Kept and shown: without line breaks, and not too long.
fn message(error: &DatabaseError) -> String {
    escaped(&error.to_string(), MESSAGE_CHARS)
}

fn merge(batch: &mut Batch, PendingReport { report, until, answer }: PendingReport) {
    match batch.entry((report.key.clone(), report.fence)) {
        std::collections::hash_map::Entry::Vacant(entry) => {
            entry.insert(QueuedReport { report, until, answers: vec![answer], alone: None });
        }
        std::collections::hash_map::Entry::Occupied(mut entry) => {
            let waiting = entry.get_mut();
            for (replica, outcome) in report.outcomes {
                replace(&mut waiting.report.outcomes, replica, outcome);
            }
            waiting.report.content = report.content.or(waiting.report.content);
            waiting.report.release |= report.release;
            waiting.report.metadata = report.metadata.or(waiting.report.metadata);
            waiting.report.not_carried = report.not_carried.or(waiting.report.not_carried.take());
            waiting.report.source = report.source.or(waiting.report.source.take());
            waiting.report.survived |= report.survived;
            waiting.report.unsettled.extend(report.unsettled);
            waiting.until = until;
            waiting.answers.push(answer);
        }
    }
}

/// The later report on a replica counts.
fn replace(outcomes: &mut Vec<(ReplicaName, Outcome)>, replica: ReplicaName, outcome: Outcome) {
    outcomes.retain(|(r, _)| *r != replica);
    outcomes.push((replica, outcome));
}

fn answer_all(waiting: QueuedReport, answer: FencedWrite) {
    for waiter in waiting.answers {
        // The caller may have been stopped meanwhile.
        let _ = waiter.send(answer);
    }
}
