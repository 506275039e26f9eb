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
use copyhold_db::{
    DatabaseError, Uploads,
    connections::LogThrottle,
    lease::{StoredPart, UnfinishedUpload, UploadIntent},
};
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
/// How long the next attempt waits when PostgreSQL is unavailable.
const PAUSE: Duration = Duration::from_millis(200);
/// How many changes are kept at most while PostgreSQL is unavailable: some 300 bytes each, 20 MiB. Fewer come together,
/// since copies stop when their lease expires. Parts that are not kept are sent again; uploads are found by the
/// sweeper.
const UNWRITTEN: usize = 65_536;

/// The memory of this process's unfinished uploads: a [`Journal`] for each lease, and one [`JournalWriter`] for all.
#[derive(Debug, Clone)]
pub struct Journals {
    uploads: Uploads,
    messages: mpsc::UnboundedSender<JournalMessage>,
    unwritten: Arc<AtomicUsize>,
    throttle: Arc<LogThrottle>,
}

/// Writes the changes of all objects that need not be waited for.
#[derive(Debug)]
pub struct JournalWriter {
    uploads: Uploads,
    messages: mpsc::UnboundedReceiver<JournalMessage>,
    throttle: Arc<LogThrottle>,
}

/// The two ends. The writer ends when all journals are gone and everything is written.
#[must_use]
pub fn journals(uploads: Uploads) -> (Journals, JournalWriter) {
    let (sender, messages) = mpsc::unbounded_channel();
    let throttle = Arc::new(LogThrottle::default());
    let recorder = JournalWriter { uploads: uploads.clone(), messages, throttle: Arc::clone(&throttle) };
    (Journals { uploads, messages: sender, unwritten: Arc::default(), throttle }, recorder)
}

impl Journals {
    /// The journal of the object that is leased.
    #[must_use]
    pub fn of(&self, lease: &Lease) -> Arc<dyn Journal> {
        let (parts, _) = watch::channel(0);
        Arc::new(LeaseJournal {
            key: lease.key.clone(),
            generation: lease.generation,
            journals: self.clone(),
            parts: Arc::new(parts),
        })
    }

    fn send(&self, change: JournalChange, journal: Option<&Arc<watch::Sender<usize>>>) {
        if self.unwritten.load(Ordering::Relaxed) < UNWRITTEN {
            let guard = UnwrittenGuard::new(&self.unwritten, journal);
            // Without a writer the process is at its end.
            let _ = self.messages.send(JournalMessage { change, guard });
        }
    }

    /// Retries for as long as PostgreSQL is unavailable, until the statement succeeds or cannot succeed.
    async fn keep_trying<T, F>(
        &self,
        what: &str,
        statement: &'static str,
        attempt: impl Fn() -> F,
    ) -> Result<T, PermanentError>
    where
        F: Future<Output = Result<T, DatabaseError>>,
    {
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => {
                    metrics::database_error(statement);
                    if error.is_data_error() || matches!(error, DatabaseError::Inconsistent { .. }) {
                        return Err(PermanentError(error));
                    }
                    self.throttle.fails(|times| warn!(error = %error, times, "Could not {what}, trying again"));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// An error that a retry cannot cure: it lies in what was to be written or read, not in PostgreSQL's availability.
struct PermanentError(DatabaseError);

/// The journal of one object's lease.
#[derive(Debug)]
struct LeaseJournal {
    key: ObjectKey,
    generation: Generation,
    journals: Journals,
    /// Parts that are not written yet.
    parts: Arc<watch::Sender<usize>>,
}

impl Journal for LeaseJournal {
    fn unfinished(&self) -> BoxFuture<'_, Vec<ResumableUpload>> {
        async {
            let ask = || self.journals.uploads.unfinished_uploads(&self.key, self.generation);
            let asked = self.journals.keep_trying("look for unfinished uploads", "lease::unfinished_uploads", ask);
            match asked.await {
                Ok(found) => found.into_iter().map(unfinished).collect(),
                Err(PermanentError(error)) => {
                    warn!(object.key = %self.key, error = %error, "Could not continue the unfinished uploads of {}", self.key);
                    Vec::new()
                }
            }
        }
        .boxed()
    }

    fn older(&self) -> BoxFuture<'_, Vec<OlderUpload>> {
        async {
            let ask = || self.journals.uploads.older_uploads(&self.key, self.generation);
            let asked = self.journals.keep_trying("look for older uploads", "lease::older_uploads", ask);
            match asked.await {
                Ok(found) => {
                    let older = |(id, replica, upload)| OlderUpload { entry: UploadEntry(id), replica, upload: UploadId::new(upload) };
                    found.into_iter().map(older).collect()
                }
                Err(PermanentError(error)) => {
                    warn!(object.key = %self.key, error = %error, "Could not abort the older uploads of {} before a newer one", self.key);
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
            let intent = UploadIntent { key, generation, replica, size_bytes, part_bytes, origin: &origin };
            let write = || self.journals.uploads.intend_upload(&intent);
            loop {
                match self.journals.keep_trying("write down a new upload", "lease::intend_upload", &write).await {
                    Ok(id) => return UploadEntry(id),
                    // Its values are all our own. If the table was altered by hand, an operator may mend it.
                    Err(PermanentError(error)) => {
                        self.journals.throttle.fails(|times| {
                            error!(object.key = %key, error = %error, times, "Could not record a new upload of {key}; it is not begun");
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
            let write = || self.journals.uploads.upload_began(entry.0, upload.as_str());
            let written = self.journals.keep_trying("write down an upload's name", "lease::upload_began", write).await;
            if let Err(PermanentError(error)) = written {
                warn!(
                    object.key = %self.key,
                    error = %error,
                    "Could not record the upload id of {}; if the upload is interrupted, it begins anew",
                    self.key
                );
            }
        }
        .boxed()
    }

    fn part(&self, entry: UploadEntry, part: UploadedPart) {
        self.journals.send(JournalChange::Part(entry, part), Some(&self.parts));
    }

    fn settle(&self) -> BoxFuture<'_, ()> {
        async {
            // Cannot fail: the sender lives as long as `self`.
            let _ = self.parts.subscribe().wait_for(|unwritten| *unwritten == 0).await;
        }
        .boxed()
    }

    fn spoil(&self, entry: UploadEntry) {
        self.journals.send(JournalChange::Spoilt(entry), None);
    }

    fn over(&self, entry: UploadEntry) {
        self.journals.send(JournalChange::Over(entry), None);
    }
}

fn unfinished(upload: UnfinishedUpload) -> ResumableUpload {
    let UnfinishedUpload { id, replica, size_bytes, part_bytes, origin, upload_id, parts } = upload;
    let part = |p: StoredPart| UploadedPart { number: p.number, etag: ETag::new(p.etag), md5: Md5(p.md5), crc: p.crc };
    ResumableUpload {
        entry: UploadEntry(id),
        replica,
        shape: UploadShape { size_bytes, part_bytes, origin },
        upload: UploadId::new(upload_id),
        parts: parts.into_iter().map(part).collect(),
    }
}

#[derive(Debug)]
struct JournalMessage {
    change: JournalChange,
    guard: UnwrittenGuard,
}

#[derive(Debug)]
enum JournalChange {
    Part(UploadEntry, UploadedPart),
    Spoilt(UploadEntry),
    Over(UploadEntry),
}

/// Counts one change as unwritten for as long as it lives.
#[derive(Debug)]
struct UnwrittenGuard {
    all: Arc<AtomicUsize>,
    journal: Option<Arc<watch::Sender<usize>>>,
}

impl UnwrittenGuard {
    fn new(all: &Arc<AtomicUsize>, journal: Option<&Arc<watch::Sender<usize>>>) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        if let Some(journal) = journal {
            journal.send_modify(|unwritten| *unwritten += 1);
        }
        Self { all: Arc::clone(all), journal: journal.cloned() }
    }
}

impl Drop for UnwrittenGuard {
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
    parts: BTreeMap<(i64, u32), (StoredPart, Vec<UnwrittenGuard>)>,
    spoilt: BTreeMap<i64, Vec<UnwrittenGuard>>,
    over: BTreeMap<i64, Vec<UnwrittenGuard>>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.spoilt.is_empty() && self.over.is_empty()
    }

    fn take(&mut self, JournalMessage { change, guard }: JournalMessage) {
        match change {
            JournalChange::Over(UploadEntry(id)) => {
                let mut ended = self.parts.split_off(&(id, 0));
                self.parts.append(&mut ended.split_off(&(id + 1, 0)));
                self.spoilt.remove(&id);
                self.over.entry(id).or_default().push(guard);
            }
            JournalChange::Spoilt(UploadEntry(id)) if !self.over.contains_key(&id) => {
                self.spoilt.entry(id).or_default().push(guard);
            }
            JournalChange::Part(UploadEntry(upload), part) if !self.over.contains_key(&upload) => {
                let UploadedPart { number, etag, md5, crc } = part;
                let taken = StoredPart { upload, number, etag: etag.as_str().to_owned(), md5: md5.0, crc };
                match self.parts.entry((upload, number)) {
                    btree_map::Entry::Vacant(entry) => {
                        entry.insert((taken, vec![guard]));
                    }
                    btree_map::Entry::Occupied(mut entry) => {
                        entry.get_mut().0 = taken;
                        entry.get_mut().1.push(guard);
                    }
                }
            }
            JournalChange::Part(..) | JournalChange::Spoilt(..) => {}
        }
    }
}

impl JournalWriter {
    pub async fn run(mut self) {
        let mut pending = Pending::default();
        let mut incoming = Vec::new();
        let mut next = Instant::now();
        loop {
            if pending.is_empty() && self.messages.recv_many(&mut incoming, BATCH).await == 0 {
                return;
            }
            tokio::time::sleep_until(next).await;
            while let Ok(messages) = self.messages.try_recv() {
                incoming.push(messages);
            }
            for messages in incoming.drain(..) {
                pending.take(messages);
            }
            next = Instant::now() + EVERY;
            if let Err(error) = self.write(&mut pending).await {
                if self.messages.is_closed() && self.messages.is_empty() {
                    let (parts, over) = (pending.parts.len(), pending.over.len());
                    warn!(
                        error = %error, parts, over,
                        "Could not record {parts} parts and the ends of {over} uploads before the end; those parts are sent again"
                    );
                    return;
                }
                self.throttle.fails(|times| {
                    warn!(error = %error, times, parts = pending.parts.len(), "Could not record finished parts; trying again");
                });
                next = Instant::now() + PAUSE;
            }
        }
    }

    /// Writes everything once; what is left belongs to rows that are locked, and is written later.
    async fn write(&self, pending: &mut Pending) -> Result<(), DatabaseError> {
        let parts: Vec<_> = pending.parts.values().map(|(part, _)| part.clone()).collect();
        for batch in parts.chunks(BATCH) {
            match self.uploads.record_parts(batch).await {
                Ok(busy) => {
                    for part in batch.iter().filter(|part| !busy.contains(&part.upload)) {
                        pending.parts.remove(&(part.upload, part.number));
                    }
                }
                Err(error) if error.is_data_error() => self.write_apart(batch, pending).await?,
                Err(error) => {
                    metrics::database_error("lease::record_parts");
                    return Err(error);
                }
            }
        }
        let spoilt: Vec<_> = pending.spoilt.keys().copied().collect();
        for batch in spoilt.chunks(BATCH) {
            let condemned = self.uploads.condemn_uploads(batch).await;
            let busy = condemned.inspect_err(|_| metrics::database_error("lease::condemn_uploads"))?;
            pending.spoilt.retain(|id, _| busy.contains(id) || !batch.contains(id));
        }
        let over: Vec<_> = pending.over.keys().copied().collect();
        for batch in over.chunks(BATCH) {
            let ended = self.uploads.end_uploads(batch).await;
            let busy = ended.inspect_err(|_| metrics::database_error("lease::end_uploads"))?;
            pending.over.retain(|id, _| busy.contains(id) || !batch.contains(id));
        }
        self.throttle.is_over();
        Ok(())
    }

    /// One part that PostgreSQL refuses must not keep the others.
    async fn write_apart(&self, batch: &[StoredPart], pending: &mut Pending) -> Result<(), DatabaseError> {
        for part in batch {
            match self.uploads.record_parts(std::slice::from_ref(part)).await {
                Ok(busy) if busy.is_empty() => {}
                Ok(_) => continue,
                Err(error) => {
                    metrics::database_error("lease::record_parts");
                    if !error.is_data_error() {
                        return Err(error);
                    }
                    let number = part.number;
                    warn!(error = %error, number, "Could not record part {number} of an upload; a later attempt would send it again");
                }
            }
            pending.parts.remove(&(part.upload, part.number));
        }
        Ok(())
    }
}
