//! Moves bytes: one object, read once, written to all its targets at the same time.
//!
//! Never heard of PostgreSQL: a [`Job`] says what to do, and every fact is sent as a
//! [`Step`] as soon as it is known, so that a proven copy is recorded while another still
//! runs. Holds no more than [`Memory`] allows, uses no temporary files, and leaves no
//! unfinished upload behind as long as the process lives.

mod failure;
mod hash;
mod memory;
mod parts;
mod plan;
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

pub use memory::Memory;
pub use plan::WHOLE_UP_TO;

use crate::{
    domain::{Class, Content, Failure, ObjectKey, ReplicaName, Verified},
    store::Store,
};
use failure::{bare, most_telling};
use plan::{Parts, Plan, plan};
use source::{Piece, Reader};

/// How long a copy that is to stop waits for a request that makes an object appear.
const LAST_REQUEST_MAY_TAKE: Duration = Duration::from_secs(2);

/// One object to be copied.
#[derive(Debug)]
pub struct Job {
    pub key: ObjectKey,
    /// What the first complete read of this generation found: another content is not recorded.
    pub content: Option<Content>,
    /// Its size as the registrar stated it, or as it was found. A source that has another is not where the object
    /// as it was registered is: an older content, or an upload that has not ended.
    pub stated_bytes: Option<u64>,
    /// In order of preference.
    pub sources: Vec<Source>,
    /// None of them is a source.
    pub targets: Vec<Target>,
}

/// Where the object may be read.
#[derive(Debug, Clone)]
pub struct Source {
    pub store: Arc<Store>,
    /// Its copy is on record, so it should have the object.
    pub recorded: bool,
}

/// Where the object is to be written.
#[derive(Debug, Clone)]
pub struct Target {
    pub store: Arc<Store>,
    pub existing: OnExisting,
}

/// What to do where an object of the same key already is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExisting {
    /// The bucket was empty when it was taken into use, or may be overwritten.
    PutOver,
    /// What was last modified before this time, by the store's clock, is not ours: if
    /// it is equal it counts as the copy, else it is left alone.
    Adopt { older_than: SystemTime },
}

/// One fact about a copy, sent as soon as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The object was read to its end: its size and hash, and the proof of the source's
    /// own copy. Sent before any target's success.
    Read { from: ReplicaName, content: Content },
    /// A source could not be read; another one may still do.
    SourceFailed { replica: ReplicaName, why: Failure },
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
    match (Copy { job, memory, stop, steps }).run().await {
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
        first: Piece,
        targets: Vec<&'a Target>,
    },
    /// Every target has its answer.
    Nothing,
}

impl Copy<'_> {
    /// Tries one source after the other until one has delivered the first piece. From
    /// then on the attempt stands or falls with it.
    async fn run(&self) -> Result<(), Cancelled> {
        let mut failures = Vec::new();
        for source in &self.job.sources {
            let opened = self.or_stop(self.open(source)).await?;
            match opened {
                Ok((reader, Next::Whole { piece, targets })) => {
                    return self.write_whole(&reader, piece, &targets).await;
                }
                Ok((mut reader, Next::Parts { parts, first, targets })) => {
                    return self.write_parts(&mut reader, parts, first, &targets).await;
                }
                Ok((_, Next::Nothing)) => return Ok(()),
                Err(why) => {
                    self.source_failed(&source.store, &why);
                    failures.push((source.recorded, why));
                }
            }
        }
        let targets: Vec<_> = self.job.targets.iter().collect();
        self.fail_all(&targets, &most_telling(failures));
        Ok(())
    }

    /// Opens the object at one source, plans, and reads the first piece.
    async fn open<'s>(&'s self, source: &'s Source) -> Result<(Reader<'s>, Next<'s>), Failure> {
        let job = self.job;
        let mut reader = Reader::open(&source.store, &job.key, self.memory, job.stated_bytes).await?;
        let size_bytes = reader.head().size_bytes;
        if let Some(known) = job.content.filter(|known| known.size_bytes != size_bytes) {
            let targets: Vec<_> = job.targets.iter().collect();
            self.fail_all(&targets, &changed(&source.store, &known, &format!("{size_bytes} bytes")));
            return Ok((reader, Next::Nothing));
        }
        if let Some(stated) = job.stated_bytes.filter(|stated| job.content.is_none() && *stated != size_bytes) {
            return Err(other_size(&source.store, stated, size_bytes));
        }
        let (targets, unable): (Vec<_>, Vec<_>) =
            job.targets.iter().partition(|target| size_bytes <= target.store.profile().max_object_bytes);
        let max_parts = targets.iter().map(|target| target.store.profile().max_parts).min().unwrap_or(u32::MAX);
        let next = match plan(size_bytes, max_parts, self.memory.total_bytes()) {
            _ if targets.is_empty() && !unable.is_empty() => Next::Nothing,
            Err(refused) => {
                self.fail_all(&targets, &bare(Class::Refused, refused.to_string()));
                Next::Nothing
            }
            Ok(Plan::Whole) => Next::Whole { piece: reader.piece(0..size_bytes).await?, targets },
            Ok(Plan::Parts(parts)) => {
                // Cannot fail: an object in parts has at least one.
                let range = parts.ranges().next().expect("a first part");
                Next::Parts { parts, first: reader.piece(range).await?, targets }
            }
        };
        // Only now: had this source failed, the next one would have them told again.
        for target in unable {
            self.ended(target, Err(too_large(&target.store, size_bytes)));
        }
        Ok((reader, next))
    }

    /// Whether what was read is what this generation's first read found.
    fn expected(&self, store: &Store, read: &Content) -> Result<(), Failure> {
        match self.job.content {
            Some(known) if known != *read => Err(changed(store, &known, &format!("{read:?}"))),
            _ => Ok(()),
        }
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

    fn has_read(&self, store: &Store, content: Content) {
        self.tell(Step::Read { from: store.name().clone(), content });
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

fn changed(store: &Store, known: &Content, found: &str) -> Failure {
    let what =
        format!("the object is no longer what this generation's first read found ({found} instead of {known:?})");
    bare(Class::Changed, format!("source {}: {what}", store.name()))
}

fn other_size(store: &Store, stated: u64, found: u64) -> Failure {
    let what = format!(
        "it holds {found} bytes under this key and {stated} were registered: another content, or its upload has not ended"
    );
    bare(Class::Gone, format!("source {}: {what}", store.name()))
}

fn too_large(store: &Store, size_bytes: u64) -> Failure {
    let profile = store.profile();
    let what =
        format!("the object has {size_bytes} bytes, {} takes {} at most", profile.provider, profile.max_object_bytes);
    bare(Class::Refused, format!("target {}: {what}", store.name()))
}
