//! The budget of object bytes in memory, and the share of it that slow targets may fill.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit of the budget: a semaphore counts no further than 2³² at once.
const UNIT_BYTES: u64 = 4096;

/// Bounds the bytes of objects that the process holds.
///
/// A task takes the memory of a buffer at once, before it reads, and while it holds no other: so a task never waits for
/// memory that it holds itself.
///
/// Bytes that only wait for slow targets fill at most half of it, so that other copies can proceed.
#[derive(Debug, Clone)]
pub struct Memory {
    units: Arc<Semaphore>,
    lingering: Arc<Semaphore>,
    gauge: Arc<Gauge>,
    total_bytes: u64,
}

/// Memory for bytes that only wait for slow targets; returned when dropped.
#[derive(Debug)]
pub struct SlowTargetMemory(#[expect(dead_code, reason = "held, and given back by its drop")] OwnedSemaphorePermit);

/// Memory that was taken, to be filled with exactly as many bytes.
///
/// One allocation of the exact size: frames that are kept as they arrive would each keep a whole read buffer of the
/// connection alive.
#[derive(Debug)]
pub(super) struct Buffer {
    data: Vec<u8>,
    held: Held,
}

#[derive(Debug)]
struct Held {
    _permit: OwnedSemaphorePermit,
    _lingering: Option<SlowTargetMemory>,
    gauge: Arc<Gauge>,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Gauge {
    held: AtomicU64,
    peak: AtomicU64,
}

impl Memory {
    /// Makes a budget of `bytes`, rounded down to whole units, and at least one unit.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let units = usize::try_from(bytes / UNIT_BYTES).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        let of = |units| Arc::new(Semaphore::new(units));
        let (all, half) = (of(units), of(units.div_ceil(2)));
        Self { units: all, lingering: half, gauge: Arc::default(), total_bytes: units as u64 * UNIT_BYTES }
    }

    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Returns the bytes that are held now.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.gauge.held.load(Ordering::Relaxed)
    }

    /// Returns the most bytes that were ever held at once.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.gauge.peak.load(Ordering::Relaxed)
    }

    /// Waits until `bytes` of the budget are free, and takes them. First come, first served, so that small
    /// objects do not starve a big part.
    ///
    /// A request for more than the whole budget would wait forever: the plan refuses it.
    pub(super) async fn take(&self, bytes: u64) -> Buffer {
        self.take_with(bytes, None).await
    }

    /// Waits in the same way for bytes that only slow targets need.
    pub(super) async fn take_for_slow(&self, bytes: u64) -> Buffer {
        let permit = self.lingering.clone().acquire_many_owned(units(bytes)).await;
        // Cannot fail: the semaphore is never closed.
        self.take_with(bytes, Some(SlowTargetMemory(permit.expect("an open semaphore")))).await
    }

    /// Takes memory for bytes, already in memory, that from now on only wait for slow targets; `None`: there is none.
    pub fn linger(&self, bytes: u64) -> Option<SlowTargetMemory> {
        self.lingering.clone().try_acquire_many_owned(units(bytes)).ok().map(SlowTargetMemory)
    }

    /// Returns whether [`Self::linger`] would succeed.
    #[must_use]
    pub fn may_linger(&self, bytes: u64) -> bool {
        self.lingering.available_permits() >= units(bytes) as usize
    }

    async fn take_with(&self, bytes: u64, lingering: Option<SlowTargetMemory>) -> Buffer {
        // Cannot fail: the semaphore is never closed.
        let permit = self.units.clone().acquire_many_owned(units(bytes)).await.expect("an open semaphore");
        let held = self.gauge.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.gauge.peak.fetch_max(held, Ordering::Relaxed);
        let held = Held { _permit: permit, _lingering: lingering, gauge: self.gauge.clone(), bytes };
        // Cannot fail: what fits in the budget fits in the address space.
        Buffer { data: Vec::with_capacity(usize::try_from(bytes).expect("a size in memory")), held }
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

impl Buffer {
    /// Empties the buffer, to be filled again.
    pub(super) fn clear(&mut self) {
        self.data.clear();
    }

    /// Appends bytes; `false`: there is no room for them.
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

    /// Returns the bytes. The memory is returned to the budget when their last clone is dropped, wherever a request may
    /// hold one.
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
    async fn what_waits_for_slow_targets_fills_half_of_it_at_most() {
        let memory = Memory::new(4 * UNIT_BYTES);
        let fast = memory.take(UNIT_BYTES).await;
        let slow = memory.take_for_slow(UNIT_BYTES).await;
        let lingering = memory.linger(UNIT_BYTES).expect("the other half of the half");
        assert!(memory.linger(1).is_none() && !memory.may_linger(1));
        assert!(memory.take_for_slow(1).now_or_never().is_none());
        assert!(memory.take(2 * UNIT_BYTES).now_or_never().is_some(), "it is there for others");
        drop((fast, lingering));
        assert!(memory.may_linger(UNIT_BYTES));
        drop(slow);
        assert!(memory.take_for_slow(2 * UNIT_BYTES).now_or_never().is_some());
    }

    #[tokio::test]
    async fn nothing_needs_no_memory() {
        let memory = Memory::new(UNIT_BYTES);
        let _all = memory.take(UNIT_BYTES).await;
        assert!(memory.take(0).now_or_never().is_some_and(|empty| empty.is_full()));
    }
}
