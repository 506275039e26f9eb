//! The MD5 of a whole object whose parts are read in any order.

use std::collections::BTreeMap;

use bytes::Bytes;
use md5::{Digest, Md5 as Hasher};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::store::Md5;

/// Bytes to hash at once: a few milliseconds, after which other tasks run.
const STRIDE: usize = 1 << 20;

/// Hashes all parts in the order of their numbers, beside whatever else is done with them.
///
/// A part that arrives early waits, and keeps its memory. The parts before it are being read into memory that they
/// already have, so it never waits for itself.
#[derive(Debug)]
pub(super) struct OrderedMd5 {
    parts: mpsc::UnboundedSender<(u32, Bytes)>,
    hashing: AbortOnDropHandle<Md5>,
}

/// Accepts the parts to hash.
pub(super) type OrderedMd5Sender = mpsc::UnboundedSender<(u32, Bytes)>;

impl OrderedMd5 {
    /// Hashes the parts `1..=count`.
    pub(super) fn new(count: u32) -> Self {
        let (parts, taken) = mpsc::unbounded_channel();
        Self { parts, hashing: AbortOnDropHandle::new(tokio::spawn(hash(count, taken))) }
    }

    pub(super) fn put(&self) -> OrderedMd5Sender {
        self.parts.clone()
    }

    /// Ends when all parts are hashed.
    pub(super) async fn finish(self) -> Md5 {
        // Cannot fail: hashing does not panic, and there is no other handle.
        self.hashing.await.expect("hashing")
    }
}

async fn hash(count: u32, mut taken: mpsc::UnboundedReceiver<(u32, Bytes)>) -> Md5 {
    let mut hasher = Hasher::new();
    let mut early = BTreeMap::new();
    for next in 1..=count {
        let part = loop {
            if let Some(part) = early.remove(&next) {
                break part;
            }
            match taken.recv().await {
                Some((number, part)) => drop(early.insert(number, part)),
                // The receiver was dropped: the result is not needed any more.
                None => std::future::pending().await,
            }
        };
        for stride in part.chunks(STRIDE) {
            hasher.update(stride);
            tokio::task::yield_now().await;
        }
    }
    Md5(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_in_any_order_make_the_hash_of_the_whole() {
        let parts: Vec<Bytes> = (0..5u8).map(|n| Bytes::from(vec![n; 3 << 19])).collect();
        let in_order = OrderedMd5::new(5);
        for number in [3u32, 1, 5, 2, 4] {
            in_order.put().send((number, parts[number as usize - 1].clone())).unwrap();
        }
        let whole = parts.concat();
        assert_eq!(in_order.finish().await, Md5(Hasher::digest(&whole).into()));
    }
}
