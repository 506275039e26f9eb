use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What the budget is counted in: a semaphore counts no further than 2³² at once.
const UNIT_BYTES: u64 = 4096;

/// How many bytes of objects the process holds at most, whoever holds them.
///
/// What is held is taken at once, before it is read, by somebody who holds nothing
/// else: so nobody can wait for memory that only he himself could give back.
#[derive(Debug, Clone)]
pub struct Memory {
    units: Arc<Semaphore>,
    gauge: Arc<Gauge>,
    total_bytes: u64,
}

/// Memory taken, to be filled with exactly as many bytes.
///
/// One allocation of the exact size: frames kept as they come would each keep a
/// whole read buffer of the connection alive.
#[derive(Debug)]
pub(super) struct Buffer {
    data: Vec<u8>,
    held: Held,
}

#[derive(Debug)]
struct Held {
    _permit: OwnedSemaphorePermit,
    gauge: Arc<Gauge>,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Gauge {
    held: AtomicU64,
    peak: AtomicU64,
}

impl Memory {
    /// A budget of `bytes`, rounded down to whole units but never to none.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let units = usize::try_from(bytes / UNIT_BYTES).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)), gauge: Arc::default(), total_bytes: units as u64 * UNIT_BYTES }
    }

    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Bytes held now.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.gauge.held.load(Ordering::Relaxed)
    }

    /// The most that was ever held at once.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.gauge.peak.load(Ordering::Relaxed)
    }

    /// Waits until `bytes` are free. First come, first served, so that a big part is
    /// not passed over for ever by small objects.
    ///
    /// More than the whole budget would be waited for in vain: the plan refuses it.
    pub(super) async fn take(&self, bytes: u64) -> Buffer {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        // Cannot fail: the semaphore is never closed.
        let permit = self.units.clone().acquire_many_owned(units).await.expect("an open semaphore");
        let held = self.gauge.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.gauge.peak.fetch_max(held, Ordering::Relaxed);
        let held = Held { _permit: permit, gauge: self.gauge.clone(), bytes };
        // Cannot fail: what fits in the budget fits in the address space.
        Buffer { data: Vec::with_capacity(usize::try_from(bytes).expect("a size in memory")), held }
    }
}

impl Buffer {
    /// `false`: there is no room for these bytes.
    #[must_use]
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len() <= self.data.capacity() - self.data.len();
        if fits {
            self.data.extend_from_slice(bytes);
        }
        fits
    }

    #[must_use]
    pub(super) fn is_full(&self) -> bool {
        self.data.len() as u64 == self.held.bytes
    }

    /// The bytes. The memory is given back when the last clone of them is dropped,
    /// wherever a request may still hold one.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn memory_comes_back_when_the_last_clone_of_the_bytes_is_dropped() {
        let memory = Memory::new(3 * UNIT_BYTES);
        let mut buffer = memory.take(2 * UNIT_BYTES).await;
        assert!(buffer.push(&[7; 8192]) && buffer.is_full());
        let bytes = buffer.freeze();
        let slice = bytes.slice(..1);
        drop(bytes);
        assert!(memory.take(2 * UNIT_BYTES).now_or_never().is_none(), "still held");
        drop(slice);
        assert!(memory.take(2 * UNIT_BYTES).now_or_never().is_some());
        assert_eq!(memory.peak_bytes(), 2 * UNIT_BYTES);
        assert_eq!(memory.held_bytes(), 0);
    }

    #[tokio::test]
    async fn a_buffer_takes_no_more_than_was_asked_for() {
        let memory = Memory::new(UNIT_BYTES);
        let mut buffer = memory.take(2).await;
        assert!(buffer.push(&[1]) && !buffer.is_full());
        assert!(!buffer.push(&[2, 3]));
        assert!(buffer.push(&[2]) && buffer.is_full());
    }

    #[tokio::test]
    async fn the_first_to_ask_is_the_first_to_be_served() {
        let memory = Memory::new(4 * UNIT_BYTES);
        let all_but_one = memory.take(3 * UNIT_BYTES).await;
        let mut big = Box::pin(memory.take(4 * UNIT_BYTES));
        assert!(futures::poll!(&mut big).is_pending());
        assert!(memory.take(1).now_or_never().is_none(), "it would overtake the big one");
        drop(all_but_one);
        assert!(futures::poll!(&mut big).is_ready());
    }

    #[tokio::test]
    async fn nothing_needs_no_memory() {
        let memory = Memory::new(UNIT_BYTES);
        let _all = memory.take(UNIT_BYTES).await;
        assert!(memory.take(0).now_or_never().is_some_and(|empty| empty.is_full()));
    }
}
