//! Writes the multipart journal to PostgreSQL, for the objects that this process holds.

use std::{
    collections::{BTreeMap, btree_map},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use copyhold_core::domain::{Generation, Lease, ObjectKey, ReplicaName};
use copyhold_db::queue::{Complaint, Intent, Queue, QueueError, TakenPart, UnfinishedUpload};
use copyhold_s3::{
    copy::{Journal, OlderUpload, ResumableUpload, UploadEntry, UploadShape, UploadedPart},
    store::{ETag, Md5, UploadId},
};
use futures::{FutureExt as _, future::BoxFuture};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::{error, warn};

use crate::metrics;

/// Parts, and uploads that are over, of one statement at most.
const BATCH: usize = 1000;
/// Statements are at least this far apart: what comes in between goes with the next.
const EVERY: Duration = Duration::from_millis(50);
/// How long the next try waits when PostgreSQL is away.
const PAUSE: Duration = Duration::from_millis(200);
/// What is kept at most for a PostgreSQL that is away: some 300 bytes each, 20 MiB. Less than that comes together, since
/// copies stop when their lease runs out. What is not kept is sent again, or found by the sweeper.
const UNWRITTEN: usize = 65_536;

/// The memory of this process's unfinished uploads: a [`Journal`] for each lease, and one [`Recorder`] for all.
#[derive(Debug, Clone)]
pub struct Journals {
    queue: Queue,
    told: mpsc::UnboundedSender<Told>,
    unwritten: Arc<AtomicUsize>,
    complaint: Arc<Complaint>,
}

/// Writes down what need not be waited for, of all objects together.
#[derive(Debug)]
pub struct Recorder {
    queue: Queue,
    told: mpsc::UnboundedReceiver<Told>,
    complaint: Arc<Complaint>,
}

/// The two ends. The recorder ends when all journals are gone and everything is written.
#[must_use]
pub fn journals(queue: Queue) -> (Journals, Recorder) {
    let (sender, told) = mpsc::unbounded_channel();
    let complaint = Arc::new(Complaint::default());
    let recorder = Recorder { queue: queue.clone(), told, complaint: Arc::clone(&complaint) };
    (Journals { queue, told: sender, unwritten: Arc::default(), complaint }, recorder)
}

impl Journals {
    /// The journal of the object that is leased.
    #[must_use]
    pub fn of(&self, lease: &Lease) -> Arc<dyn Journal> {
        let (parts, _) = watch::channel(0);
        Arc::new(OfObject {
            key: lease.key.clone(),
            generation: lease.generation,
            journals: self.clone(),
            parts: Arc::new(parts),
        })
    }

    fn tell(&self, word: Word, journal: Option<&Arc<watch::Sender<usize>>>) {
        if self.unwritten.load(Ordering::Relaxed) < UNWRITTEN {
            let mark = Mark::new(&self.unwritten, journal);
            // Without a recorder the process is at its end.
            let _ = self.told.send(Told { word, mark });
        }
    }

    /// Tries for as long as PostgreSQL is away, and until it takes it.
    async fn keep_trying<T, F>(
        &self,
        what: &str,
        statement: &'static str,
        attempt: impl Fn() -> F,
    ) -> Result<T, Hopeless>
    where
        F: Future<Output = Result<T, QueueError>>,
    {
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => {
                    metrics::database_error(statement);
                    if error.refuses_data() || matches!(error, QueueError::Inconsistent { .. }) {
                        return Err(Hopeless(error));
                    }
                    self.complaint.fails(|times| warn!(error = %error, times, "Could not {what}, trying again"));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The same again helps nobody: it is not PostgreSQL that is in the way but what was to be written or read.
struct Hopeless(QueueError);

/// The journal of one object's lease.
#[derive(Debug)]
struct OfObject {
    key: ObjectKey,
    generation: Generation,
    journals: Journals,
    /// Parts that are not written yet.
    parts: Arc<watch::Sender<usize>>,
}

impl Journal for OfObject {
    fn unfinished(&self) -> BoxFuture<'_, Vec<ResumableUpload>> {
        async {
            let ask = || self.journals.queue.unfinished_uploads(&self.key, self.generation);
            let asked = self.journals.keep_trying("look for unfinished uploads", "queue::unfinished_uploads", ask);
            match asked.await {
                Ok(found) => found.into_iter().map(unfinished).collect(),
                Err(Hopeless(error)) => {
                    warn!(object.key = %self.key, error = %error, "The unfinished uploads of {} cannot be gone on with", self.key);
                    Vec::new()
                }
            }
        }
        .boxed()
    }

    fn older(&self) -> BoxFuture<'_, Vec<OlderUpload>> {
        async {
            let ask = || self.journals.queue.older_uploads(&self.key, self.generation);
            let asked = self.journals.keep_trying("look for older uploads", "queue::older_uploads", ask);
            match asked.await {
                Ok(found) => {
                    let older = |(id, replica, upload)| OlderUpload { entry: UploadEntry(id), replica, upload: UploadId::new(upload) };
                    found.into_iter().map(older).collect()
                }
                Err(Hopeless(error)) => {
                    warn!(object.key = %self.key, error = %error, "The older uploads of {} cannot be thrown away before a newer", self.key);
                    Vec::new()
                }
            }
        }
        .boxed()
    }

    fn intend<'a>(&'a self, replica: &'a ReplicaName, shape: &'a UploadShape) -> BoxFuture<'a, UploadEntry> {
        async move {
            // An origin is compared and nothing else; PostgreSQL keeps no NUL, which a store may have put into an ETag.
            let origin = shape.origin.replace('\0', "\u{fffd}");
            let UploadShape { size_bytes, part_bytes, .. } = *shape;
            let (key, generation) = (&self.key, self.generation);
            let intent = Intent { key, generation, replica, size_bytes, part_bytes, origin: &origin };
            let write = || self.journals.queue.intend_upload(&intent);
            loop {
                match self.journals.keep_trying("write down a new upload", "queue::intend_upload", &write).await {
                    Ok(id) => return UploadEntry(id),
                    // Nothing in it depends on anybody but us; if the table was altered by hand, it may be mended.
                    Err(Hopeless(error)) => {
                        self.journals.complaint.fails(|times| {
                            error!(object.key = %key, error = %error, times, "An upload of {key} cannot be written down, and is not begun");
                        });
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
        .boxed()
    }

    fn began<'a>(&'a self, entry: UploadEntry, upload: &'a UploadId) -> BoxFuture<'a, ()> {
        async move {
            let write = || self.journals.queue.upload_began(entry.0, upload.as_str());
            let written = self.journals.keep_trying("write down an upload's name", "queue::upload_began", write).await;
            if let Err(Hopeless(error)) = written {
                warn!(
                    object.key = %self.key,
                    error = %error,
                    "The name that a store gave to an upload of {} cannot be kept; should it be interrupted, it begins anew",
                    self.key
                );
            }
        }
        .boxed()
    }

    fn part(&self, entry: UploadEntry, part: UploadedPart) {
        self.journals.tell(Word::Part(entry, part), Some(&self.parts));
    }

    fn settle(&self) -> BoxFuture<'_, ()> {
        async {
            // Cannot fail: the sender lives as long as `self`.
            let _ = self.parts.subscribe().wait_for(|unwritten| *unwritten == 0).await;
        }
        .boxed()
    }

    fn spoil(&self, entry: UploadEntry) {
        self.journals.tell(Word::Spoilt(entry), None);
    }

    fn over(&self, entry: UploadEntry) {
        self.journals.tell(Word::Over(entry), None);
    }
}

fn unfinished(upload: UnfinishedUpload) -> ResumableUpload {
    let UnfinishedUpload { id, replica, size_bytes, part_bytes, origin, upload_id, parts } = upload;
    let part = |p: TakenPart| UploadedPart { number: p.number, etag: ETag::new(p.etag), md5: Md5(p.md5), crc: p.crc };
    ResumableUpload {
        entry: UploadEntry(id),
        replica,
        shape: UploadShape { size_bytes, part_bytes, origin },
        upload: UploadId::new(upload_id),
        parts: parts.into_iter().map(part).collect(),
    }
}

#[derive(Debug)]
struct Told {
    word: Word,
    mark: Mark,
}

#[derive(Debug)]
enum Word {
    Part(UploadEntry, UploadedPart),
    Spoilt(UploadEntry),
    Over(UploadEntry),
}

/// Counts something as unwritten for as long as it lives.
#[derive(Debug)]
struct Mark {
    all: Arc<AtomicUsize>,
    journal: Option<Arc<watch::Sender<usize>>>,
}

impl Mark {
    fn new(all: &Arc<AtomicUsize>, journal: Option<&Arc<watch::Sender<usize>>>) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        if let Some(journal) = journal {
            journal.send_modify(|unwritten| *unwritten += 1);
        }
        Self { all: Arc::clone(all), journal: journal.cloned() }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
        if let Some(journal) = &self.journal {
            journal.send_modify(|unwritten| *unwritten -= 1);
        }
    }
}

/// What is to be written: each part as it was sent last, but none of an upload that is over.
#[derive(Debug, Default)]
struct Pending {
    parts: BTreeMap<(i64, u32), (TakenPart, Vec<Mark>)>,
    spoilt: BTreeMap<i64, Vec<Mark>>,
    over: BTreeMap<i64, Vec<Mark>>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.spoilt.is_empty() && self.over.is_empty()
    }

    fn take(&mut self, Told { word, mark }: Told) {
        match word {
            Word::Over(UploadEntry(id)) => {
                let mut ended = self.parts.split_off(&(id, 0));
                self.parts.append(&mut ended.split_off(&(id + 1, 0)));
                self.spoilt.remove(&id);
                self.over.entry(id).or_default().push(mark);
            }
            Word::Spoilt(UploadEntry(id)) if !self.over.contains_key(&id) => {
                self.spoilt.entry(id).or_default().push(mark);
            }
            Word::Part(UploadEntry(upload), part) if !self.over.contains_key(&upload) => {
                let UploadedPart { number, etag, md5, crc } = part;
                let taken = TakenPart { upload, number, etag: etag.as_str().to_owned(), md5: md5.0, crc };
                match self.parts.entry((upload, number)) {
                    btree_map::Entry::Vacant(entry) => {
                        entry.insert((taken, vec![mark]));
                    }
                    btree_map::Entry::Occupied(mut entry) => {
                        entry.get_mut().0 = taken;
                        entry.get_mut().1.push(mark);
                    }
                }
            }
            Word::Part(..) | Word::Spoilt(..) => {}
        }
    }
}

impl Recorder {
    pub async fn run(mut self) {
        let mut pending = Pending::default();
        let mut incoming = Vec::new();
        let mut next = Instant::now();
        loop {
            if pending.is_empty() && self.told.recv_many(&mut incoming, BATCH).await == 0 {
                return;
            }
            tokio::time::sleep_until(next).await;
            while let Ok(told) = self.told.try_recv() {
                incoming.push(told);
            }
            for told in incoming.drain(..) {
                pending.take(told);
            }
            next = Instant::now() + EVERY;
            if let Err(error) = self.write(&mut pending).await {
                if self.told.is_closed() && self.told.is_empty() {
                    let (parts, over) = (pending.parts.len(), pending.over.len());
                    warn!(
                        error = %error, parts, over,
                        "{parts} parts and the ends of {over} uploads could not be written down any more: those parts are sent again"
                    );
                    return;
                }
                self.complaint.fails(|times| {
                    warn!(error = %error, times, parts = pending.parts.len(), "Finished parts could not be written down, trying again");
                });
                next = Instant::now() + PAUSE;
            }
        }
    }

    /// Writes everything once; what is left is in somebody's hands, and to be written later.
    async fn write(&self, pending: &mut Pending) -> Result<(), QueueError> {
        let parts: Vec<_> = pending.parts.values().map(|(part, _)| part.clone()).collect();
        for batch in parts.chunks(BATCH) {
            match self.queue.record_parts(batch).await {
                Ok(busy) => {
                    for part in batch.iter().filter(|part| !busy.contains(&part.upload)) {
                        pending.parts.remove(&(part.upload, part.number));
                    }
                }
                Err(error) if error.refuses_data() => self.write_apart(batch, pending).await?,
                Err(error) => {
                    metrics::database_error("queue::record_parts");
                    return Err(error);
                }
            }
        }
        let spoilt: Vec<_> = pending.spoilt.keys().copied().collect();
        for batch in spoilt.chunks(BATCH) {
            let condemned = self.queue.condemn_uploads(batch).await;
            let busy = condemned.inspect_err(|_| metrics::database_error("queue::condemn_uploads"))?;
            pending.spoilt.retain(|id, _| busy.contains(id) || !batch.contains(id));
        }
        let over: Vec<_> = pending.over.keys().copied().collect();
        for batch in over.chunks(BATCH) {
            let ended = self.queue.end_uploads(batch).await;
            let busy = ended.inspect_err(|_| metrics::database_error("queue::end_uploads"))?;
            pending.over.retain(|id, _| busy.contains(id) || !batch.contains(id));
        }
        self.complaint.is_over();
        Ok(())
    }

    /// One part that PostgreSQL refuses must not keep the others.
    async fn write_apart(&self, batch: &[TakenPart], pending: &mut Pending) -> Result<(), QueueError> {
        for part in batch {
            match self.queue.record_parts(std::slice::from_ref(part)).await {
                Ok(busy) if busy.is_empty() => {}
                Ok(_) => continue,
                Err(error) => {
                    metrics::database_error("queue::record_parts");
                    if !error.refuses_data() {
                        return Err(error);
                    }
                    let number = part.number;
                    warn!(error = %error, number, "Part {number} of an upload cannot be kept, and would be sent again");
                }
            }
            pending.parts.remove(&(part.upload, part.number));
        }
        Ok(())
    }
}
