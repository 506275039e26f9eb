//! One part on its way: read once, sent to every upload that lacks it.

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
        Entry, Journal, Memory, Part,
        failure::of_target,
        memory::Buffer,
        repeat::repeated,
        source::{Opened, Piece},
    },
    in_order::Put,
};
use crate::store::{ETag, Md5, Reason, Store, StoreError, UploadId};

/// A part that another target has already keeps its memory for so long at least, or for as long as it took that one:
/// targets that are alike are never done at the same moment.
const GRACE: Duration = Duration::from_millis(250);

/// What is heard of a part.
pub(super) enum Event {
    /// It was read.
    Read { number: u32, content: Content },
    /// It could not be read.
    SourceFailed(Failure),
    /// How it ended at one upload, by that one's index.
    Sent { upload: usize, number: u32, result: Result<Part, NotSent> },
}

/// Why an upload did not get the part.
pub(super) enum NotSent {
    Failed {
        why: Failure,
        /// The store does not know the upload any more.
        forgotten: bool,
    },
    /// Another had it long before, and its memory was needed.
    FellBehind,
    /// Nobody waits for it any more.
    Cut,
}

impl NotSent {
    pub(super) fn at(target: &Store, error: StoreError) -> Self {
        let forgotten = error.reason() == Reason::NoSuchUpload;
        Self::Failed { why: of_target(target, error), forgotten }
    }
}

/// What all parts of one object share.
pub(super) struct Carrier {
    pub opened: Arc<Opened>,
    pub memory: Memory,
    pub journal: Arc<dyn Journal>,
    pub events: mpsc::UnboundedSender<Event>,
    /// Where the whole is hashed, if that is of use.
    pub whole: Option<Put>,
}

/// Where a part is to go.
pub(super) struct Lane {
    /// Of the upload.
    pub index: usize,
    pub store: Arc<Store>,
    pub id: UploadId,
    pub entry: Entry,
    pub cut: CancellationToken,
}

impl Carrier {
    pub(super) fn tell(&self, event: Event) {
        // Nobody listens any more: then nobody waits for the part either.
        let _ = self.events.send(event);
    }

    /// Reads a part into the memory taken for it, and sends it to `lanes`.
    pub(super) async fn read_and_send(
        self: Arc<Self>,
        number: u32,
        range: Range<u64>,
        buffer: Buffer,
        lanes: Vec<Lane>,
    ) {
        match self.opened.piece(range, buffer).await {
            Ok(piece) => self.send(number, piece, lanes).await,
            Err(why) => self.source_failed(number, why, &lanes),
        }
    }

    pub(super) fn source_failed(&self, number: u32, why: Failure, lanes: &[Lane]) {
        self.tell(Event::SourceFailed(why));
        for lane in lanes {
            self.tell(Event::Sent { upload: lane.index, number, result: Err(NotSent::Cut) });
        }
    }

    /// Sends what was read to all lanes at once. Those that are much later than the first must find room among the bytes
    /// that only wait for slow targets.
    pub(super) async fn send(&self, number: u32, piece: Piece, lanes: Vec<Lane>) {
        if let Some(whole) = &self.whole {
            let _ = whole.send((number, piece.bytes.clone()));
        }
        self.tell(Event::Read { number, content: piece.content });
        let begun = Instant::now();
        let mut waiting: Vec<usize> = lanes.iter().map(|lane| lane.index).collect();
        let piece = &piece;
        let send_one = |lane: Lane| async move { (lane.index, self.send_one(number, piece, &lane).await) };
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
                    self.tell(Event::Sent { upload, number, result });
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
            self.tell(Event::Sent { upload, number, result: Err(NotSent::FellBehind) });
        }
    }

    async fn send_one(&self, number: u32, piece: &Piece, lane: &Lane) -> Result<Part, NotSent> {
        let (store, key) = (&*lane.store, self.opened.key());
        let sent = repeated(|| async {
            let sent = store.upload_part(key, &lane.id, number, &piece.bytes, &piece.md5).await;
            match sent.map_err(|error| NotSent::at(store, error)) {
                Err(NotSent::Failed { why, forgotten: false }) => Err(why),
                // An upload that is forgotten stays so.
                sent => Ok(sent),
            }
        });
        let sent = lane.cut.run_until_cancelled(sent).await.ok_or(NotSent::Cut)?;
        let etag = sent.map_err(|why| NotSent::Failed { why, forgotten: false })??;
        Ok(self.taken(lane, number, etag, piece.md5, &piece.content))
    }

    /// A store has taken the part, which is written down.
    pub(super) fn taken(&self, lane: &Lane, number: u32, etag: ETag, md5: Md5, content: &Content) -> Part {
        let part = Part { number, etag, md5, crc: content.hash.0 };
        self.journal.part(lane.entry, part.clone());
        part
    }
}
