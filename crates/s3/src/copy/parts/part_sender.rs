//! Sends one part: read once, sent to every upload that lacks it.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use copyhold_core::{
    domain::{Content, Failure},
    timer::sleep_until_some,
};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        Journal, Memory, UploadEntry, UploadedPart,
        failure::of_target,
        memory::Buffer,
        retry::with_retries,
        source::{Chunk, OpenedSource},
    },
    ordered_md5::OrderedMd5Sender,
};
use crate::store::{ETag, Md5, Reason, Store, StoreError, UploadId};

/// A part that one target has keeps its memory for at least this long, or for as long as that target took: equally fast
/// targets never finish at the same moment.
const GRACE: Duration = Duration::from_millis(250);

/// What a task that sends a part reports.
pub(super) enum PartEvent {
    /// The part was read.
    Read { number: u32, content: Content },
    /// The part could not be read.
    SourceFailed(Failure),
    /// The result at one upload, by its index.
    Sent { upload: usize, number: u32, result: Result<UploadedPart, PartError> },
}

/// Why an upload did not get the part.
pub(super) enum PartError {
    Failed {
        why: Failure,
        /// The store does not know the upload any more.
        forgotten: bool,
    },
    /// Another target had it long before, and its memory was needed.
    FellBehind,
    /// The part is not needed any more.
    Cut,
}

impl PartError {
    pub(super) fn at(target: &Store, error: StoreError) -> Self {
        let forgotten = error.reason() == Reason::NoSuchUpload;
        Self::Failed { why: of_target(target, error), forgotten }
    }
}

/// Sends the parts of one object to their targets. Holds what all these parts share.
pub(super) struct PartSender {
    pub opened: Arc<OpenedSource>,
    pub memory: Memory,
    pub journal: Arc<dyn Journal>,
    pub events: mpsc::UnboundedSender<PartEvent>,
    /// Hashes the whole object, if that is useful.
    pub whole: Option<OrderedMd5Sender>,
}

/// An upload that a part is sent to.
pub(super) struct PartTarget {
    /// The index of the upload.
    pub index: usize,
    pub store: Arc<Store>,
    pub id: UploadId,
    pub entry: UploadEntry,
    pub cut: CancellationToken,
}

impl PartSender {
    pub(super) fn tell(&self, event: PartEvent) {
        // The receiver was dropped: the part is not needed any more.
        let _ = self.events.send(event);
    }

    /// Reads a part into the memory that was taken for it, and sends it to `lanes`.
    pub(super) async fn read_and_send(
        self: Arc<Self>,
        number: u32,
        range: Range<u64>,
        buffer: Buffer,
        lanes: Vec<PartTarget>,
    ) {
        match self.opened.piece(range, buffer).await {
            Ok(piece) => self.send(number, piece, lanes).await,
            Err(why) => self.source_failed(number, why, &lanes),
        }
    }

    pub(super) fn source_failed(&self, number: u32, why: Failure, lanes: &[PartTarget]) {
        self.tell(PartEvent::SourceFailed(why));
        for lane in lanes {
            self.tell(PartEvent::Sent { upload: lane.index, number, result: Err(PartError::Cut) });
        }
    }

    /// Sends a part to all targets at once. Targets much later than the first must fit into the memory for slow
    /// targets.
    pub(super) async fn send(&self, number: u32, piece: Chunk, lanes: Vec<PartTarget>) {
        if let Some(whole) = &self.whole {
            let _ = whole.send((number, piece.bytes.clone()));
        }
        self.tell(PartEvent::Read { number, content: piece.content });
        let begun = Instant::now();
        let mut waiting: Vec<usize> = lanes.iter().map(|lane| lane.index).collect();
        let piece = &piece;
        let send_one = |lane: PartTarget| async move { (lane.index, self.send_one(number, piece, &lane).await) };
        let mut sending: FuturesUnordered<_> = lanes.into_iter().map(send_one).collect();
        let (mut first_took, mut lingering) = (None, None);
        loop {
            let crowded =
                first_took.filter(|_| lingering.is_none()).map(|took: Duration| begun + took + took.max(GRACE));
            tokio::select! {
                biased;
                sent = sending.next() => {
                    let Some((upload, result)) = sent else { return };
                    waiting.retain(|index| *index != upload);
                    if result.is_ok() {
                        first_took.get_or_insert_with(|| begun.elapsed());
                    }
                    if first_took.is_some() && lingering.is_none() && !waiting.is_empty() {
                        lingering = self.memory.linger(piece.bytes.len() as u64);
                    }
                    self.tell(PartEvent::Sent { upload, number, result });
                }
                () = sleep_until_some(crowded) => {
                    lingering = self.memory.linger(piece.bytes.len() as u64);
                    if lingering.is_none() {
                        break;
                    }
                }
            }
        }
        for upload in waiting {
            self.tell(PartEvent::Sent { upload, number, result: Err(PartError::FellBehind) });
        }
    }

    async fn send_one(&self, number: u32, piece: &Chunk, lane: &PartTarget) -> Result<UploadedPart, PartError> {
        let (store, key) = (&*lane.store, self.opened.key());
        let sent = with_retries(|| async {
            let sent = store.upload_part(key, &lane.id, number, &piece.bytes, &piece.md5).await;
            match sent.map_err(|error| PartError::at(store, error)) {
                Err(PartError::Failed { why, forgotten: false }) => Err(why),
                // A store does not remember an upload that it has forgotten.
                sent => Ok(sent),
            }
        });
        let sent = lane.cut.run_until_cancelled(sent).await.ok_or(PartError::Cut)?;
        let etag = sent.map_err(|why| PartError::Failed { why, forgotten: false })??;
        Ok(self.taken(lane, number, etag, piece.md5, &piece.content))
    }

    /// Records a part that a store has accepted.
    pub(super) fn taken(
        &self,
        lane: &PartTarget,
        number: u32,
        etag: ETag,
        md5: Md5,
        content: &Content,
    ) -> UploadedPart {
        let part = UploadedPart { number, etag, md5, crc: content.hash.0 };
        self.journal.part(lane.entry, part.clone());
        part
    }
}
