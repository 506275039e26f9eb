//! The latest events in memory, bounded by bytes and by age.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use copyhold_core::domain::Epoch;
use tokio::time::Instant;

use super::chunk::Chunk;

/// Readers that keep up have read what is older; the others get it in pages.
const KEPT_FOR: Duration = Duration::from_secs(75);

/// The latest events, bounded by bytes and by time.
#[derive(Debug)]
pub(super) struct Ring {
    /// Whose events these are; `None`: the tailer is not running.
    epoch: Option<Epoch>,
    /// In the order of ids, with the time at which each came.
    chunks: VecDeque<(Instant, Arc<Chunk>)>,
    bytes: usize,
    most_bytes: usize,
    /// Everything behind this id is here …
    after: i64,
    /// … up to this one.
    head: i64,
}

/// What there is for a reader at some place.
#[derive(Debug)]
pub(super) enum RingRead {
    /// It is before all events of the ring.
    Before,
    /// Some of what is behind it, and where that ends.
    Found { chunks: Vec<Arc<Chunk>>, through: i64 },
    /// There is nothing behind it yet.
    UpToDate,
    /// The ring has another log's events.
    Other,
}

impl Ring {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self { epoch: None, chunks: VecDeque::new(), bytes: 0, most_bytes, after: 0, head: 0 }
    }

    /// Forgets everything; what will be pushed begins behind `after`.
    pub(super) fn begin(&mut self, epoch: Epoch, after: i64) {
        *self = Self { epoch: Some(epoch), after, head: after, ..Self::new(self.most_bytes) };
    }

    /// Forgets everything, and that it ever knew a log.
    pub(super) fn end(&mut self) {
        *self = Self::new(self.most_bytes);
    }

    /// Adds all that is between the head and `through`, which is the head from now on.
    pub(super) fn push(&mut self, chunks: Vec<Arc<Chunk>>, through: i64) {
        let now = Instant::now();
        for chunk in chunks {
            self.bytes += chunk.bytes();
            self.chunks.push_back((now, chunk));
        }
        self.head = through;
        self.evict(now);
    }

    /// Drops what is too much or too old.
    pub(super) fn evict(&mut self, now: Instant) {
        while let Some((came, chunk)) = self.chunks.front() {
            if self.bytes <= self.most_bytes && now.duration_since(*came) <= KEPT_FOR {
                break;
            }
            self.bytes -= chunk.bytes();
            self.after = chunk.last();
            self.chunks.pop_front();
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is behind `id`, of at least one chunk and about `most_bytes`.
    pub(super) fn look(&self, epoch: Epoch, id: i64, most_bytes: usize) -> RingRead {
        if self.epoch != Some(epoch) {
            return RingRead::Other;
        }
        if id < self.after {
            return RingRead::Before;
        }
        let first = self.chunks.partition_point(|(_, chunk)| chunk.last() <= id);
        let mut found = Vec::new();
        let mut bytes = 0;
        for (_, chunk) in self.chunks.range(first..) {
            if !found.is_empty() && bytes + chunk.bytes() > most_bytes {
                break;
            }
            bytes += chunk.bytes();
            found.push(Arc::clone(chunk));
        }
        match found.last() {
            None if id >= self.head => RingRead::UpToDate,
            // Ids that no event has, up to the head.
            None => RingRead::Found { chunks: found, through: self.head },
            Some(last) => RingRead::Found { through: last.last(), chunks: found },
        }
    }
}
