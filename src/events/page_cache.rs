//! Reads of the log that readers share: whoever wants a page that somebody is reading waits for that one.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use copyhold_core::domain::Epoch;
use copyhold_db::queue::{LOG_PAGE, LogPart};
use tokio::sync::OnceCell;
use tracing::debug;

use super::{chunk::Chunk, log_position::Sight, page_queue::Turns, source::Source};
use crate::metrics;

/// One page is one batch for a reader; where events are large, it ends earlier.
const PAGE_BYTES: usize = 256 << 10;
/// Read pages that are kept.
const KEPT_BYTES: usize = 8 << 20;

/// The events between two ids, all of them.
#[derive(Debug)]
pub(super) struct Page {
    /// `None`: there is none among these ids.
    pub(super) chunk: Option<Arc<Chunk>>,
    /// There is none up to here beside those …
    pub(super) through: i64,
    /// … and those that were dropped, up to here.
    pub(super) dropped_through: i64,
}

/// What came of reading one, for all who waited for it; `None`: it cannot be read, or this is not the log that it was.
pub(super) type Read = Option<Page>;

#[derive(Debug)]
pub(super) struct Pages {
    source: Arc<dyn Source>,
    /// Locked for a look only, never across an await.
    kept: Mutex<Kept>,
    /// Two: half of the four connections of a daemon's pool. The others are for the work, however many readers are behind.
    turns: Turns,
    queries: AtomicU64,
}

/// By log and first id.
type Key = (Epoch, i64);

#[derive(Debug, Default)]
struct Kept {
    pages: HashMap<Key, Entry>,
    bytes: usize,
    /// Counts up with every use.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    cell: Arc<OnceCell<Read>>,
    used: u64,
    /// 0 while it is being read.
    bytes: usize,
}

impl Pages {
    pub(super) fn new(source: Arc<dyn Source>) -> Self {
        Self { source, kept: Mutex::default(), turns: Turns::new(), queries: AtomicU64::new(0) }
    }

    /// The page from which a reader that stands at `id` goes on.
    pub(super) async fn behind(&self, id: i64, sight: Sight) -> Arc<OnceCell<Read>> {
        // Readers that stand anywhere among these ids want the same one.
        let mut from = (id + 1) / LOG_PAGE * LOG_PAGE;
        loop {
            let cell = self.get(from, sight).await;
            match cell.get() {
                // It was read when the log was shorter, or ended early for its bytes.
                Some(Some(page)) if page.through <= id => from = page.through + 1,
                _ => return cell,
            }
        }
    }

    /// How many were read so far.
    pub(super) fn queries(&self) -> u64 {
        self.queries.load(Ordering::Relaxed)
    }

    async fn get(&self, from: i64, sight: Sight) -> Arc<OnceCell<Read>> {
        let key = (sight.epoch, from);
        let cell = self.kept().cell(key);
        let mut read_here = false;
        // If whoever reads it leaves, the next in line begins anew.
        let read = cell
            .get_or_init(|| async {
                read_here = true;
                self.read(from, sight).await
            })
            .await;
        if read_here {
            self.kept().settle(key, &cell, read.as_ref());
        }
        cell
    }

    async fn read(&self, from: i64, sight: Sight) -> Read {
        let _turn = self.turns.take(from).await;
        self.queries.fetch_add(1, Ordering::Relaxed);
        metrics::event_page_query();
        let end = from / LOG_PAGE * LOG_PAGE + LOG_PAGE;
        let part = match self.source.page(from, end, i64::try_from(PAGE_BYTES).unwrap_or(i64::MAX)).await {
            Ok(part) => part,
            Err(error) => {
                metrics::database_error("log_page");
                debug!(error = %error, "A page of the event log cannot be read; its readers come back");
                return None;
            }
        };
        let LogPart { mark, events, through } = part;
        let same = mark.is_of(sight.incarnation) && mark.last >= sight.head && through >= from;
        let mut chunks = Chunk::build(events, sight.epoch, usize::MAX);
        same.then(|| Page { chunk: chunks.pop(), through, dropped_through: mark.dropped_through })
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().expect("nothing panics under it")
    }
}

impl Kept {
    fn cell(&mut self, key: Key) -> Arc<OnceCell<Read>> {
        self.clock += 1;
        let fresh = || Entry { cell: Arc::default(), used: 0, bytes: 0 };
        let entry = self.pages.entry(key).or_insert_with(fresh);
        entry.used = self.clock;
        Arc::clone(&entry.cell)
    }

    /// A page was read: it is kept, and others go for it; an error is for those alone who waited.
    fn settle(&mut self, key: Key, cell: &Arc<OnceCell<Read>>, read: Option<&Page>) {
        let Some(entry) = self.pages.get_mut(&key).filter(|entry| Arc::ptr_eq(&entry.cell, cell)) else {
            return;
        };
        match read {
            Some(page) => {
                entry.bytes = size_of::<Page>() + page.chunk.as_ref().map_or(0, |chunk| chunk.bytes());
                self.bytes += entry.bytes;
                self.let_go();
            }
            None => {
                self.pages.remove(&key);
            }
        }
    }

    fn let_go(&mut self) {
        // Those whose readers have all left before they were read.
        self.pages.retain(|_, entry| entry.bytes > 0 || Arc::strong_count(&entry.cell) > 1);
        while self.bytes > KEPT_BYTES {
            let read = self.pages.iter().filter(|(_, entry)| entry.bytes > 0);
            let Some((&oldest, _)) = read.min_by_key(|(_, entry)| entry.used) else { break };
            self.bytes -= self.pages.remove(&oldest).map_or(0, |entry| entry.bytes);
        }
    }
}
