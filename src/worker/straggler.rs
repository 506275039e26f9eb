use std::time::{Duration, Instant};

use super::slots::Slot;
use crate::copy::{Lingering, Memory, Step, WHOLE_UP_TO};

/// How long an object keeps its worker after the first of its targets has it: small objects end everywhere within
/// moments, and only then is all of them written at once.
const TOGETHER: Duration = Duration::from_secs(1);
/// An object that is this far behind and finds no room among the stragglers is let go.
const CROWDED_OUT_AFTER: Duration = Duration::from_secs(10);

/// Objects that only wait for a slow target. Their workers are free for others; the memory they hold is bounded by half
/// of all, so that others find some.
#[derive(Debug, Clone)]
pub struct Stragglers(Memory);

/// An object's worker, which is free for others as soon as the object only waits for a slow target.
#[derive(Debug)]
pub(super) struct Place {
    slot: Option<Slot>,
    stragglers: Stragglers,
    straggling: Option<Lingering>,
    /// Bytes of it that stay in memory; `None`: it is not read yet.
    bytes: Option<u64>,
    behind_since: Option<Instant>,
    leave_at: Option<Instant>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// The worker is free.
    Yes,
    /// There is no room among the stragglers yet.
    NotYet,
    /// Nor will it be waited for any longer.
    CrowdedOut,
}

impl Stragglers {
    #[must_use]
    pub fn new(memory: &Memory) -> Self {
        Self(memory.clone())
    }

    /// Whether another object might find no room.
    pub(super) fn are_full(&self) -> bool {
        !self.0.may_linger(WHOLE_UP_TO)
    }
}

impl Place {
    pub(super) fn new(slot: Slot, stragglers: Stragglers) -> Self {
        Self { slot: Some(slot), stragglers, straggling: None, bytes: None, behind_since: None, leave_at: None }
    }

    /// Takes note of a step of the copy at `now`. `waits_for_slow`: of the targets that are left, all are known to be
    /// slow; `None`: none is left.
    pub(super) fn note(&mut self, step: &Step, waits_for_slow: Option<bool>, now: Instant) {
        match step {
            // Of a big object no part is kept after it was sent.
            Step::Read { content, .. } => {
                self.bytes = Some(if content.size_bytes <= WHOLE_UP_TO { content.size_bytes } else { 0 });
            }
            Step::Target { result: Ok(_), .. } => {
                self.behind_since.get_or_insert(now);
            }
            Step::Opened { .. }
            | Step::Kept { .. }
            | Step::Target { .. }
            | Step::Described { .. }
            | Step::WriteBegun { .. }
            | Step::WriteEnded { .. }
            | Step::SourceFailed { .. }
            | Step::Stale { .. }
            | Step::Changed { .. } => {}
        }
        let (Some(_), Some(slow)) = (self.bytes, waits_for_slow) else { return };
        if slow {
            self.behind_since.get_or_insert(now);
            self.leave_at.get_or_insert(now);
        } else if let Some(since) = self.behind_since {
            self.leave_at.get_or_insert(since + TOGETHER);
        }
    }

    /// When it is to leave its worker.
    pub(super) fn leaves_at(&self) -> Option<Instant> {
        self.leave_at.filter(|_| self.slot.is_some())
    }

    pub(super) fn leave(&mut self, now: Instant) -> Left {
        self.straggling = self.stragglers.0.linger(self.bytes.unwrap_or_default());
        if self.straggling.is_some() {
            self.slot = None;
            return Left::Yes;
        }
        self.leave_at = Some(now + TOGETHER);
        let behind = self.behind_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if behind < CROWDED_OUT_AFTER { Left::NotYet } else { Left::CrowdedOut }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::domain::{Content, ContentHash, ReplicaName, Verified};

    const MIB: u64 = 1 << 20;

    fn place(stragglers: &Stragglers) -> Place {
        let slot = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Place::new(slot, stragglers.clone())
    }

    fn read(size_bytes: u64) -> Step {
        let from = ReplicaName::new("b2").unwrap();
        Step::Read { from, content: Content { size_bytes, hash: ContentHash(0) }, said: None }
    }

    fn written() -> Step {
        Step::Target { replica: ReplicaName::new("wasabi").unwrap(), result: Ok(Verified::Compared) }
    }

    #[test]
    fn an_object_leaves_its_worker_a_second_after_the_first_target_has_it() {
        let (stragglers, now) = (Stragglers::new(&Memory::new(64 * MIB)), Instant::now());
        let mut place = place(&stragglers);
        place.note(&read(MIB), Some(false), now);
        assert_eq!(place.leaves_at(), None, "all targets are at it");
        place.note(&written(), Some(false), now);
        assert_eq!(place.leaves_at(), Some(now + TOGETHER));
        assert_eq!(place.leave(now + TOGETHER), Left::Yes);
        assert_eq!(place.leaves_at(), None);
    }

    #[test]
    fn an_object_that_waits_for_targets_known_to_be_slow_leaves_at_once() {
        let (stragglers, now) = (Stragglers::new(&Memory::new(64 * MIB)), Instant::now());
        let mut place = place(&stragglers);
        place.note(&read(MIB), Some(true), now);
        assert_eq!(place.leaves_at(), Some(now));
    }

    #[test]
    fn stragglers_hold_half_of_the_memory_at_most_and_the_rest_is_let_go() {
        let (stragglers, now) = (Stragglers::new(&Memory::new(64 * MIB)), Instant::now());
        let mut places: Vec<_> = (0..3).map(|_| place(&stragglers)).collect();
        for place in &mut places {
            place.note(&read(16 * MIB), Some(true), now);
        }
        assert!(!stragglers.are_full());
        assert_eq!(places[0].leave(now), Left::Yes);
        assert_eq!(places[1].leave(now), Left::Yes);
        assert!(stragglers.are_full());
        assert_eq!(places[2].leave(now), Left::NotYet);
        assert_eq!(places[2].leave(now + CROWDED_OUT_AFTER), Left::CrowdedOut);
        drop(places.remove(0));
        assert_eq!(places[1].leave(now + CROWDED_OUT_AFTER), Left::Yes);
    }
}
