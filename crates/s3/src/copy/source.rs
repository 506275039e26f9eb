//! Reads one object at one source; every answer must speak of the same content.

use std::{
    ops::Range,
    pin::pin,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use copyhold_core::domain::{Content, EtagMatch, Failure, FailureClass, ObjectKey, SourceReading};

use super::{
    Reading, Source,
    examine::Unfit,
    failure::{at_source, of_source},
    hash::Both,
    memory::{Buffer, Memory},
    metadata::MetadataToWrite,
    plan::{Parts, WHOLE_UP_TO, Way},
    repeat::repeated,
    verify,
};
use crate::store::{ETag, Get, Head, Known, Md5, Metadata, Reason, Store};

/// How long an answer may wait unread for memory. Stores close what is not read;
/// after this time it is asked for again, with the memory in hand.
const UNREAD_AT_MOST: Duration = Duration::from_secs(10);

/// One attempt to read one object from one source: every answer must speak of the
/// content that the first one spoke of.
pub(super) struct Reader<'a> {
    opened: Arc<Opened>,
    memory: &'a Memory,
    /// The first answer, as long as nobody has read from it.
    first: Option<(Range<u64>, Get)>,
}

/// One content of one object at one source.
pub(super) struct Opened {
    source: Source,
    key: ObjectKey,
    head: Head,
    to_write: MetadataToWrite,
}

/// Bytes of the object in memory, hashed.
pub(super) struct Piece {
    pub bytes: Bytes,
    pub content: Content,
    pub md5: Md5,
}

impl<'a> Reader<'a> {
    /// Asks for the beginning of the object, which tells how long it is.
    ///
    /// The memory is taken after that: until then nobody knows how much is needed. The
    /// range keeps the store from sending all of a big object; a small one comes whole.
    pub(super) async fn open(
        source: &Source,
        key: &ObjectKey,
        memory: &'a Memory,
        stated_bytes: Option<u64>,
    ) -> Result<Self, Failure> {
        let store = &*source.store;
        let asked = 0..WHOLE_UP_TO;
        // Said to be empty: no range of it exists.
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
        let opened =
            Arc::new(Opened { source: source.clone(), key: key.clone(), head, to_write: MetadataToWrite::OfSource });
        Ok(Self { opened, memory, first })
    }

    pub(super) fn opened(&self) -> &Arc<Opened> {
        &self.opened
    }

    pub(super) fn head(&self) -> &Head {
        &self.opened.head
    }

    /// Sets the metadata that copies get, before anything is written.
    pub(super) fn write_metadata(&mut self, to_write: MetadataToWrite) {
        // Cannot fail: it was shared with nobody yet.
        Arc::get_mut(&mut self.opened).expect("the only one").to_write = to_write;
    }

    /// Reads `range` into memory.
    pub(super) async fn piece(&mut self, range: Range<u64>) -> Result<Piece, Failure> {
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
        Ok(Piece { bytes: buffer.freeze(), content, md5 })
    }
}

impl Opened {
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

    /// The metadata that copies get.
    pub(super) fn metadata(&self) -> &Metadata {
        match &self.to_write {
            MetadataToWrite::Recorded(metadata) => metadata,
            MetadataToWrite::OfSource | MetadataToWrite::Changed(_) => &self.head.metadata,
        }
    }

    /// Why copies need a new generation, though the bytes are the known ones; `None`: they need none.
    pub(super) fn metadata_change(&self) -> Option<&Failure> {
        match &self.to_write {
            MetadataToWrite::Changed(why) => Some(why),
            MetadataToWrite::OfSource | MetadataToWrite::Recorded(_) => None,
        }
    }

    /// What tells this content, and how it was sent, from any other that a source might hold; `None`: nothing does.
    pub(super) fn mark(&self, way: Way) -> Option<String> {
        let changed = self.head.last_modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        if self.head.etag.is_none() && changed.is_none() {
            return None;
        }
        let etag = self.head.etag.as_ref().map_or("", ETag::as_str);
        let (name, changed) = (self.store().name(), changed.map_or(0, |at| at.as_micros()));
        // Of parts that were streamed the store has seen no hash: they are not mixed with others.
        let way = match way {
            Way::Held => "",
            Way::Streamed => "streamed ",
        };
        // An upload has the metadata that it was begun with.
        Some(format!("{way}{name} {changed} {etag} {:016x}", self.metadata().hash().0))
    }

    /// Reads `range` into a buffer that was taken for it; an attempt that fails in passing is repeated.
    pub(super) async fn piece(&self, range: Range<u64>, mut buffer: Buffer) -> Result<Piece, Failure> {
        // One attempt at a time has it.
        let filled = tokio::sync::Mutex::new(&mut buffer);
        let (content, md5) = repeated(|| async {
            let mut buffer = filled.lock().await;
            buffer.clear();
            let get = self.get(range.clone()).await?;
            self.read(get, &mut buffer).await
        })
        .await?;
        Ok(Piece { bytes: buffer.freeze(), content, md5 })
    }

    /// Asks for `range` of this content.
    pub(super) async fn get(&self, range: Range<u64>) -> Result<Get, Failure> {
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
        // Where a store sends no ETag, the time is all there is.
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

    async fn read(&self, mut get: Get, buffer: &mut Buffer) -> Result<(Content, Md5), Failure> {
        let store = self.store();
        let short = |what: &str| {
            at_source(store, Failure::new(FailureClass::Transient, format!("source {}: {what}", store.name())))
        };
        let mut hash = Both::new();
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
        metrics::counter!("copyhold_source_bytes_total", "replica" => self.store().name().to_string()).increment(bytes);
    }

    /// Whether the MD5 of the whole is of use, and the parts pass through memory, where it can be computed.
    pub(super) fn hashes_whole(&self, parts: Parts) -> bool {
        parts.way() == Way::Held && self.head.etag_may_be_md5()
    }

    /// What the source says of the object, in the form in which it is kept.
    pub(super) fn said(&self) -> SourceReading {
        verify::said(self.store(), &self.head)
    }

    /// Bytes that are known to be the object's tell what the store's ETags are.
    pub(super) fn learn(&self, md5: Option<&Md5>) {
        if md5.is_some_and(|md5| self.head.etag_match(md5) == EtagMatch::Confirms) {
            self.store().etag_was_md5(&self.key);
        }
    }

    /// Holds the first reading of a content against what the source says of it.
    ///
    /// An ETag that looks like an MD5 and is not ours is damage on the way, damage at rest, or no MD5 at all: a second
    /// reading tells, which is paid for only where they differ.
    pub(super) async fn confirm(&self, read: &Content, md5: Option<&Md5>) -> Result<(), Unfit> {
        let etag = match md5 {
            Some(md5) => self.head.etag_match(md5),
            // It went by in pieces that nobody hashed.
            None if self.head.etag_may_be_md5() => EtagMatch::Contradicts,
            None => EtagMatch::SaysNothing,
        };
        let store = self.store();
        match etag {
            EtagMatch::Confirms => {
                store.etag_was_md5(&self.key);
                return Ok(());
            }
            EtagMatch::SaysNothing => return self.is_as_stored(read).await.map_err(Unfit::Failed),
            EtagMatch::Contradicts => self.is_as_stored(read).await.map_err(Unfit::Failed)?,
        }
        let again = self.read_again(read).await.map_err(Unfit::Failed)?;
        if again.etag != EtagMatch::Contradicts {
            return Ok(());
        }
        match store.etags_are_md5() {
            Known::No => Ok(()),
            Known::Yes => Err(Unfit::Stale(self.corrupt(
                "its bytes are not those that its ETag is the MD5 of, in two readings: they are damaged where they are kept",
            ))),
            Known::Unknown => Err(Unfit::Failed(self.corrupt(&format!(
                "its bytes are not those that its ETag is the MD5 of, in two readings. They are damaged where they are kept \
                 or on the way, or ETags of this store are no MD5s: if so, set md5_etags = false in [replicas.{}] and retry",
                store.name()
            )))),
        }
    }

    /// Reads the object once more, to the end: the first reading is believed if this one gives the same.
    pub(super) async fn read_again(&self, read: &Content) -> Result<Reading, Failure> {
        // Its ETag says of the bytes what the caller knows already.
        let first = self.reading(read, EtagMatch::SaysNothing);
        verify::read_alike_counted(self.store(), &self.key, &first, |bytes| self.has_read(bytes)).await
    }

    /// Two readings that agree, or one that the ETag confirms. For bytes that are not the object's.
    pub(super) async fn make_sure(&self, read: &Content, md5: Option<&Md5>) -> Result<Reading, Failure> {
        if md5.is_some_and(|md5| self.head.etag_match(md5) == EtagMatch::Confirms) {
            return Ok(self.reading(read, EtagMatch::Confirms));
        }
        self.read_again(read).await
    }

    fn reading(&self, read: &Content, etag: EtagMatch) -> Reading {
        let (metadata, encoding) = (self.head.metadata.hash(), verify::encoding(&self.head));
        Reading { content: *read, etag, said: self.said(), metadata, encoding }
    }

    /// Whether the bytes are those that are stored, by the store's own word.
    async fn is_as_stored(&self, read: &Content) -> Result<(), Failure> {
        verify::is_as_stored(self.store(), &self.key, &self.reading(read, EtagMatch::SaysNothing)).await
    }

    fn corrupt(&self, what: &str) -> Failure {
        verify::corrupt_source(self.store(), what)
    }
}
