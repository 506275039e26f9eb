use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, warn};

use crate::{
    domain::{Fence, ObjectKey, Outcome, ReplicaName},
    metrics,
    queue::{Answer, Queue, QueueError, Report},
};

/// Reports of one statement at most.
const BATCH: usize = 128;
/// How long the next try waits when PostgreSQL is away or a row is in somebody's hands.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is said that nothing can be written.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Takes reports from the workers.
#[derive(Debug, Clone)]
pub struct Completer(mpsc::Sender<Said>);

/// Writes them: whatever has come in while the statement before was being written makes the next.
#[derive(Debug)]
pub struct Writer {
    queue: Queue,
    said: mpsc::Receiver<Said>,
    /// When it was last said that nothing can be written.
    complained: Option<Instant>,
}

#[derive(Debug)]
struct Said {
    report: Report,
    /// Past it the lease is not ours any more, and there is no point in writing.
    until: Instant,
    answer: oneshot::Sender<Answer>,
}

/// A report and all who wait for it: several of one object make one.
struct Waiting {
    report: Report,
    until: Instant,
    answers: Vec<oneshot::Sender<Answer>>,
}

type Batch = HashMap<(ObjectKey, Fence), Waiting>;

/// The two ends. The writer ends when all completers are gone and everything is written.
#[must_use]
pub fn completer(queue: Queue) -> (Completer, Writer) {
    let (sender, said) = mpsc::channel(BATCH);
    (Completer(sender), Writer { queue, said, complained: None })
}

impl Completer {
    /// Has the report written, however long PostgreSQL is away, as long as the lease lasts. *Changed*: it was not.
    pub async fn write(&self, report: Report, until: Instant) -> Answer {
        let (answer, answered) = oneshot::channel();
        if self.0.send(Said { report, until, answer }).await.is_err() {
            return Answer::Changed;
        }
        // A writer that is gone has not written: the lease will run out, and somebody else takes over.
        answered.await.unwrap_or(Answer::Changed)
    }
}

impl Writer {
    pub async fn run(mut self) {
        let mut waiting = Batch::new();
        let mut incoming = Vec::new();
        loop {
            if waiting.is_empty() {
                if self.said.recv_many(&mut incoming, BATCH).await == 0 {
                    return;
                }
            } else {
                // Something is to be tried again: wait a little, or for new reports.
                let _ = tokio::time::timeout(PAUSE, self.said.recv_many(&mut incoming, BATCH)).await;
            }
            for said in incoming.drain(..) {
                merge(&mut waiting, said);
            }
            waiting = self.write(waiting).await;
        }
    }

    /// Writes a batch; returns what is to be tried again.
    async fn write(&mut self, batch: Batch) -> Batch {
        let reports: Vec<Report> = batch.values().map(|w| w.report.clone()).collect();
        let answers = match self.queue.complete(&reports).await {
            Ok(answers) => {
                self.complained = None;
                answers
            }
            Err(error) => return self.write_apart(batch, error).await,
        };
        let answers: HashMap<_, _> = answers.into_iter().map(|(key, fence, answer)| ((key, fence), answer)).collect();
        let mut again = Batch::new();
        for (of, waiting) in batch {
            match answers.get(&of).copied().unwrap_or(Answer::Changed) {
                Answer::Busy if waiting.until > Instant::now() => {
                    again.insert(of, waiting);
                }
                Answer::Busy | Answer::Changed => tell(waiting, Answer::Changed),
                Answer::Recorded => tell(waiting, Answer::Recorded),
            }
        }
        again
    }

    /// After an error: while PostgreSQL is away all of it waits; a row that PostgreSQL refuses must not keep others.
    async fn write_apart(&mut self, batch: Batch, error: QueueError) -> Batch {
        metrics::database_error("queue::complete");
        if error.refuses_data() {
            if batch.len() == 1 {
                for ((key, _), waiting) in batch {
                    error!(object.key = %key, error = %error, "The result for {key} cannot be recorded");
                    tell(waiting, Answer::Changed);
                }
                return Batch::new();
            }
            let mut again = Batch::new();
            for one in batch {
                again.extend(Box::pin(self.write(Batch::from([one]))).await);
            }
            return again;
        }
        let now = Instant::now();
        if self.complained.is_none_or(|last| now - last > COMPLAIN_EVERY) {
            let is_news = self.complained.replace(now).is_none();
            // It is tried ten times a second. Appenders of events wait for one another for moments only.
            if is_news && error.is_contended() {
                debug!(results = batch.len(), "The log was held by others for too long, trying again");
            } else {
                warn!(error = %error, results = batch.len(), "Results could not be recorded, trying again");
            }
        }
        let (live, late): (Batch, Batch) = batch.into_iter().partition(|(_, w)| w.until > now);
        for write in late.into_values() {
            tell(write, Answer::Changed);
        }
        live
    }
}

fn merge(batch: &mut Batch, Said { report, until, answer }: Said) {
    match batch.entry((report.key.clone(), report.fence)) {
        std::collections::hash_map::Entry::Vacant(entry) => {
            entry.insert(Waiting { report, until, answers: vec![answer] });
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

/// The later word on a replica stands.
fn replace(outcomes: &mut Vec<(ReplicaName, Outcome)>, replica: ReplicaName, outcome: Outcome) {
    outcomes.retain(|(r, _)| *r != replica);
    outcomes.push((replica, outcome));
}

fn tell(waiting: Waiting, answer: Answer) {
    for waiter in waiting.answers {
        // Whoever asked may have been stopped meanwhile.
        let _ = waiter.send(answer);
    }
}
