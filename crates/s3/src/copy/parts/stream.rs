//! Sends a part that is too large for memory to every upload that lacks it, while it is read.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use backon::BackoffBuilder;
use bytes::{Bytes, BytesMut};
use copyhold_core::{
    domain::{Content, Failure, FailureClass},
    timer::sleep_until_some,
};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        failure::{at_source, of_source},
        hash::Crc64AndMd5,
        memory::Buffer,
        retry::{is_transient, pauses},
    },
    part_sender::{PartError, PartEvent, PartSender, PartTarget},
};
use crate::store::{BodySender, ETag, GetResponse, Md5, StreamingBody};

/// Small compared to any part, large compared to the cost of passing it on.
const PIECE_BYTES: usize = 1 << 20;
/// The memory that a part needs: the piece being read, and those that its slowest target has not accepted yet.
pub(super) const WINDOW_BYTES: u64 = 8 << 20;
/// A target that delays the others by more than this, and by half of the time, is dropped.
const MAY_DELAY: Duration = Duration::from_secs(5);

/// What was read, and the result at each target, by its index among them.
struct StreamResult {
    read: Result<(Content, Md5), Failure>,
    sent: Vec<Result<ETag, PartError>>,
}

impl PartSender {
    /// Sends a part while it is read, within its window of memory. Transient failures are retried for the targets that
    /// still lack it.
    pub(super) async fn stream(
        self: Arc<Self>,
        number: u32,
        range: Range<u64>,
        _window: Buffer,
        mut lanes: Vec<PartTarget>,
    ) {
        let mut pauses = pauses().build();
        let mut first = None;
        loop {
            let pause = pauses.next();
            let StreamResult { read, sent } = self.stream_once(number, range.clone(), &lanes).await;
            let (content, md5) = match (read, pause) {
                (Ok(read), _) => read,
                (Err(why), Some(pause)) if is_transient(why.class) => {
                    tokio::time::sleep(pause).await;
                    continue;
                }
                (Err(why), _) if first.is_none() => return self.source_failed(number, why, &lanes),
                (Err(why), _) => return self.failed(number, &why, &lanes),
            };
            match first {
                None => self.tell(PartEvent::Read { number, content }),
                // The targets that lack the part would get other bytes than those that have it.
                Some(first) if first != content => return self.failed(number, &self.other_bytes(number), &lanes),
                Some(_) => {}
            }
            first = Some(content);
            let mut again = Vec::new();
            for (lane, result) in lanes.into_iter().zip(sent) {
                let result = match result {
                    // The ETag has the form of an MD5 and is another one: damage on the way, or encryption. If it stays
                    // so, the copy is read back at the end.
                    Ok(etag) if pause.is_some() && etag.looks_like_md5() && !etag.is_md5(&md5) => {
                        again.push(lane);
                        continue;
                    }
                    Err(PartError::Failed { why, forgotten: false }) if pause.is_some() && is_transient(why.class) => {
                        again.push(lane);
                        continue;
                    }
                    result => result.map(|etag| self.taken(&lane, number, etag, md5, &content)),
                };
                self.tell(PartEvent::Sent { upload: lane.index, number, result });
            }
            lanes = again;
            match pause {
                Some(pause) if !lanes.is_empty() => tokio::time::sleep(pause).await,
                _ => return,
            }
        }
    }

    async fn stream_once(&self, number: u32, range: Range<u64>, lanes: &[PartTarget]) -> StreamResult {
        let bytes = range.end - range.start;
        let get = match self.opened.get(range).await {
            Ok(get) => get,
            Err(why) => return StreamResult { read: Err(why), sent: Vec::new() },
        };
        // A request that gets no more bytes must not wait for a store that hangs.
        let starved: Vec<_> = lanes.iter().map(|lane| lane.cut.child_token()).collect();
        let (feeders, feeds): (Vec<_>, Vec<_>) = lanes.iter().map(|_| StreamingBody::new(bytes)).unzip();
        let sending = lanes.iter().zip(feeds).zip(&starved);
        let sending = sending.map(|((lane, feed), starved)| self.feed_one(number, lane, feed, starved));
        let reading = async {
            let (read, late) = self.read_on(get, bytes, feeders, &starved).await;
            if read.is_err() {
                starved.iter().for_each(CancellationToken::cancel);
            }
            (read, late)
        };
        let ((read, mut late), (mut sent, last)) = tokio::join!(reading, all_sent(sending, &starved));
        late.extend(last);
        for lane in late {
            if sent[lane].is_err() {
                sent[lane] = Err(PartError::FellBehind);
            }
        }
        StreamResult { read, sent }
    }

    async fn feed_one(
        &self,
        number: u32,
        lane: &PartTarget,
        feed: StreamingBody,
        starved: &CancellationToken,
    ) -> Result<ETag, PartError> {
        let sent = lane.store.upload_part_streaming(self.opened.key(), &lane.id, number, feed);
        let sent = starved.run_until_cancelled(sent).await.ok_or(PartError::Cut)?;
        sent.map_err(|error| PartError::at(&lane.store, error))
    }

    /// Reads to the end, and passes each piece to the targets that still receive. Also returns the targets that were
    /// too late.
    async fn read_on(
        &self,
        mut get: GetResponse,
        bytes: u64,
        feeders: Vec<BodySender>,
        starved: &[CancellationToken],
    ) -> (Result<(Content, Md5), Failure>, Vec<usize>) {
        let mut taking = ActiveTargets::new(feeders, starved);
        let (mut hash, mut piece) = (Crc64AndMd5::new(), BytesMut::with_capacity(PIECE_BYTES));
        let read = loop {
            let mut frame = match get.body.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => break Ok(()),
                Err(error) => break Err(of_source(self.opened.store(), error)),
            };
            hash.update(&frame);
            while !frame.is_empty() {
                let some = frame.split_to(frame.len().min(PIECE_BYTES - piece.len()));
                piece.extend_from_slice(&some);
                if piece.len() == PIECE_BYTES {
                    taking.give(piece.split().freeze()).await;
                    piece.reserve(PIECE_BYTES);
                }
            }
        };
        if read.is_ok() && !piece.is_empty() {
            taking.give(piece.freeze()).await;
        }
        let read = read.and_then(|()| {
            let (content, md5) = hash.finish();
            self.opened.has_read(content.size_bytes);
            if content.size_bytes == bytes { Ok((content, md5)) } else { Err(self.other_length(content.size_bytes)) }
        });
        (read, taking.late)
    }

    /// Fails the part at these targets. The object was read all the same.
    fn failed(&self, number: u32, why: &Failure, lanes: &[PartTarget]) {
        for lane in lanes {
            let result = Err(PartError::Failed { why: why.clone(), forgotten: false });
            self.tell(PartEvent::Sent { upload: lane.index, number, result });
        }
    }

    fn other_bytes(&self, number: u32) -> Failure {
        let store = self.opened.store();
        let what = format!("source {}: part {number} came with other bytes when it was read again", store.name());
        at_source(store, Failure::new(FailureClass::Corrupt, what))
    }

    fn other_length(&self, bytes: u64) -> Failure {
        let what = format!("{bytes} bytes came, which is not what was asked for");
        Failure::new(FailureClass::Transient, format!("source {}: {what}", self.opened.store().name()))
    }
}

/// Returns the result at each target, and the targets that were too late after the first had all of it.
async fn all_sent(
    sending: impl Iterator<Item = impl Future<Output = Result<ETag, PartError>>>,
    starved: &[CancellationToken],
) -> (Vec<Result<ETag, PartError>>, Vec<usize>) {
    let begun = Instant::now();
    let mut sent: Vec<_> = starved.iter().map(|_| Err(PartError::Cut)).collect();
    let (mut late, mut deadline) = (Vec::new(), None);
    let mut sending: FuturesUnordered<_> =
        sending.enumerate().map(|(place, sending)| async move { (place, sending.await) }).collect();
    let mut waiting: Vec<_> = (0..starved.len()).collect();
    loop {
        tokio::select! {
            biased;
            answered = sending.next() => {
                let Some((place, result)) = answered else { return (sent, late) };
                if result.is_ok() {
                    deadline.get_or_insert_with(|| Instant::now() + MAY_DELAY + begun.elapsed() / 2);
                }
                waiting.retain(|waiting| *waiting != place);
                sent[place] = result;
            }
            () = sleep_until_some(deadline), if !waiting.is_empty() => {
                for place in waiting.drain(..) {
                    starved[place].cancel();
                    late.push(place);
                }
            }
        }
    }
}

/// The targets that still receive what is read.
struct ActiveTargets<'a> {
    takers: Vec<ActiveTarget>,
    starved: &'a [CancellationToken],
    late: Vec<usize>,
    begun: Instant,
}

struct ActiveTarget {
    place: usize,
    feeder: BodySender,
    /// How long the other targets have waited for this one.
    delayed: Duration,
}

impl<'a> ActiveTargets<'a> {
    fn new(feeders: Vec<BodySender>, starved: &'a [CancellationToken]) -> Self {
        let taker = |(place, feeder)| ActiveTarget { place, feeder, delayed: Duration::ZERO };
        Self {
            takers: feeders.into_iter().enumerate().map(taker).collect(),
            starved,
            late: Vec::new(),
            begun: Instant::now(),
        }
    }

    /// Ends when all targets have accepted the piece, or the first has waited long enough for the others. A target that
    /// fails is removed.
    async fn give(&mut self, piece: Bytes) {
        let may_delay = MAY_DELAY + self.begun.elapsed() / 2;
        let mut waiting: Vec<_> = self.takers.iter().map(|taker| (taker.place, taker.delayed)).collect();
        let give = |taker: ActiveTarget| {
            let piece = piece.clone();
            async move { (taker.feeder.send(piece).await.is_ok(), taker) }
        };
        let mut giving: FuturesUnordered<_> = std::mem::take(&mut self.takers).into_iter().map(give).collect();
        let mut first = None;
        loop {
            // No target has the piece yet, so none of them waits.
            let deadline = first.and_then(|first: Instant| {
                let least = waiting.iter().map(|(_, delayed)| *delayed).min()?;
                Some(first + may_delay.saturating_sub(least))
            });
            tokio::select! {
                biased;
                given = giving.next() => {
                    let Some((took, mut taker)) = given else { return };
                    waiting.retain(|(place, _)| *place != taker.place);
                    if took {
                        taker.delayed += first.get_or_insert_with(Instant::now).elapsed();
                        self.takers.push(taker);
                    }
                }
                () = sleep_until_some(deadline) => {
                    for (place, _) in waiting {
                        self.starved[place].cancel();
                        self.late.push(place);
                    }
                    return;
                }
            }
        }
    }
}
