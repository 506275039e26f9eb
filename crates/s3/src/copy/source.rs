//! Reads one object from one source; every answer must be of the same content.

use std::{
    ops::Range,
    pin::pin,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use copyhold_core::domain::{Content, EtagMatch, Failure, FailureClass, ObjectKey, SourceReading};

use super::{
    ObjectReading, Source,
    failure::{ReadMismatch, at_source, of_source},
    hash::Crc64AndMd5,
    memory::{Buffer, Memory},
    metadata::MetadataToWrite,
    plan::{PartMode, Parts, WHOLE_UP_TO},
    retry::with_retries,
    verify,
};
use crate::{
    metrics,
    store::{ETag, GetResponse, Head, Md5, Metadata, Reason, Store, Tristate},
};

/// How long an answer may wait unread for memory. Stores close a connection that is not read; after this time the
/// request is sent again once the memory is there.
const UNREAD_AT_MOST: Duration = Duration::from_secs(10);

/// One attempt to read one object from one source: every answer must be of the same content as the first.
pub(super) struct SourceReader<'a> {
    opened: Arc<OpenedSource>,
    memory: &'a Memory,
    /// The first answer, until it is read.
    first: Option<(Range<u64>, GetResponse)>,
}

/// One content of one object at one source.
pub(super) struct OpenedSource {
    source: Source,
    key: ObjectKey,
    head: Head,
    to_write: MetadataToWrite,
}

/// Hashed bytes of the object in memory.
pub(super) struct Chunk {
    pub bytes: Bytes,
    pub content: Content,
    pub md5: Md5,
}

impl<'a> SourceReader<'a> {
    /// Requests the beginning of the object, which tells its size.
    ///
    /// The memory is taken after that, because the size is unknown before. The range keeps the store from sending all
    /// of a large object; a small one arrives whole.
    pub(super) async fn open(
        source: &Source,
        key: &ObjectKey,
        memory: &'a Memory,
        stated_bytes: Option<u64>,
    ) -> Result<Self, Failure> {
        let store = &*source.store;
        let asked = 0..WHOLE_UP_TO;
        // An empty object has no range.
        let range = (stated_bytes != Some(0)).then(|| asked.clone());
        let get = match store.get(key, range, None).await {
            Err(error) if error.reason() == Reason::OutsideRange => store.get(key, None, None).await,
            answer => answer,
        };
        let get = get.map_err(|error| of_source(store, error))?;
        let head = get.head.clone();
        if let Some(what) = head.metadata.unfit() {
            return Err(Failure::new(FailureClass::Refused, format!("source {}: {what}", store.name())));
        }
        let first = Some((0..get.body.announced(), get));
        let opened = Arc::new(OpenedSource {
            source: source.clone(),
            key: key.clone(),
            head,
            to_write: MetadataToWrite::OfSource,
        });
        Ok(Self { opened, memory, first })
    }

    pub(super) fn opened(&self) -> &Arc<OpenedSource> {
        &self.opened
    }

    pub(super) fn head(&self) -> &Head {
        &self.opened.head
    }

    /// Sets the metadata that copies get, before anything is written.
    pub(super) fn write_metadata(&mut self, to_write: MetadataToWrite) {
        // Cannot fail: it is not shared yet.
        Arc::get_mut(&mut self.opened).expect("the only one").to_write = to_write;
    }

    /// Reads `range` into memory.
    pub(super) async fn piece(&mut self, range: Range<u64>) -> Result<Chunk, Failure> {
        let need = range.end - range.start;
        let mut taking = pin!(self.memory.take(need));
        let first = self.first.take().filter(|(answered, _)| *answered == range).map(|(_, get)| get);
        let in_time = tokio::time::timeout(UNREAD_AT_MOST, &mut taking).await.ok();
        let (mut buffer, first) = if let Some(buffer) = in_time {
            (buffer, first)
        } else {
            drop(first);
            (taking.await, None)
        };
        let get = match first {
            Some(get) => get,
            None => self.opened.get(range).await?,
        };
        let (content, md5) = self.opened.read(get, &mut buffer).await?;
        Ok(Chunk { bytes: buffer.freeze(), content, md5 })
    }
}

impl OpenedSource {
    pub(super) fn store(&self) -> &Arc<Store> {
        &self.source.store
    }

    pub(super) fn key(&self) -> &ObjectKey {
        &self.key
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    pub(super) fn is_primary(&self) -> bool {
        self.source.primary
    }

    /// Returns the metadata that copies get.
    pub(super) fn metadata(&self) -> &Metadata {
        match &self.to_write {
            MetadataToWrite::Recorded(metadata) => metadata,
            MetadataToWrite::OfSource | MetadataToWrite::Changed(_) => &self.head.metadata,
        }
    }

    /// Returns why copies need a new generation although the bytes are known; `None`: they need none.
    pub(super) fn metadata_change(&self) -> Option<&Failure> {
        match &self.to_write {
            MetadataToWrite::Changed(why) => Some(why),
            MetadataToWrite::OfSource | MetadataToWrite::Recorded(_) => None,
        }
    }

    /// Identifies this content, and how it was sent, among all that a source might hold; `None`: nothing identifies it.
    pub(super) fn mark(&self, way: PartMode) -> Option<String> {
        let changed = self.head.last_modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        if self.head.etag.is_none() && changed.is_none() {
            return None;
        }
        let etag = self.head.etag.as_ref().map_or("", ETag::as_str);
        let (name, changed) = (self.store().name(), changed.map_or(0, |at| at.as_micros()));
        // Streamed parts were sent without a hash: they are not mixed with others.
        let way = match way {
            PartMode::Buffered => "",
            PartMode::Streamed => "streamed ",
        };
        // An upload has the metadata that it was begun with.
        Some(format!("{way}{name} {changed} {etag} {:016x}", self.metadata().hash().0))
    }

    /// Reads `range` into a buffer that was taken for it; retries transient failures.
    pub(super) async fn piece(&self, range: Range<u64>, mut buffer: Buffer) -> Result<Chunk, Failure> {
        // One attempt at a time uses it.
        let filled = tokio::sync::Mutex::new(&mut buffer);
        let (content, md5) = with_retries(|| async {
            let mut buffer = filled.lock().await;
            buffer.clear();
            let get = self.get(range.clone()).await?;
            self.read(get, &mut buffer).await
        })
        .await?;
        Ok(Chunk { bytes: buffer.freeze(), content, md5 })
    }

    /// Requests `range` of this content.
    pub(super) async fn get(&self, range: Range<u64>) -> Result<GetResponse, Failure> {
        // An empty object has no range.
        let range = (range.end > 0).then_some(range);
        let store = self.store();
        let get = store.get(&self.key, range, self.head.etag.as_ref()).await;
        let get = get.map_err(|error| of_source(store, error))?;
        let (was, is) = (&self.head, &get.head);
        let same_etag = match (&was.etag, &is.etag) {
            (Some(was), Some(is)) => was.names_the_same(is),
            (was, is) => was == is,
        };
        let same_time = was.last_modified == is.last_modified;
        // Without an ETag, only the time can be compared.
        if same_etag && was.size_bytes == is.size_bytes && (was.etag.is_some() || same_time) {
            return Ok(get);
        }
        let what = if !same_etag && was.size_bytes == is.size_bytes && was.last_modified.is_some() && same_time {
            "its ETag differs from answer to answer, and its size and Last-Modified do not: the object changed while it \
             was being read, or the store, or a proxy before it, makes up ETags, and cannot be read in pieces"
        } else {
            "the object changed while it was being read"
        };
        Err(Failure::new(FailureClass::Changed, format!("source {}: {what}", store.name())))
    }

    async fn read(&self, mut get: GetResponse, buffer: &mut Buffer) -> Result<(Content, Md5), Failure> {
        let store = self.store();
        let short = |what: &str| {
            at_source(store, Failure::new(FailureClass::Transient, format!("source {}: {what}", store.name())))
        };
        let mut hash = Crc64AndMd5::new();
        while let Some(frame) = get.body.next().await.map_err(|error| of_source(store, error))? {
            if !buffer.push(&frame) {
                return Err(short("more bytes came than were asked for"));
            }
            hash.update(&frame);
        }
        if !buffer.is_full() {
            return Err(short("fewer bytes came than were asked for"));
        }
        self.has_read(buffer.as_ref().len() as u64);
        Ok(hash.finish())
    }

    pub(super) fn has_read(&self, bytes: u64) {
        metrics::source_bytes(self.store().name(), bytes);
    }

    /// Returns whether the MD5 of the whole is useful, and the parts are buffered, so that it can be computed.
    pub(super) fn hashes_whole(&self, parts: Parts) -> bool {
        parts.mode() == PartMode::Buffered && self.head.etag_may_be_md5()
    }

    /// Returns what the source said of the object, as it is recorded.
    pub(super) fn said(&self) -> SourceReading {
        verify::said(self.store(), &self.head)
    }

    /// Learns from bytes that are known to be the object's whether the store's ETags are MD5s.
    pub(super) fn learn(&self, md5: Option<&Md5>) {
        if md5.is_some_and(|md5| self.head.etag_match(md5) == EtagMatch::Confirms) {
            self.store().etag_was_md5(&self.key);
        }
    }

    /// Compares the first reading of a content with what the source says of it.
    ///
    /// An ETag of the form of an MD5 that does not match means damage on the way, damage at rest, or no MD5 at all. A
    /// second reading decides, and is made only then.
    pub(super) async fn confirm(&self, read: &Content, md5: Option<&Md5>) -> Result<(), ReadMismatch> {
        let etag = match md5 {
            Some(md5) => self.head.etag_match(md5),
            // The parts were streamed and not hashed in order.
            None if self.head.etag_may_be_md5() => EtagMatch::Contradicts,
            None => EtagMatch::SaysNothing,
        };
        let store = self.store();
        match etag {
            EtagMatch::Confirms => {
                store.etag_was_md5(&self.key);
                return Ok(());
            }
            EtagMatch::SaysNothing => return self.is_as_stored(read).await.map_err(ReadMismatch::Failed),
            EtagMatch::Contradicts => self.is_as_stored(read).await.map_err(ReadMismatch::Failed)?,
        }
        let again = self.read_again(read).await.map_err(ReadMismatch::Failed)?;
        if again.etag != EtagMatch::Contradicts {
            return Ok(());
        }
        match store.etags_are_md5() {
            Tristate::No => Ok(()),
            Tristate::Yes => Err(ReadMismatch::Stale(self.corrupt(
                "its bytes are not those that its ETag is the MD5 of, in two readings: they are damaged where they are kept",
            ))),
            Tristate::Unknown => Err(ReadMismatch::Failed(self.corrupt(&format!(
                "its bytes are not those that its ETag is the MD5 of, in two readings. They are damaged where they are kept \
                 or on the way, or ETags of this store are no MD5s: if so, set md5_etags = false in [replicas.{}] and retry",
                store.name()
            )))),
        }
    }

    /// Reads the object once more to its end; both readings must agree.
    pub(super) async fn read_again(&self, read: &Content) -> Result<ObjectReading, Failure> {
        // The caller knows already what its ETag says of the bytes.
        let first = self.reading(read, EtagMatch::SaysNothing);
        verify::read_alike_counted(self.store(), &self.key, &first, |bytes| self.has_read(bytes)).await
    }

    /// Returns two readings that agree, or one that the ETag confirms. For bytes that are not the object's.
    pub(super) async fn make_sure(&self, read: &Content, md5: Option<&Md5>) -> Result<ObjectReading, Failure> {
        if md5.is_some_and(|md5| self.head.etag_match(md5) == EtagMatch::Confirms) {
            return Ok(self.reading(read, EtagMatch::Confirms));
        }
        self.read_again(read).await
    }

    fn reading(&self, read: &Content, etag: EtagMatch) -> ObjectReading {
        let (metadata, encoding) = (self.head.metadata.hash(), verify::encoding(&self.head));
        ObjectReading { content: *read, etag, said: self.said(), metadata, encoding }
    }

    /// Checks by the store's answer that the bytes are the stored ones.
    async fn is_as_stored(&self, read: &Content) -> Result<(), Failure> {
        verify::is_as_stored(self.store(), &self.key, &self.reading(read, EtagMatch::SaysNothing)).await
    }

    fn corrupt(&self, what: &str) -> Failure {
        verify::corrupt_source(self.store(), what)
    }
}
