//! Objects that keep no worker: those that only wait for a slow target, and those that move nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use copyhold_s3::{
    copy::{CopyStep, Memory, SlowTargetMemory, WHOLE_UP_TO},
    store::{Activity, STUCK_AFTER},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::slots::Slot;

/// How long an object keeps its worker after the first of its targets has it: small objects end everywhere within
/// moments, and only then is all of them written at once.
const TOGETHER: Duration = Duration::from_secs(1);
/// An object that is this far behind and finds no room among the stragglers is let go.
const CROWDED_OUT_AFTER: Duration = Duration::from_secs(10);

/// How often it is looked whether a stuck object may give its worker back.
const STUCK_AGAIN: Duration = Duration::from_secs(1);

/// Objects that only wait for a slow target, or for a store that does not answer. Their workers are free for others; the
/// memory they hold is bounded by half of all, so that others find some, and no more are stuck than there are workers.
#[derive(Debug, Clone)]
pub struct Stragglers {
    memory: Memory,
    stuck: Arc<Semaphore>,
}

/// An object's worker, which is free for others as soon as the object only waits for a slow target.
#[derive(Debug)]
pub(super) struct Place {
    slot: Option<Slot>,
    stragglers: Stragglers,
    activity: Activity,
    straggling: Option<SlowTargetMemory>,
    stuck: Option<OwnedSemaphorePermit>,
    /// When to look whether it is stuck.
    look_at: Instant,
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
    /// The worker is free, and nobody waits for its targets: none of its requests has moved anything for a while.
    Stuck,
}

impl Stragglers {
    /// `workers`: so many may be stuck.
    #[must_use]
    pub fn new(memory: &Memory, workers: usize) -> Self {
        Self { memory: memory.clone(), stuck: Arc::new(Semaphore::new(workers)) }
    }

    /// Whether another object might find no room.
    pub(super) fn are_full(&self) -> bool {
        !self.memory.may_linger(WHOLE_UP_TO)
    }
}

impl Place {
    /// `slot`: `None` for an object that is tried beside those that have a worker. `activity`: of its requests.
    pub(super) fn new(slot: Option<Slot>, stragglers: Stragglers, activity: Activity) -> Self {
        let look_at = Instant::now() + STUCK_AFTER;
        Self {
            slot,
            stragglers,
            activity,
            straggling: None,
            stuck: None,
            look_at,
            bytes: None,
            behind_since: None,
            leave_at: None,
        }
    }

    /// Takes note of a step of the copy at `now`. `waits_for_slow`: of the targets that are left, all are known to be
    /// slow; `None`: none is left.
    pub(super) fn note(&mut self, step: &CopyStep, waits_for_slow: Option<bool>, now: Instant) {
        match step {
            // Of a big object no part is kept after it was sent.
            CopyStep::Read { content, .. } => {
                self.bytes = Some(if content.size_bytes <= WHOLE_UP_TO { content.size_bytes } else { 0 });
            }
            CopyStep::Target { result: Ok(_), .. } => {
                self.behind_since.get_or_insert(now);
            }
            CopyStep::Opened { .. }
            | CopyStep::Kept { .. }
            | CopyStep::Target { .. }
            | CopyStep::Described { .. }
            | CopyStep::Lacks { .. }
            | CopyStep::WriteBegun { .. }
            | CopyStep::WriteEnded { .. }
            | CopyStep::SourceFailed { .. }
            | CopyStep::Stale { .. }
            | CopyStep::Changed { .. } => {}
        }
        let (Some(_), Some(slow)) = (self.bytes, waits_for_slow) else { return };
        if slow {
            self.behind_since.get_or_insert(now);
            self.leave_at.get_or_insert(now);
        } else if let Some(since) = self.behind_since {
            self.leave_at.get_or_insert(since + TOGETHER);
        }
    }

    /// When it is to leave its worker, or may have to.
    pub(super) fn leaves_at(&self) -> Option<Instant> {
        let leave_at = self.leave_at.filter(|_| self.slot.is_some());
        let look_at = self.stuck.is_none().then_some(self.look_at);
        leave_at.into_iter().chain(look_at).min()
    }

    pub(super) fn leave(&mut self, now: Instant) -> Left {
        match self.leave_at.filter(|at| self.slot.is_some() && *at <= now) {
            Some(_) => self.straggle(now),
            None => self.look(now),
        }
    }

    /// It waits for nothing but a ruling on its failures.
    pub(super) fn await_ruling(&mut self) -> Left {
        match Arc::clone(&self.stragglers.stuck).try_acquire_owned() {
            Ok(permit) if self.slot.is_some() && self.stuck.is_none() => {
                (self.stuck, self.slot) = (Some(permit), None);
                Left::Yes
            }
            _ => Left::NotYet,
        }
    }

    fn straggle(&mut self, now: Instant) -> Left {
        self.straggling = self.stragglers.memory.linger(self.bytes.unwrap_or_default());
        if self.straggling.is_some() {
            self.slot = None;
            return Left::Yes;
        }
        self.leave_at = Some(now + TOGETHER);
        let behind = self.behind_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if behind < CROWDED_OUT_AFTER { Left::NotYet } else { Left::CrowdedOut }
    }

    fn look(&mut self, now: Instant) -> Left {
        let still_since = self.activity.still_since();
        self.look_at = still_since.map_or(now, |since| since.min(now)) + STUCK_AFTER;
        if self.look_at > now {
            return Left::NotYet;
        }
        self.look_at = now + STUCK_AGAIN;
        let Ok(stuck) = Arc::clone(&self.stragglers.stuck).try_acquire_owned() else { return Left::NotYet };
        if self.slot.is_some() {
            let Some(straggling) = self.stragglers.memory.linger(self.bytes.unwrap_or_default()) else {
                return Left::NotYet;
            };
            (self.straggling, self.slot) = (Some(straggling), None);
        }
        self.stuck = Some(stuck);
        Left::Stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use copyhold_core::domain::{Content, ContentHash, ObjectKey, ReplicaName, Verified};

    const MIB: u64 = 1 << 20;

    fn place(stragglers: &Stragglers) -> Place {
        let slot = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Place::new(Some(slot), stragglers.clone(), Activity::of(&ObjectKey::new("k").unwrap()))
    }

    fn read(size_bytes: u64) -> CopyStep {
        let from = ReplicaName::new("b2").unwrap();
        CopyStep::Read { from, content: Content { size_bytes, hash: ContentHash(0) }, said: None }
    }

    fn written() -> CopyStep {
        CopyStep::Target { replica: ReplicaName::new("wasabi").unwrap(), result: Ok(Verified::Compared) }
    }

    #[test]
    fn an_object_leaves_its_worker_a_second_after_the_first_target_has_it() {
        let (stragglers, now) = (Stragglers::new(&Memory::new(64 * MIB), 2), Instant::now());
        let mut place = place(&stragglers);
        place.note(&read(MIB), Some(false), now);
        assert!(place.leaves_at().unwrap() >= now + STUCK_AFTER, "all targets are at it");
        place.note(&written(), Some(false), now);
        assert_eq!(place.leaves_at(), Some(now + TOGETHER));
        assert_eq!(place.leave(now + TOGETHER), Left::Yes);
        assert!(place.leaves_at().unwrap() >= now + STUCK_AFTER, "it may still turn out to be stuck");
    }

    #[test]
    fn an_object_that_waits_for_targets_known_to_be_slow_leaves_at_once() {
        let (stragglers, now) = (Stragglers::new(&Memory::new(64 * MIB), 2), Instant::now());
        let mut place = place(&stragglers);
        place.note(&read(MIB), Some(true), now);
        assert_eq!(place.leaves_at(), Some(now));
    }

    #[test]
    fn stragglers_hold_half_of_the_memory_at_most_and_the_rest_is_let_go() {
        let (stragglers, now) = (Stragglers::new(&Memory::new(64 * MIB), 2), Instant::now());
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
        assert_eq!(places[1].leave(now + CROWDED_OUT_AFTER + TOGETHER), Left::Yes);
    }

    #[test]
    fn an_object_whose_requests_move_nothing_leaves_its_worker_as_long_as_few_are_stuck() {
        let (stragglers, now) = (Stragglers::new(&Memory::new(64 * MIB), 2), Instant::now());
        let mut places: Vec<_> = (0..3).map(|_| place(&stragglers)).collect();
        let later = now + 2 * STUCK_AFTER;
        assert_eq!(places[0].leave(later), Left::NotYet, "it waits for no store");
        let _requests: Vec<_> = places.iter().map(|place| place.activity.begin_request()).collect();
        assert_eq!(places[0].leave(Instant::now()), Left::NotYet);
        let later = Instant::now() + STUCK_AFTER;
        assert_eq!(places[0].leave(later), Left::Stuck);
        assert!(places[0].slot.is_none() && places[0].leaves_at().is_none());
        assert_eq!(places[1].leave(later), Left::Stuck);
        assert_eq!(places[2].leave(later), Left::NotYet, "two are stuck already");
        drop(places.remove(0));
        assert_eq!(places[1].leave(later), Left::Stuck);
    }
}
