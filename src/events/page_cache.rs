//! Pages of the log that readers share: a reader that wants a page that is being read waits for that one.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use copyhold_core::domain::Epoch;
use copyhold_db::log::{LOG_PAGE, LogPart};
use tokio::sync::OnceCell;
use tracing::debug;

use super::{chunk::Chunk, log_position::LogPosition, page_queue::PageQueue, source::Source};
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
pub(super) type PageResult = Option<Page>;

#[derive(Debug)]
pub(super) struct PageCache {
    source: Arc<dyn Source>,
    /// Locked for a look only, never across an await.
    cached: Mutex<CachedPages>,
    /// Two: half of the four connections of a daemon's pool. The others are for the work, however many readers are
    /// behind.
    queue: PageQueue,
    queries: AtomicU64,
}

/// By log and first id.
type PageKey = (Epoch, i64);

#[derive(Debug, Default)]
struct CachedPages {
    pages: HashMap<PageKey, CachedPage>,
    bytes: usize,
    /// Counts up with every use.
    use_count: u64,
}

#[derive(Debug)]
struct CachedPage {
    cell: Arc<OnceCell<PageResult>>,
    used: u64,
    /// 0 while it is being read.
    bytes: usize,
}

impl PageCache {
    pub(super) fn new(source: Arc<dyn Source>) -> Self {
        Self { source, cached: Mutex::default(), queue: PageQueue::new(), queries: AtomicU64::new(0) }
    }

    /// Returns the page from which a reader at `id` continues.
    pub(super) async fn behind(&self, id: i64, position: LogPosition) -> Arc<OnceCell<PageResult>> {
        // All readers between these ids want the same one.
        let mut from = (id + 1) / LOG_PAGE * LOG_PAGE;
        loop {
            let cell = self.get(from, position).await;
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

    async fn get(&self, from: i64, position: LogPosition) -> Arc<OnceCell<PageResult>> {
        let key = (position.epoch, from);
        let cell = self.cached().cell(key);
        let mut read_here = false;
        // If the reader that reads it leaves, the next one begins again.
        let read = cell
            .get_or_init(|| async {
                read_here = true;
                self.read(from, position).await
            })
            .await;
        if read_here {
            self.cached().store(key, &cell, read.as_ref());
        }
        cell
    }

    async fn read(&self, from: i64, position: LogPosition) -> PageResult {
        let _turn = self.queue.take(from).await;
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
        let same = mark.is_of(position.incarnation) && mark.last >= position.head && through >= from;
        let mut chunks = Chunk::build(events, position.epoch, usize::MAX);
        same.then(|| Page { chunk: chunks.pop(), through, dropped_through: mark.dropped_through })
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, CachedPages> {
        self.cached.lock().expect("nothing panics under it")
    }
}

impl CachedPages {
    fn cell(&mut self, key: PageKey) -> Arc<OnceCell<PageResult>> {
        self.use_count += 1;
        let fresh = || CachedPage { cell: Arc::default(), used: 0, bytes: 0 };
        let entry = self.pages.entry(key).or_insert_with(fresh);
        entry.used = self.use_count;
        Arc::clone(&entry.cell)
    }

    /// A page was read: it is kept, and others go for it; an error is for those alone who waited.
    fn store(&mut self, key: PageKey, cell: &Arc<OnceCell<PageResult>>, read: Option<&Page>) {
        let Some(entry) = self.pages.get_mut(&key).filter(|entry| Arc::ptr_eq(&entry.cell, cell)) else {
            return;
        };
        match read {
            Some(page) => {
                entry.bytes = size_of::<Page>() + page.chunk.as_ref().map_or(0, |chunk| chunk.bytes());
                self.bytes += entry.bytes;
                self.evict();
            }
            None => {
                self.pages.remove(&key);
            }
        }
    }

    fn evict(&mut self) {
        // Those whose readers have all left before they were read.
        self.pages.retain(|_, entry| entry.bytes > 0 || Arc::strong_count(&entry.cell) > 1);
        while self.bytes > KEPT_BYTES {
            let read = self.pages.iter().filter(|(_, entry)| entry.bytes > 0);
            let Some((&oldest, _)) = read.min_by_key(|(_, entry)| entry.used) else { break };
            self.bytes -= self.pages.remove(&oldest).map_or(0, |entry| entry.bytes);
        }
    }
}
