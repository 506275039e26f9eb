//! One reader's position in the log, and what it is given next.

use std::{sync::Arc, time::Duration};

use copyhold_core::domain::{Cursor, Epoch};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{ReaderSlot, batch::Batch, chunk::Chunk, filter::Filter, log_position::LogPosition, ring::RingRead};
use crate::metrics;

/// About so much is returned at once.
const BATCH_BYTES: usize = 256 << 10;
/// Without anything to send: proxies close a connection that is silent for a minute.
const QUIET: Duration = Duration::from_secs(15);
/// After this time, or so many events that did not pass, a reader gets a bookmark.
const BOOKMARK_EVERY: Duration = Duration::from_mins(1);
const BOOKMARK_AFTER: usize = 4096;
/// For an id that is to come, and for a log that this process has not noticed yet to be another one.
const PATIENCE: Duration = Duration::from_secs(3);
/// For the first read of the log.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Behind an event that it has seen.
    After(Cursor),
    /// With the first event that is left.
    Earliest,
    /// With what is appended from now on.
    Now,
}

/// One reader's way through the log.
#[derive(Debug)]
pub struct Reader {
    slot: ReaderSlot,
    positions: watch::Receiver<Option<LogPosition>>,
    start: Start,
    filter: Filter,
    /// `None`: not before the log was seen is it known where it begins.
    at: Option<ReaderPosition>,
    /// The position that the client knows.
    client_cursor: Option<i64>,
    client_cursor_at: Instant,
    /// Events since then that did not pass.
    filtered_out: usize,
    sent_at: Instant,
    /// Whether it has waited for another round of polling, before it reports that there is no more.
    waited_for_round: bool,
}

/// Up to where a reader has seen a log.
#[derive(Debug, Clone, Copy)]
struct ReaderPosition {
    epoch: Epoch,
    id: i64,
}

/// What a reader is to send next.
#[derive(Debug)]
pub enum Next {
    Events(Batch),
    /// Nothing, for a while: say that the connection lives.
    Quiet,
    /// How far it has come although nothing passed, or where it begins: the client should come back with this.
    Bookmark(Cursor),
    /// There will be nothing more; ask no further.
    End(End),
}

/// Why a reader cannot continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// What came next has been dropped from the log. Nothing that is left comes before `earliest`.
    Gone { earliest: Cursor },
    /// The log ends before the position that the reader states: it has read another one.
    Ahead { head: Cursor },
    /// It has read another log: this is `epoch`'s.
    OtherLog { epoch: Epoch },
    /// The database does not answer: come back later.
    Away,
}

/// What a look has shown.
enum ReadResult {
    Next(Next),
    /// Nothing new.
    Nothing,
    /// It is further behind than the ring reaches.
    Behind(LogPosition),
}

impl Reader {
    pub(super) fn new(slot: ReaderSlot, start: Start, filter: Filter) -> Self {
        let client_cursor = match start {
            Start::After(Cursor { id, epoch: Some(_) }) => Some(id),
            Start::After(_) | Start::Earliest | Start::Now => None,
        };
        let now = Instant::now();
        let positions = slot.log.positions.subscribe();
        Self {
            slot,
            positions,
            start,
            filter,
            at: None,
            client_cursor,
            client_cursor_at: now,
            filtered_out: 0,
            sent_at: now,
            waited_for_round: false,
        }
    }

    /// Finds out whether it can begin, and where, before the response has begun. Takes up to a few seconds
    /// where the log does not answer, or is not the one that the reader has read. May be dropped while it waits.
    pub async fn begin(&mut self) -> Result<Cursor, End> {
        let asked = Instant::now();
        loop {
            // Before looking, or what happens between look and wait is lost.
            let position = *self.positions.borrow_and_update();
            let (patience, end) = match position.map(|position| self.enter(position)) {
                Some(Ok(cursor)) => return Ok(cursor),
                Some(Err(end @ End::Gone { .. })) => return Err(ended(end)),
                Some(Err(end)) => {
                    self.slot.log.doubt.notify_one();
                    (PATIENCE, end)
                }
                None => (FIRST_LOOK, End::Away),
            };
            if timeout_at(asked + patience, self.positions.changed()).await.is_err() {
                return Err(ended(end));
            }
        }
    }

    /// What comes next. May be dropped while it waits, without loss.
    pub async fn next(&mut self) -> Next {
        loop {
            // A quiet message is sent in any case long before this.
            if let Some(next) = self.next_until(Instant::now() + 2 * QUIET).await {
                return next;
            }
        }
    }

    /// As [`Self::next`]; `None` if nothing more has come by `deadline`. What is in the log by then is waited for,
    /// however long it takes to read.
    pub async fn next_until(&mut self, deadline: Instant) -> Option<Next> {
        if let Err(end) = self.begin().await {
            return Some(Next::End(end));
        }
        loop {
            // Before looking, as above.
            let position = *self.positions.borrow_and_update();
            let seen = match self.look(position) {
                ReadResult::Behind(position) => self.page(position).await,
                seen => seen,
            };
            if let ReadResult::Next(next) = seen {
                return Some(self.record_sent(next));
            }
            if let Some(bookmark) = self.bookmark() {
                return Some(self.record_sent(Next::Bookmark(bookmark)));
            }
            let quiet = self.sent_at + QUIET;
            if let ReadResult::Behind(_) = seen {
                tokio::task::yield_now().await;
            } else if timeout_at(quiet.min(deadline), self.positions.changed()).await.is_err() {
                if quiet <= deadline {
                    return Some(self.record_sent(Next::Quiet));
                }
                if std::mem::replace(&mut self.waited_for_round, true) {
                    return None;
                }
                // What was committed before we were asked may not have been seen yet.
                if self.slot.log.rounds.next_round(PATIENCE).await.is_err() {
                    return Some(self.record_sent(Next::End(End::Away)));
                }
            }
        }
    }

    /// Returns its position; `None` before it has begun.
    #[must_use]
    pub fn cursor(&self) -> Option<Cursor> {
        self.at.map(|ReaderPosition { epoch, id }| Cursor::new(id, epoch))
    }

    fn enter(&mut self, position: LogPosition) -> Result<Cursor, End> {
        if let Some(cursor) = self.cursor() {
            return Ok(cursor);
        }
        let LogPosition { epoch, head, dropped_through, .. } = position;
        let id = match self.start {
            Start::Now => head,
            Start::Earliest => dropped_through,
            Start::After(Cursor { epoch: Some(other), .. }) if other != epoch => return Err(End::OtherLog { epoch }),
            Start::After(Cursor { id, .. }) if id > head => return Err(End::Ahead { head: position.head() }),
            Start::After(Cursor { id, .. }) => id,
        };
        if id < dropped_through && matches!(self.ring(epoch, id), RingRead::Before) {
            return Err(End::Gone { earliest: position.earliest() });
        }
        self.at = Some(ReaderPosition { epoch, id });
        Ok(Cursor::new(id, epoch))
    }

    /// Reads the next events from the ring, without a query.
    fn look(&mut self, position: Option<LogPosition>) -> ReadResult {
        // Without a log position the tailer is still looking for the log; without its own, `begin` has not ended.
        let (Some(position), Some(ReaderPosition { epoch, mut id })) = (position, self.at) else {
            return ReadResult::Nothing;
        };
        if epoch != position.epoch {
            return ReadResult::Next(Next::End(End::OtherLog { epoch: position.epoch }));
        }
        loop {
            match self.ring(epoch, id) {
                RingRead::UpToDate | RingRead::Other => return ReadResult::Nothing,
                RingRead::Before => return ReadResult::Behind(position),
                RingRead::Found { chunks, through } => {
                    if let Some(batch) = self.pass(chunks, ReaderPosition { epoch, id }, through) {
                        return ReadResult::Next(Next::Events(batch));
                    }
                    id = through;
                }
            }
        }
    }

    /// Reads the next events from a page of the log, for a reader that is behind the ring.
    async fn page(&mut self, position: LogPosition) -> ReadResult {
        let Some(at) = self.at else { return ReadResult::Nothing };
        if at.id < position.dropped_through {
            return ReadResult::Next(Next::End(End::Gone { earliest: position.earliest() }));
        }
        let read = self.slot.log.pages.behind(at.id, position).await;
        let Some(page) = read.get().and_then(Option::as_ref) else {
            // Or it is not the log that it was: the tailer finds out.
            self.slot.log.doubt.notify_one();
            return ReadResult::Next(Next::End(End::Away));
        };
        if at.id < page.dropped_through {
            let earliest = Cursor::new(page.dropped_through, at.epoch);
            return ReadResult::Next(Next::End(End::Gone { earliest }));
        }
        let chunks = page.chunk.iter().map(Arc::clone).collect();
        match self.pass(chunks, at, page.through) {
            Some(batch) => ReadResult::Next(Next::Events(batch)),
            None => ReadResult::Behind(position),
        }
    }

    fn ring(&self, epoch: Epoch, id: i64) -> RingRead {
        self.slot.log.ring.read().expect("nothing panics under it").look(epoch, id, BATCH_BYTES)
    }

    /// Moves on to `through`; what of it passes the filter, if anything does.
    fn pass(&mut self, chunks: Vec<Arc<Chunk>>, at: ReaderPosition, through: i64) -> Option<Batch> {
        let looked_at: usize = chunks.iter().map(|chunk| chunk.events() - chunk.behind(at.id)).sum();
        let batch = Batch::pick(chunks, at.id, &self.filter, Cursor::new(through, at.epoch));
        self.at = Some(ReaderPosition { id: through, ..at });
        if batch.is_none() {
            self.filtered_out += looked_at;
        }
        batch
    }

    fn bookmark(&self) -> Option<Cursor> {
        let ReaderPosition { epoch, id } = self.at?;
        let due = match self.client_cursor {
            None => true,
            Some(client_cursor) => {
                client_cursor != id
                    && (self.filtered_out >= BOOKMARK_AFTER || self.client_cursor_at.elapsed() >= BOOKMARK_EVERY)
            }
        };
        due.then(|| Cursor::new(id, epoch))
    }

    fn record_sent(&mut self, next: Next) -> Next {
        let client_cursor = match next {
            Next::Events(ref batch) => {
                metrics::events_delivered(batch.count());
                Some(batch.last_event())
            }
            Next::Bookmark(cursor) => Some(cursor.id),
            Next::Quiet => None,
            Next::End(end) => return Next::End(ended(end)),
        };
        self.sent_at = Instant::now();
        if client_cursor.is_some() {
            (self.client_cursor, self.client_cursor_at, self.filtered_out) = (client_cursor, self.sent_at, 0);
        }
        next
    }
}

fn ended(end: End) -> End {
    metrics::event_reader_ended(end.as_str());
    end
}

impl End {
    /// In a word, for metrics and programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gone { .. } => "gone",
            Self::Ahead { .. } => "ahead",
            Self::OtherLog { .. } => "other_log",
            Self::Away => "away",
        }
    }
}
