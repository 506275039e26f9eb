//! Moves bytes: one object, read once, written to all its targets at the same time.
//!
//! Never heard of PostgreSQL: a [`Job`] says what to do, and every fact is sent as a
//! [`Step`] as soon as it is known, so that a proven copy is recorded while another still
//! runs. Holds no more than [`Memory`] allows, uses no temporary files, and leaves no
//! unfinished upload behind as long as the process lives.

mod failure;
mod hash;
mod journal;
mod lag;
mod memory;
mod parts;
mod plan;
mod repeat;
mod source;
#[cfg(all(test, feature = "sandbox"))]
mod tests;
mod verify;
mod whole;

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use journal::{Entry, Journal, Older, Part, Shape, Unfinished};
pub use memory::{Lingering, Memory};
pub use plan::{PART_AT_LEAST, WHOLE_UP_TO};
pub use verify::{Reading, read, state_of};

use crate::{
    domain::{
        Class, Content, EtagMatch, Failure, FoundThere, Kept, MetadataHash, NotCarried, ObjectKey, ReplicaName,
        SourceReading, SourceVerdict, Verified, judge_source,
    },
    store::{Head, Known, Md5, Store, StoreError},
};
use failure::most_telling;
use plan::{Limits, Parts, Plan, Way, is_whole, plan};
use source::{Opened, Piece, Reader};

/// How long a copy that is to stop waits for a request that makes an object appear.
const LAST_REQUEST_MAY_TAKE: Duration = Duration::from_secs(2);

/// One object to be copied.
#[derive(Debug)]
pub struct Job {
    pub key: ObjectKey,
    /// What the first complete read of this generation found: another content is not recorded.
    pub content: Option<Content>,
    /// What is on record of that reading: by it the primary is judged if it has another content.
    pub kept: Kept,
    /// Its size as the registrar stated it, or as it was found. A source that has another is not where the object
    /// as it was registered is: an older content, or an upload that has not ended.
    pub stated_bytes: Option<u64>,
    /// In order of preference.
    pub sources: Vec<Source>,
    /// None of them is a source.
    pub targets: Vec<Target>,
    /// A target that falls further behind the first than this is let go.
    pub lag: Duration,
    /// Where uploads in parts are written down.
    pub journal: Arc<dyn Journal>,
}

/// Where the object may be read.
#[derive(Debug, Clone)]
pub struct Source {
    pub store: Arc<Store>,
    /// Its copy is on record, so it should have the object.
    pub recorded: bool,
    /// What it holds is the object, whatever is known of it; what any other holds is a copy.
    pub primary: bool,
}

/// Where the object is to be written.
#[derive(Debug, Clone)]
pub struct Target {
    pub store: Arc<Store>,
    pub existing: OnExisting,
    /// It is known to be much slower than others: what only waits for it gets its share of the memory and no more.
    pub slow: bool,
    /// It was tried before, and nobody knows for certain how that ended.
    pub again: bool,
    /// What it held was found to be damaged: what its store says of that is not taken for its bytes.
    pub damaged: bool,
}

/// What to do where an object of the same key already is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExisting {
    /// The bucket was empty when it was taken into use, or may be overwritten.
    PutOver,
    /// What was last modified before this time, by the store's clock, is not ours: if
    /// it is equal it counts as the copy, else it is left alone. `None`: nothing that stands there is.
    Adopt { older_than: Option<SystemTime> },
}

/// One fact about a copy, sent as soon as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A source was found to hold this many bytes, which is news: the job did not state it.
    Opened { size_bytes: u64 },
    /// The object was read to its end: its size and hash, and the proof of the source's
    /// own copy. Sent before any target's success.
    Read {
        from: ReplicaName,
        content: Content,
        /// What the primary said of the object; `None`: another source was read.
        said: Option<SourceReading>,
    },
    /// What was read has this metadata, and this besides, which no copy of it gets. Sent just before `Read`.
    Described { metadata: MetadataHash, not_carried: Vec<NotCarried> },
    /// A source could not be read; another one may still do.
    SourceFailed { replica: ReplicaName, why: Failure },
    /// What a source holds is not this generation's content, or not what was written there: its copy is damaged or stale.
    /// Another one may still do.
    Stale {
        replica: ReplicaName,
        why: Failure,
        /// It is the primary, which is never written over: somebody has to decide.
        park: bool,
    },
    /// The primary was read to its end and holds another content than this generation's, which is surely no damage on
    /// the way, nor an earlier state: it was changed without being registered. Nothing is written; the targets' answers
    /// follow.
    Changed { from: ReplicaName, content: Content, said: SourceReading },
    /// A target that has not got the object has got some parts of it, which whoever comes next goes on from. Sent before
    /// how it ended there.
    Kept { replica: ReplicaName, parts: u32 },
    /// A request is about to be sent that makes the object appear at a target: a PUT, or the completion of an upload.
    WriteBegun {
        replica: ReplicaName,
        content: Content,
        metadata: Option<MetadataHash>,
        /// It completes an upload in parts.
        completes: bool,
    },
    /// That request has got a complete answer, or none of it was sent. Without this step, also when the copy is
    /// cancelled, the store may still carry it out.
    WriteEnded { replica: ReplicaName },
    /// How it ended at one target: exactly one for each, unless the copy is cancelled.
    Target { replica: ReplicaName, result: Result<Verified, Failure> },
}

/// Whether the targets' steps are complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Ended {
    Done,
    Cancelled,
}

/// Copies one object. When it returns, no request of it is under way any more.
///
/// Cancelling `stop` drops its requests, but leaves those that make an object appear a moment to end, and has begun
/// uploads thrown away (for at most 5 s). Of what is dropped nothing is told. Dropping the future instead leaves uploads
/// behind.
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
    match copy.run(targets).await {
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
}

/// How far one source has brought it.
enum Came<'a> {
    /// Every target has its answer.
    Through,
    /// Its copy turned out to be another content, after it was read; these targets still wait for theirs.
    ToNothing { why: Failure, left: Vec<&'a Target> },
}

/// Why what was read is not copied.
enum Unfit {
    /// It came damaged, or nobody can say.
    Failed(Failure),
    /// The source's copy is damaged or stale.
    Stale(Failure),
    /// The object is another one by now.
    Changed(Failure),
}

impl Copy<'_> {
    /// Tries one source after the other until one has delivered the first piece. From
    /// then on the attempt stands or falls with it, unless it turns out to hold another content.
    async fn run(&self, mut left: Vec<&Target>) -> Result<(), Cancelled> {
        let mut failures = Vec::new();
        for source in &self.job.sources {
            let came = match self.or_stop(self.open(source, &left)).await? {
                Ok((reader, Next::Whole { piece, targets })) => self.write_whole(&reader, piece, targets).await?,
                Ok((reader, Next::Parts { parts, unfinished, first, targets })) => {
                    self.write_parts(&reader, parts, unfinished, first, &targets).await?
                }
                Ok((_, Next::Nothing)) => Came::Through,
                Err(Useless::Stale(why)) => Came::ToNothing { why, left: left.clone() },
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
    async fn open<'s>(&'s self, source: &'s Source, waiting: &[&'s Target]) -> Result<(Reader<'s>, Next<'s>), Useless> {
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
        let (mut targets, mut unable) = (Vec::new(), Vec::new());
        for target in waiting {
            let profile = target.store.profile();
            match profile.refuses_size(size_bytes).or_else(|| profile.refuses_metadata(&reader.head().metadata)) {
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
                self.fail_all(&targets, &Failure::new(Class::Refused, refused.to_string()));
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

    /// Whether what was read is what this generation's first read found, or is the first, and sound. `md5` is that of
    /// the whole, if the source's ETag may be one.
    async fn examine(&self, opened: &Opened, read: &Content, md5: Option<&Md5>) -> Result<(), Unfit> {
        let result = match self.job.content {
            // Its bytes prove it, whatever is said of them. Written anew with the same bytes, it is the same object; where
            // the metadata that came with them is another, this is the place to see it.
            Some(known) if known == *read => {
                opened.learn(md5);
                Ok(())
            }
            Some(known) => self.judge(opened, &known, read, md5).await,
            None => opened.confirm(read, md5).await,
        };
        if let Err(Unfit::Failed(why)) = &result {
            self.source_failed(opened.store(), why);
        }
        result
    }

    /// What it means that a source has other bytes than are known.
    async fn judge(&self, opened: &Opened, known: &Content, read: &Content, md5: Option<&Md5>) -> Result<(), Unfit> {
        let Reading { etag, said, .. } = opened.make_sure(read, md5).await.map_err(Unfit::Failed)?;
        if etag != EtagMatch::Confirms {
            opened.is_as_stored().await.map_err(Unfit::Failed)?;
        }
        let (store, found) = (opened.store(), format!("{read:?}"));
        if !opened.is_primary() {
            return Err(Unfit::Stale(stale(store, known, &found)));
        }
        let known_for_md5 = store.etags_are_md5() == Known::Yes;
        let verdict = judge_source(&self.job.kept, &FoundThere { reading: said.clone(), etag, known_for_md5 });
        if verdict != SourceVerdict::Changed {
            return Err(Unfit::Stale(at_primary(store, known, &found, verdict)));
        }
        self.tell(Step::Changed { from: store.name().clone(), content: *read, said });
        Err(Unfit::Changed(changed(store, known, &found)))
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

    /// Tells of what the object has beside its bytes.
    fn describe(&self, head: &Head) {
        self.tell(Step::Described { metadata: head.metadata.hash(), not_carried: head.not_carried.clone() });
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

fn stale(store: &Store, known: &Content, found: &str) -> Failure {
    let what = format!("its copy is not what this generation's first read found ({found} instead of {known:?})");
    Failure::new(Class::Corrupt, format!("source {}: {what}", store.name()))
}

/// What stands at the primary is not written over, and nothing is copied from it.
fn at_primary(store: &Store, known: &Content, found: &str, verdict: SourceVerdict) -> Failure {
    let name = store.name();
    let what = format!(
        "its object is not what this generation's first read found ({found} instead of {known:?}), in two readings: {}. It is \
         not written over, and the others are copied from each other. Put the right object there, or delete it, and retry; or \
         register the key again (`copyhold enqueue`), if this is the content that is wanted",
        verdict.words()
    );
    Failure::new(Class::Corrupt, format!("source {name}: {what}"))
}

fn changed(store: &Store, known: &Content, found: &str) -> Failure {
    let what =
        format!("the object is no longer what this generation's first read found ({found} instead of {known:?})");
    Failure::new(Class::Changed, format!("source {}: {what}", store.name()))
}

fn other_size(store: &Store, stated: u64, found: u64) -> Failure {
    let what = format!(
        "it holds {found} bytes under this key and {stated} were registered: another content, or its upload has not ended"
    );
    Failure::new(Class::Gone, format!("source {}: {what}", store.name()))
}

fn refused(store: &Store, what: &str) -> Failure {
    Failure::new(Class::Refused, format!("target {}: {what}", store.name()))
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
