//! Moves bytes: one object, read once, written to all its targets at the same time.
//!
//! Never heard of PostgreSQL: a [`Job`] says what to do, and every fact is sent as a
//! [`Step`] as soon as it is known, so that a proven copy is recorded while another still
//! runs. Holds no more than [`Memory`] allows and uses no temporary files. Parts that a
//! target has taken stay there for the next attempt.

mod examine;
mod failure;
mod hash;
mod job;
mod journal;
mod lacks;
mod lag;
mod memory;
mod memory_journal;
mod metadata;
mod parts;
mod plan;
mod repeat;
mod source;
mod spelling;
mod step;
#[cfg(test)]
mod tests;
mod verify;
mod whole;

use std::{collections::VecDeque, pin::pin, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use examine::{OtherContent, judge_primary};
pub use job::{Job, OnExisting, Source, Target};
pub use journal::{Entry, Journal, Older, Part, Shape, Unfinished};
pub use memory::{Lingering, Memory};
pub use memory_journal::{MemoryJournal, RecordedUpload};
pub use metadata::metadata_change;
pub use plan::{PART_AT_LEAST, WHOLE_UP_TO};
pub use spelling::kept_as_another;
pub use step::Step;
pub use verify::{Reading, is_as_stored, read, said};

use copyhold_core::domain::{Content, Failure, FailureClass, MetadataHash, ReplicaName, Verified};

use crate::store::{Store, StoreError};
use failure::{most_telling, other_size, refused, stale};
use plan::{Limits, Parts, Plan, Way, is_whole, plan};
use source::{Opened, Piece, Reader};

/// How long a copy that is to stop waits for a request that makes an object appear.
const LAST_REQUEST_MAY_TAKE: Duration = Duration::from_secs(2);

/// Whether the targets' steps are complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Ended {
    Done,
    Cancelled,
}

/// Copies one object. When it returns, no request of it is under way any more.
///
/// Cancelling `stop` drops its requests, but leaves those that make an object appear a moment to end. It aborts uploads
/// of which no part has arrived or that the next attempt cannot use (for at most 5 s); the others stay for that attempt.
/// Of what is dropped nothing is told. Dropping the future instead leaves all uploads behind.
pub async fn copy(job: &Job, memory: &Memory, stop: &CancellationToken, steps: &mpsc::UnboundedSender<Step>) -> Ended {
    let copy = Copy { job, memory, stop, steps };
    let mut targets = Vec::new();
    for target in &job.targets {
        match target.store.profile().refuses_key(&job.key) {
            None => targets.push(target),
            Some(why) => copy.ended(target, Err(refused(&target.store, &why))),
        }
    }
    // A job that never had targets is to prove the source's own copy.
    if targets.is_empty() && !job.targets.is_empty() {
        return Ended::Done;
    }
    match Box::pin(copy.run(targets)).await {
        Ok(()) => Ended::Done,
        Err(Cancelled) => Ended::Cancelled,
    }
}

/// One call of [`copy`].
struct Copy<'a> {
    job: &'a Job,
    memory: &'a Memory,
    stop: &'a CancellationToken,
    steps: &'a mpsc::UnboundedSender<Step>,
}

/// The caller has lost interest.
#[derive(Debug)]
struct Cancelled;

/// What to do after the first piece was read.
enum Next<'a> {
    Whole {
        piece: Piece,
        targets: Vec<&'a Target>,
    },
    Parts {
        parts: Parts,
        /// Uploads to go on with.
        unfinished: Vec<Unfinished>,
        /// The first part, if anybody lacks it.
        first: Option<Piece>,
        targets: Vec<&'a Target>,
    },
    /// Every target has its answer.
    Nothing,
}

/// Why a source is of no use.
enum Useless {
    /// It could not be read.
    Failed(Failure),
    /// It holds another content than is known.
    Stale(Failure),
    /// Its metadata is not what is on record, and nothing says whose fault that is: other sources are tried first.
    LastResort,
}

/// How far one source has brought it.
enum Came<'a> {
    /// Every target has its answer.
    Through,
    /// Its copy turned out to be another content, after it was read; these targets still wait for theirs.
    ToNothing { why: Failure, left: Vec<&'a Target> },
}

impl Copy<'_> {
    /// Tries one source after the other until one has delivered the first piece. From
    /// then on the attempt stands or falls with it, unless it turns out to hold another content.
    async fn run(&self, mut left: Vec<&Target>) -> Result<(), Cancelled> {
        let mut failures = Vec::new();
        let mut sources: VecDeque<_> = self.job.sources.iter().map(|source| (source, false)).collect();
        while let Some((source, last_resort)) = sources.pop_front() {
            let came = match self.or_stop(Box::pin(self.open(source, &left, last_resort))).await? {
                Ok((reader, Next::Whole { piece, targets })) => self.write_whole(&reader, piece, targets).await?,
                Ok((reader, Next::Parts { parts, unfinished, first, targets })) => {
                    self.write_parts(&reader, parts, unfinished, first, &targets).await?
                }
                Ok((_, Next::Nothing)) => Came::Through,
                Err(Useless::Stale(why)) => Came::ToNothing { why, left: left.clone() },
                Err(Useless::LastResort) => {
                    sources.push_back((source, true));
                    continue;
                }
                Err(Useless::Failed(why)) => {
                    self.source_failed(&source.store, &why);
                    failures.push((source.recorded, why));
                    continue;
                }
            };
            match came {
                Came::Through => return Ok(()),
                Came::ToNothing { why, left: others } => {
                    let (replica, park) = (source.store.name().clone(), source.primary);
                    self.tell(Step::Stale { replica, why: why.clone(), park });
                    failures.push((source.recorded, why));
                    left = others;
                }
            }
        }
        self.fail_all(&left, &most_telling(failures));
        Ok(())
    }

    /// Opens the object at one source, plans, and reads the first piece.
    async fn open<'s>(
        &'s self,
        source: &'s Source,
        waiting: &[&'s Target],
        last_resort: bool,
    ) -> Result<(Reader<'s>, Next<'s>), Useless> {
        let job = self.job;
        let mut reader = Reader::open(source, &job.key, self.memory, job.stated_bytes).await?;
        let size_bytes = reader.head().size_bytes;
        if job.stated_bytes != Some(size_bytes) {
            self.tell(Step::Opened { size_bytes });
        }
        // What the primary holds is read to its end before it is believed.
        if let Some(known) = job.content.filter(|known| known.size_bytes != size_bytes && !source.primary) {
            return Err(Useless::Stale(stale(&source.store, &known, &format!("{size_bytes} bytes"))));
        }
        if let Some(stated) = job.stated_bytes.filter(|stated| job.content.is_none() && *stated != size_bytes) {
            return Err(other_size(&source.store, stated, size_bytes).into());
        }
        // What is read only to prove its own copy is written nowhere.
        if source.primary || !waiting.is_empty() {
            let metadata = self.metadata_to_write(source, reader.head(), last_resort).await?;
            reader.write_metadata(metadata);
        }
        let (mut targets, mut unable) = (Vec::new(), Vec::new());
        for target in waiting {
            let profile = target.store.profile();
            match profile.refuses_size(size_bytes).or_else(|| profile.refuses_metadata(reader.opened().metadata())) {
                None => targets.push(*target),
                Some(why) => unable.push((*target, why)),
            }
        }
        let limits = Limits::of(targets.iter().map(|target| target.store.profile()));
        let unfinished =
            if is_whole(size_bytes, limits) { Vec::new() } else { self.unfinished(&reader, &targets).await };
        let next = match plan(size_bytes, limits, self.memory.total_bytes(), most_done(&unfinished)) {
            _ if targets.is_empty() && !unable.is_empty() => Next::Nothing,
            Err(refused) => {
                self.fail_all(&targets, &Failure::new(FailureClass::Refused, refused.to_string()));
                Next::Nothing
            }
            Ok(Plan::Whole) => Next::Whole { piece: reader.piece(0..size_bytes).await?, targets },
            Ok(Plan::Parts(parts)) => {
                let is_there = |target: &&Target| {
                    let has = |one: &Unfinished| {
                        one.replica == *target.store.name()
                            && one.shape.part_bytes == parts.part_bytes()
                            && one.parts.first().is_some_and(|part| part.number == 1)
                    };
                    unfinished.iter().any(has)
                };
                let lacked = targets.is_empty() || !targets.iter().all(is_there);
                let held = parts.way() == Way::Held;
                let first = if held && (lacked || reader.opened().hashes_whole(parts)) {
                    Some(reader.piece(parts.range(1)).await?)
                } else {
                    None
                };
                Next::Parts { parts, unfinished, first, targets }
            }
        };
        // Only now: had this source failed, the next one would have them told again.
        for (target, why) in unable {
            self.ended(target, Err(refused(&target.store, &why)));
        }
        Ok((reader, next))
    }

    /// What earlier attempts have left of this content at the targets. What they left of any other is of no use, and
    /// found by whoever cleans up.
    async fn unfinished(&self, reader: &Reader<'_>, targets: &[&Target]) -> Vec<Unfinished> {
        let mut unfinished = self.job.journal.unfinished().await;
        unfinished.retain(|one| {
            let mark = reader.opened().mark(Way::of(one.shape.part_bytes, self.memory.total_bytes()));
            let same = mark.is_some_and(|mark| mark == one.shape.origin);
            same && one.shape.size_bytes == reader.head().size_bytes
                && targets.iter().any(|target| *target.store.name() == one.replica)
        });
        unfinished
    }

    async fn or_stop<T>(&self, work: impl Future<Output = T>) -> Result<T, Cancelled> {
        self.stop.run_until_cancelled(work).await.ok_or(Cancelled)
    }

    /// For requests that make an object appear. Cut off, one may still be carried out later, when the key may have
    /// another content: so it is left a moment to end.
    async fn or_stop_late<T>(&self, work: impl Future<Output = T>) -> Result<T, Cancelled> {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            done = &mut work => Ok(done),
            () = self.stop.cancelled() => tokio::time::timeout(LAST_REQUEST_MAY_TAKE, work).await.map_err(|_| Cancelled),
        }
    }

    fn has_read(&self, opened: &Opened, content: Content) {
        let said = opened.is_primary().then(|| opened.said());
        self.tell(Step::Read { from: opened.store().name().clone(), content, said });
    }

    /// Tells of what the object has beside its bytes. Once that is known only the primary says it: a copy elsewhere may have
    /// lost some of it. Where nobody tells what is on record any more, what is written instead is.
    fn describe(&self, opened: &Opened) {
        let is_on_record = self.job.metadata.is_none_or(|known| known == opened.metadata().hash());
        if self.job.content.is_some() && !opened.is_primary() && is_on_record {
            return;
        }
        let not_carried = opened.head().not_carried.clone();
        self.tell(Step::Described { metadata: opened.metadata().hash(), not_carried });
    }

    fn source_failed(&self, store: &Store, why: &Failure) {
        self.tell(Step::SourceFailed { replica: store.name().clone(), why: why.clone() });
    }

    fn ended(&self, target: &Target, result: Result<Verified, Failure>) {
        self.tell(Step::Target { replica: target.store.name().clone(), result });
    }

    fn fail_all(&self, targets: &[&Target], why: &Failure) {
        for target in targets {
            self.ended(target, Err(why.clone()));
        }
    }

    fn tell(&self, step: Step) {
        // Nobody listens any more: then nobody will record it either.
        let _ = self.steps.send(step);
    }
}

/// The size of the parts of which most is done.
fn most_done(unfinished: &[Unfinished]) -> Option<u64> {
    let done = |one: &&Unfinished| one.parts.len() as u64 * one.shape.part_bytes;
    unfinished.iter().max_by_key(done).map(|one| one.shape.part_bytes)
}

impl From<Failure> for Useless {
    fn from(why: Failure) -> Self {
        Self::Failed(why)
    }
}

/// Sends a request that makes the object appear at a target, and tells of its beginning and its end.
///
/// Not in a destructor: a copy that is cancelled here tells of no end, which is the truth.
async fn write<T>(
    steps: &mpsc::UnboundedSender<Step>,
    target: &ReplicaName,
    content: Content,
    metadata: MetadataHash,
    completes: bool,
    request: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let begun = Step::WriteBegun { replica: target.clone(), content, metadata: Some(metadata), completes };
    // Nobody listens any more: then the process ends, and the lease is swept.
    let _ = steps.send(begun);
    let answer = request.await;
    if answer.as_ref().err().is_none_or(|error| !error.outcome_unknown()) {
        let _ = steps.send(Step::WriteEnded { replica: target.clone() });
    }
    answer
}
