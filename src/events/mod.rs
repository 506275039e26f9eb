//! The event log as any number of readers see it: each event once, in order, from where they left off.
//!
//! One task per process, the tailer, reads what is new and keeps the latest of it in memory, framed once, the ring.
//! Readers further behind read pages of the log, which all who want the same one share. How many readers there are
//! does not change how many queries are made.
//!
//! Owns nothing in the database; the log is read through [`EventLog`]. Never waits for a reader: each takes what it
//! wants when it wants it, and a slow one only falls behind.

mod batch;
mod chunk;
mod filter;
mod log_position;
mod page_cache;
mod page_queue;
mod poll_rounds;
mod reader;
mod ring;
mod source;
mod tailer;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

pub use batch::Batch;
pub use copyhold_core::domain::{Cursor, Epoch, InvalidCursor};
pub use filter::Filter;
pub use reader::{End, Next, Reader, Start};
pub use tailer::Tailer;

use copyhold_db::EventLog;

use crate::{config::Config, metrics, wakeup::wake_channel::WakeReceiver};
use log_position::LogPosition;
use page_cache::PageCache;
use poll_rounds::PollRounds;
use ring::Ring;
use source::Source;

/// What the operator decides about reading.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Of the latest events, held in memory at most.
    pub buffer_bytes: usize,
    /// At the same time at most.
    pub readers: usize,
    /// How often the log is read without any notification, while there are readers.
    pub poll: Duration,
}

impl Settings {
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            buffer_bytes: usize::try_from(config.events.buffer_bytes).unwrap_or(usize::MAX),
            readers: config.events.readers.min(Semaphore::MAX_PERMITS),
            // One read for all readers: also without notifications they wait no longer than this.
            poll: Duration::from_secs(1),
        }
    }
}

/// The log, from which readers are made. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Log(Arc<Shared>);

/// What tailer and readers have in common.
#[derive(Debug)]
struct Shared {
    source: Arc<dyn Source>,
    /// Locked for as long as it takes to push or to clone a few pointers, never across an await.
    ring: RwLock<Ring>,
    /// What the tailer has seen last; `None`: the tailer is not running. A watch cannot lose the last value.
    positions: watch::Sender<Option<LogPosition>>,
    pages: PageCache,
    permits: Arc<Semaphore>,
    readers: watch::Sender<usize>,
    /// A reader has reason to think that this is not the log it was.
    doubt: Notify,
    rounds: PollRounds,
}

/// Why there is no reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("as many readers as events.readers allows are there already")]
pub struct TooManyReaders;

/// Figures of one log in one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStats {
    pub readers: usize,
    pub ring_bytes: usize,
    /// Pages that were read from the database so far.
    pub page_queries: u64,
}

/// The log, and the task that must run for it. `wake` is signalled when events are appended.
#[must_use]
pub fn open(event_log: EventLog, settings: Settings, wake: WakeReceiver) -> (Log, Tailer) {
    open_on(Arc::new(event_log), settings, wake)
}

fn open_on(source: Arc<dyn Source>, settings: Settings, wake: WakeReceiver) -> (Log, Tailer) {
    let shared = Arc::new(Shared {
        pages: PageCache::new(Arc::clone(&source)),
        source,
        ring: RwLock::new(Ring::new(settings.buffer_bytes)),
        positions: watch::Sender::new(None),
        permits: Arc::new(Semaphore::new(settings.readers)),
        readers: watch::Sender::new(0),
        doubt: Notify::new(),
        rounds: PollRounds::none(),
    });
    (Log(Arc::clone(&shared)), Tailer::new(shared, settings.poll, wake))
}

impl Log {
    /// One more reader. It costs nothing until [`Reader::next`] is called, and its place until it is dropped.
    pub fn reader(&self, start: Start, filter: Filter) -> Result<Reader, TooManyReaders> {
        let slot = ReaderSlot::take(&self.0)?;
        Ok(Reader::new(slot, start, filter))
    }

    #[must_use]
    pub fn figures(&self) -> LogStats {
        LogStats {
            readers: *self.0.readers.borrow(),
            ring_bytes: self.0.ring.read().expect("nothing panics under it").bytes(),
            page_queries: self.0.pages.queries(),
        }
    }
}

/// A reader's place among those that are allowed.
#[derive(Debug)]
struct ReaderSlot {
    log: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl ReaderSlot {
    fn take(log: &Arc<Shared>) -> Result<Self, TooManyReaders> {
        let permit = Arc::clone(&log.permits).try_acquire_owned().map_err(|_| TooManyReaders)?;
        log.readers.send_modify(|readers| *readers += 1);
        metrics::event_readers(*log.readers.borrow());
        Ok(Self { log: Arc::clone(log), _permit: permit })
    }
}

impl Drop for ReaderSlot {
    fn drop(&mut self) {
        self.log.readers.send_modify(|readers| *readers -= 1);
        metrics::event_readers(*self.log.readers.borrow());
    }
}
