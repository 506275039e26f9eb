//! Counts calls and successes by bucket, operation and key, and waits for counts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use super::operation::{Op, ParsedRequest};

/// Calls and successes of one operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OperationCounts {
    /// Requests whose head has arrived, with any result.
    pub calls: u64,
    /// Requests that the store executed, even if a fault then lost the answer.
    pub successes: u64,
}

/// The counts of one bucket name so far.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    ops: HashMap<Op, OperationCounts>,
    keys: HashMap<String, KeyCounts>,
}

#[derive(Debug, Clone, Default)]
struct KeyCounts {
    /// Few operations ever touch one key: a list is smaller than a map.
    ops: Vec<(Op, OperationCounts)>,
    writes: u64,
}

impl Counts {
    pub fn of(&self, op: Op) -> OperationCounts {
        self.ops.get(&op).copied().unwrap_or_default()
    }

    pub fn of_key(&self, op: Op, key: &str) -> OperationCounts {
        let counts = self.keys.get(key).and_then(|k| k.ops.iter().find(|(o, _)| *o == op));
        counts.map(|(_, tally)| *tally).unwrap_or_default()
    }

    /// How often PutObject, CopyObject or CompleteMultipartUpload wrote the key.
    pub fn writes(&self, key: &str) -> u64 {
        self.keys.get(key).map_or(0, |k| k.writes)
    }

    /// Every key that was ever written, with its number of writes.
    pub fn writes_by_key(&self) -> BTreeMap<String, u64> {
        let written = self.keys.iter().filter(|(_, k)| k.writes > 0);
        written.map(|(key, k)| (key.clone(), k.writes)).collect()
    }

    fn tally(&mut self, call: &ParsedRequest, add: impl Fn(&mut OperationCounts)) {
        add(self.ops.entry(call.op).or_default());
        let Some(key) = &call.key else { return };
        let ops = &mut self.key(key).ops;
        if let Some((_, tally)) = ops.iter_mut().find(|(op, _)| *op == call.op) {
            add(tally);
        } else {
            let mut tally = OperationCounts::default();
            add(&mut tally);
            ops.push((call.op, tally));
        }
    }

    fn key(&mut self, key: &str) -> &mut KeyCounts {
        if !self.keys.contains_key(key) {
            self.keys.insert(key.to_owned(), KeyCounts::default());
        }
        self.keys.get_mut(key).expect("was just inserted")
    }
}

/// Bytes of bodies so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BytesMoved {
    /// In requests, aws-chunked or not, with any result.
    pub received: u64,
    /// In successful answers, as far as the connection took them.
    pub sent: u64,
}

#[derive(Debug, Default)]
pub(super) struct CallCounts {
    counts: Mutex<Counts>,
    moved: [ByteCounters; Op::Other as usize + 1],
    changed: Notify,
}

/// The atomic form of [`BytesMoved`].
#[derive(Debug, Default)]
struct ByteCounters {
    received: AtomicU64,
    sent: AtomicU64,
}

impl CallCounts {
    pub fn arrived(&self, call: &ParsedRequest) {
        self.write(|counts| counts.tally(call, |tally| tally.calls += 1));
    }

    pub fn succeeded(&self, call: &ParsedRequest) {
        self.write(|counts| counts.tally(call, |tally| tally.successes += 1));
    }

    pub fn wrote(&self, key: &str) {
        self.write(|counts| counts.key(key).writes += 1);
    }

    pub fn received(&self, op: Op, bytes: usize) {
        self.moved[op as usize].received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn sent(&self, op: Op, bytes: usize) {
        self.moved[op as usize].sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn moved(&self, op: Op) -> BytesMoved {
        let ByteCounters { received, sent } = &self.moved[op as usize];
        BytesMoved { received: received.load(Ordering::Relaxed), sent: sent.load(Ordering::Relaxed) }
    }

    pub fn forget(&self) {
        for ByteCounters { received, sent } in &self.moved {
            received.store(0, Ordering::Relaxed);
            sent.store(0, Ordering::Relaxed);
        }
        self.write(|counts| *counts = Counts::default());
    }

    pub fn read<T>(&self, look: impl FnOnce(&Counts) -> T) -> T {
        look(&self.counts.lock().expect("no holder panics"))
    }

    pub async fn until(&self, reached: impl Fn(&Counts) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable(); // before looking, or a change between look and wait is lost
            if self.read(&reached) {
                return;
            }
            changed.await;
        }
    }

    fn write(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().expect("no holder panics"));
        self.changed.notify_waiters();
    }
}
