//! Copies one object: reads it once and writes it to all its targets at the same time.
//!
//! It does not use PostgreSQL. A [`Job`] is the input; every fact is sent as a [`CopyStep`] as soon as it is known, so
//! that a proven copy is recorded while another still runs. It holds no more bytes than [`Memory`] allows and uses no
//! temporary files. Parts that a target has accepted stay there for the next attempt.

mod content_check;
mod failure;
mod hash;
mod job;
mod journal;
mod key_collision;
mod lag_limit;
mod memory;
mod memory_journal;
mod metadata;
mod not_carried;
mod parts;
mod plan;
mod retry;
mod source;
mod step;
#[cfg(test)]
mod tests;
mod verify;
mod whole;

use std::{collections::VecDeque, pin::pin, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use content_check::{OtherContent, judge_primary};
pub use job::{Job, OnExisting, Source, Target};
pub use journal::{Journal, OlderUpload, ResumableUpload, UploadEntry, UploadShape, UploadedPart};
pub use key_collision::kept_as_another;
pub use memory::{Memory, SlowTargetMemory};
pub use memory_journal::{MemoryJournal, RecordedUpload};
pub use metadata::metadata_change;
pub use plan::{PART_AT_LEAST, WHOLE_UP_TO};
pub use step::CopyStep;
pub use verify::{ObjectReading, is_as_stored, read, said};

use copyhold_core::domain::{Content, Failure, FailureClass, MetadataHash, ReplicaName, Verified};

use crate::store::{Store, StoreError};
use failure::{most_relevant, other_size, refused, stale};
use plan::{Limits, PartMode, Parts, Plan, is_whole, plan};
use source::{Chunk, OpenedSource, SourceReader};

/// How long a cancelled copy waits for a request that makes an object appear.
const LAST_REQUEST_MAY_TAKE: Duration = Duration::from_secs(2);

/// Whether every target has got a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum CopyEnd {
    Done,
    Cancelled,
}

/// Copies one object. No request of it is under way when it returns.
///
/// Cancelling `stop` drops its requests, but gives those that make an object appear a moment to end. It aborts uploads
/// of which no part has arrived or that the next attempt cannot use (for at most 5 s); other uploads stay for that
/// attempt. Dropped requests are not reported. Dropping the future instead leaves all uploads behind.
pub async fn copy(
    job: &Job,
    memory: &Memory,
    stop: &CancellationToken,
    steps: &mpsc::UnboundedSender<CopyStep>,
) -> CopyEnd {
    let copy = Copy { job, memory, stop, steps };
    let mut targets = Vec::new();
    for target in &job.targets {
        match target.store.profile().refuses_key(&job.key) {
            None => targets.push(target),
            Some(why) => copy.ended(target, Err(refused(&target.store, &why))),
        }
    }
    // A job without targets proves the source's own copy.
    if targets.is_empty() && !job.targets.is_empty() {
        return CopyEnd::Done;
    }
    match Box::pin(copy.run(targets)).await {
        Ok(()) => CopyEnd::Done,
        Err(Cancelled) => CopyEnd::Cancelled,
    }
}

/// One call of [`copy`].
struct Copy<'a> {
    job: &'a Job,
    memory: &'a Memory,
    stop: &'a CancellationToken,
    steps: &'a mpsc::UnboundedSender<CopyStep>,
}

/// The caller has cancelled the copy.
#[derive(Debug)]
struct Cancelled;

/// What follows after the first piece was read.
enum PlannedWrite<'a> {
    Whole {
        piece: Chunk,
        targets: Vec<&'a Target>,
    },
    Parts {
        parts: Parts,
        /// Uploads to resume.
        unfinished: Vec<ResumableUpload>,
        /// The first part, if any target lacks it.
        first: Option<Chunk>,
        targets: Vec<&'a Target>,
    },
    /// Every target has its result.
    Nothing,
}

/// Why a source cannot be used.
enum SourceError {
    /// It could not be read.
    Failed(Failure),
    /// It holds other content than the known one.
    Stale(Failure),
    /// Its metadata is not what is on record, and the reason is unclear: other sources are tried first.
    LastResort,
}

/// The result with one source.
enum SourceResult<'a> {
    /// Every target has its result.
    Done,
    /// After it was read, its copy turned out to be other content; these targets have no result yet.
    Stale { why: Failure, left: Vec<&'a Target> },
}

impl Copy<'_> {
    /// Tries the sources in order until one has delivered the first piece. Then the attempt depends on that source,
    /// unless it turns out to hold other content.
    async fn run(&self, mut left: Vec<&Target>) -> Result<(), Cancelled> {
        let mut failures = Vec::new();
        let mut sources: VecDeque<_> = self.job.sources.iter().map(|source| (source, false)).collect();
        while let Some((source, last_resort)) = sources.pop_front() {
            let came = match self.or_stop(Box::pin(self.open(source, &left, last_resort))).await? {
                Ok((reader, PlannedWrite::Whole { piece, targets })) => {
                    self.write_whole(&reader, piece, targets).await?
                }
                Ok((reader, PlannedWrite::Parts { parts, unfinished, first, targets })) => {
                    self.write_parts(&reader, parts, unfinished, first, &targets).await?
                }
                Ok((_, PlannedWrite::Nothing)) => SourceResult::Done,
                Err(SourceError::Stale(why)) => SourceResult::Stale { why, left: left.clone() },
                Err(SourceError::LastResort) => {
                    sources.push_back((source, true));
                    continue;
                }
                Err(SourceError::Failed(why)) => {
                    self.source_failed(&source.store, &why);
                    failures.push((source.recorded, why));
                    continue;
                }
            };
            match came {
                SourceResult::Done => return Ok(()),
                SourceResult::Stale { why, left: others } => {
                    let (replica, park) = (source.store.name().clone(), source.primary);
                    self.tell(CopyStep::Stale { replica, why: why.clone(), park });
                    failures.push((source.recorded, why));
                    left = others;
                }
            }
        }
        self.fail_all(&left, &most_relevant(failures));
        Ok(())
    }

    /// Opens the object at one source, plans, and reads the first piece.
    async fn open<'s>(
        &'s self,
        source: &'s Source,
        waiting: &[&'s Target],
        last_resort: bool,
    ) -> Result<(SourceReader<'s>, PlannedWrite<'s>), SourceError> {
        let job = self.job;
        let mut reader = SourceReader::open(source, &job.key, self.memory, job.stated_bytes).await?;
        let size_bytes = reader.head().size_bytes;
        if job.stated_bytes != Some(size_bytes) {
            self.tell(CopyStep::Opened { size_bytes });
        }
        // The primary is read to its end before its content is judged.
        if let Some(known) = job.content.filter(|known| known.size_bytes != size_bytes && !source.primary) {
            return Err(SourceError::Stale(stale(&source.store, &known, &format!("{size_bytes} bytes"))));
        }
        if let Some(stated) = job.stated_bytes.filter(|stated| job.content.is_none() && *stated != size_bytes) {
            return Err(other_size(&source.store, stated, size_bytes).into());
        }
        // A source that is read only to prove its own copy is not written anywhere.
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
            _ if targets.is_empty() && !unable.is_empty() => PlannedWrite::Nothing,
            Err(refused) => {
                self.fail_all(&targets, &Failure::new(FailureClass::Refused, refused.to_string()));
                PlannedWrite::Nothing
            }
            Ok(Plan::Whole) => PlannedWrite::Whole { piece: reader.piece(0..size_bytes).await?, targets },
            Ok(Plan::Parts(parts)) => {
                let is_there = |target: &&Target| {
                    let has = |one: &ResumableUpload| {
                        one.replica == *target.store.name()
                            && one.shape.part_bytes == parts.part_bytes()
                            && one.parts.first().is_some_and(|part| part.number == 1)
                    };
                    unfinished.iter().any(has)
                };
                let lacked = targets.is_empty() || !targets.iter().all(is_there);
                let held = parts.mode() == PartMode::Buffered;
                let first = if held && (lacked || reader.opened().hashes_whole(parts)) {
                    Some(reader.piece(parts.range(1)).await?)
                } else {
                    None
                };
                PlannedWrite::Parts { parts, unfinished, first, targets }
            }
        };
        // Reported only now: had this source failed, the next one would report them again.
        for (target, why) in unable {
            self.ended(target, Err(refused(&target.store, &why)));
        }
        Ok((reader, next))
    }

    /// Returns the open uploads of this content at the targets. Uploads of other content are useless; the clean-up of
    /// orphaned uploads aborts them.
    async fn unfinished(&self, reader: &SourceReader<'_>, targets: &[&Target]) -> Vec<ResumableUpload> {
        let mut unfinished = self.job.journal.unfinished().await;
        unfinished.retain(|one| {
            let mark = reader.opened().mark(PartMode::of(one.shape.part_bytes, self.memory.total_bytes()));
            let same = mark.is_some_and(|mark| mark == one.shape.origin);
            same && one.shape.size_bytes == reader.head().size_bytes
                && targets.iter().any(|target| *target.store.name() == one.replica)
        });
        unfinished
    }

    async fn or_stop<T>(&self, work: impl Future<Output = T>) -> Result<T, Cancelled> {
        self.stop.run_until_cancelled(work).await.ok_or(Cancelled)
    }

    /// Waits a moment for a request that makes an object appear. The store may execute a dropped request later, when
    /// the key may have other content.
    async fn or_stop_late<T>(&self, work: impl Future<Output = T>) -> Result<T, Cancelled> {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            done = &mut work => Ok(done),
            () = self.stop.cancelled() => tokio::time::timeout(LAST_REQUEST_MAY_TAKE, work).await.map_err(|_| Cancelled),
        }
    }

    fn has_read(&self, opened: &OpenedSource, content: Content) {
        let said = opened.is_primary().then(|| opened.said());
        self.tell(CopyStep::Read { from: opened.store().name().clone(), content, said });
    }

    /// Reports properties of the object beside its bytes. Once they are known, only the primary reports them, because
    /// another copy may have lost some. If the metadata on record is available nowhere, what is written instead is
    /// reported.
    fn describe(&self, opened: &OpenedSource) {
        let is_on_record = self.job.metadata.is_none_or(|known| known == opened.metadata().hash());
        if self.job.content.is_some() && !opened.is_primary() && is_on_record {
            return;
        }
        let not_carried = opened.head().not_carried.clone();
        self.tell(CopyStep::Described { metadata: opened.metadata().hash(), not_carried });
    }

    fn source_failed(&self, store: &Store, why: &Failure) {
        self.tell(CopyStep::SourceFailed { replica: store.name().clone(), why: why.clone() });
    }

    fn ended(&self, target: &Target, result: Result<Verified, Failure>) {
        self.tell(CopyStep::Target { replica: target.store.name().clone(), result });
    }

    fn fail_all(&self, targets: &[&Target], why: &Failure) {
        for target in targets {
            self.ended(target, Err(why.clone()));
        }
    }

    fn tell(&self, step: CopyStep) {
        // The receiver was dropped: the step is not recorded.
        let _ = self.steps.send(step);
    }
}

/// Returns the part size of the upload with the most bytes done.
fn most_done(unfinished: &[ResumableUpload]) -> Option<u64> {
    let done = |one: &&ResumableUpload| one.parts.len() as u64 * one.shape.part_bytes;
    unfinished.iter().max_by_key(done).map(|one| one.shape.part_bytes)
}

impl From<Failure> for SourceError {
    fn from(why: Failure) -> Self {
        Self::Failed(why)
    }
}

/// Sends a request that makes the object appear at a target, and reports its beginning and its end.
///
/// Not in a destructor: a copy that is cancelled here reports no end, because the outcome is unknown.
async fn write<T>(
    steps: &mpsc::UnboundedSender<CopyStep>,
    target: &ReplicaName,
    content: Content,
    metadata: MetadataHash,
    completes: bool,
    request: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let begun = CopyStep::WriteBegun { replica: target.clone(), content, metadata: Some(metadata), completes };
    // The receiver was dropped: the process ends, and the lease is swept.
    let _ = steps.send(begun);
    let answer = request.await;
    if answer.as_ref().err().is_none_or(|error| !error.outcome_unknown()) {
        let _ = steps.send(CopyStep::WriteEnded { replica: target.clone() });
    }
    answer
}
