//! The worker slot of one attempt, and when the attempt gives it back before it has ended.

use std::time::{Duration, Instant};

use copyhold_s3::{
    copy::{CopyStep, SlowTargetMemory, WHOLE_UP_TO},
    store::{Activity, STUCK_AFTER},
};
use tokio::sync::OwnedSemaphorePermit;

use crate::worker::{replica::SlowCopies, slots::Slot};

/// How long an object keeps its worker after the first of its targets has it: small objects end everywhere within
/// moments, and only then is all of them written at once.
const TOGETHER: Duration = Duration::from_secs(1);
/// The daemon gives up on an object that is this far behind and finds no room among the slow copies.
const CROWDED_OUT_AFTER: Duration = Duration::from_secs(10);

/// How often the attempt checks whether a stuck object may give its worker back.
const STUCK_AGAIN: Duration = Duration::from_secs(1);

/// The worker slot of one object. Other objects get it as soon as this one only waits for a slow target.
#[derive(Debug)]
pub(super) struct WorkerSlot {
    slot: Option<Slot>,
    slow_copies: SlowCopies,
    activity: Activity,
    lingering: Option<SlowTargetMemory>,
    stuck: Option<OwnedSemaphorePermit>,
    /// When to check whether it is stuck.
    check_at: Instant,
    /// Bytes of it that stay in memory; `None`: it is not read yet.
    bytes: Option<u64>,
    behind_since: Option<Instant>,
    detach_at: Option<Instant>,
}

/// Whether the attempt could give its worker slot back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detach {
    /// The worker is free.
    Done,
    /// There is no room among the slow copies yet.
    NotYet,
    /// There was no room for too long: the copy is aborted.
    CrowdedOut,
    /// The worker is free, and so are the permits: none of its requests has moved anything for a while.
    Stuck,
}

impl WorkerSlot {
    /// `slot` is `None` for a probe copy. `activity` is that of the object's requests.
    pub(super) fn new(slot: Option<Slot>, slow_copies: SlowCopies, activity: Activity) -> Self {
        let check_at = Instant::now() + STUCK_AFTER;
        Self {
            slot,
            slow_copies,
            activity,
            lingering: None,
            stuck: None,
            check_at,
            bytes: None,
            behind_since: None,
            detach_at: None,
        }
    }

    /// Records a step of the copy at `now`. `waits_for_slow`: of the targets that are left, all are known to be
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
            self.detach_at.get_or_insert(now);
        } else if let Some(since) = self.behind_since {
            self.detach_at.get_or_insert(since + TOGETHER);
        }
    }

    /// When it is to detach its worker, or may have to.
    pub(super) fn next_check(&self) -> Option<Instant> {
        let detach_at = self.detach_at.filter(|_| self.slot.is_some());
        let check_at = self.stuck.is_none().then_some(self.check_at);
        detach_at.into_iter().chain(check_at).min()
    }

    pub(super) fn detach(&mut self, now: Instant) -> Detach {
        match self.detach_at.filter(|at| self.slot.is_some() && *at <= now) {
            Some(_) => self.linger(now),
            None => self.check(now),
        }
    }

    /// Gives the slot back, if there is room: the attempt only awaits the diagnoses of its failures.
    pub(super) fn detach_until_ruled(&mut self) -> Detach {
        match self.slow_copies.admit_stuck() {
            Some(permit) if self.slot.is_some() && self.stuck.is_none() => {
                (self.stuck, self.slot) = (Some(permit), None);
                Detach::Done
            }
            _ => Detach::NotYet,
        }
    }

    fn linger(&mut self, now: Instant) -> Detach {
        self.lingering = self.slow_copies.admit_slow(self.bytes.unwrap_or_default());
        if self.lingering.is_some() {
            self.slot = None;
            return Detach::Done;
        }
        self.detach_at = Some(now + TOGETHER);
        let behind = self.behind_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if behind < CROWDED_OUT_AFTER { Detach::NotYet } else { Detach::CrowdedOut }
    }

    fn check(&mut self, now: Instant) -> Detach {
        let still_since = self.activity.still_since();
        self.check_at = still_since.map_or(now, |since| since.min(now)) + STUCK_AFTER;
        if self.check_at > now {
            return Detach::NotYet;
        }
        self.check_at = now + STUCK_AGAIN;
        let Some(stuck) = self.slow_copies.admit_stuck() else { return Detach::NotYet };
        if self.slot.is_some() {
            let Some(lingering) = self.slow_copies.admit_slow(self.bytes.unwrap_or_default()) else {
                return Detach::NotYet;
            };
            (self.lingering, self.slot) = (Some(lingering), None);
        }
        self.stuck = Some(stuck);
        Detach::Stuck
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use copyhold_core::domain::{Content, ContentHash, ObjectKey, ReplicaName, Verified};
    use copyhold_s3::copy::Memory;
    use tokio::sync::Semaphore;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn worker_slot(slow_copies: &SlowCopies) -> WorkerSlot {
        let slot = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        WorkerSlot::new(Some(slot), slow_copies.clone(), Activity::of(&ObjectKey::new("k").unwrap()))
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
        let (slow_copies, now) = (SlowCopies::new(&Memory::new(64 * MIB), 2), Instant::now());
        let mut worker_slot = worker_slot(&slow_copies);
        worker_slot.note(&read(MIB), Some(false), now);
        assert!(worker_slot.next_check().unwrap() >= now + STUCK_AFTER, "all targets are at it");
        worker_slot.note(&written(), Some(false), now);
        assert_eq!(worker_slot.next_check(), Some(now + TOGETHER));
        assert_eq!(worker_slot.detach(now + TOGETHER), Detach::Done);
        assert!(worker_slot.next_check().unwrap() >= now + STUCK_AFTER, "it may still turn out to be stuck");
    }

    #[test]
    fn an_object_that_waits_for_targets_known_to_be_slow_leaves_at_once() {
        let (slow_copies, now) = (SlowCopies::new(&Memory::new(64 * MIB), 2), Instant::now());
        let mut worker_slot = worker_slot(&slow_copies);
        worker_slot.note(&read(MIB), Some(true), now);
        assert_eq!(worker_slot.next_check(), Some(now));
    }

    #[test]
    fn stragglers_hold_half_of_the_memory_at_most_and_the_rest_is_let_go() {
        let (slow_copies, now) = (SlowCopies::new(&Memory::new(64 * MIB), 2), Instant::now());
        let mut slots: Vec<_> = (0..3).map(|_| worker_slot(&slow_copies)).collect();
        for worker_slot in &mut slots {
            worker_slot.note(&read(16 * MIB), Some(true), now);
        }
        assert!(!slow_copies.are_full());
        assert_eq!(slots[0].detach(now), Detach::Done);
        assert_eq!(slots[1].detach(now), Detach::Done);
        assert!(slow_copies.are_full());
        assert_eq!(slots[2].detach(now), Detach::NotYet);
        assert_eq!(slots[2].detach(now + CROWDED_OUT_AFTER), Detach::CrowdedOut);
        drop(slots.remove(0));
        assert_eq!(slots[1].detach(now + CROWDED_OUT_AFTER + TOGETHER), Detach::Done);
    }

    #[test]
    fn an_object_whose_requests_move_nothing_leaves_its_worker_as_long_as_few_are_stuck() {
        let (slow_copies, now) = (SlowCopies::new(&Memory::new(64 * MIB), 2), Instant::now());
        let mut slots: Vec<_> = (0..3).map(|_| worker_slot(&slow_copies)).collect();
        let later = now + 2 * STUCK_AFTER;
        assert_eq!(slots[0].detach(later), Detach::NotYet, "it waits for no store");
        let _requests: Vec<_> = slots.iter().map(|worker_slot| worker_slot.activity.begin_request()).collect();
        assert_eq!(slots[0].detach(Instant::now()), Detach::NotYet);
        let later = Instant::now() + STUCK_AFTER;
        assert_eq!(slots[0].detach(later), Detach::Stuck);
        assert!(slots[0].slot.is_none() && slots[0].next_check().is_none());
        assert_eq!(slots[1].detach(later), Detach::Stuck);
        assert_eq!(slots[2].detach(later), Detach::NotYet, "two are stuck already");
        drop(slots.remove(0));
        assert_eq!(slots[1].detach(later), Detach::Stuck);
    }
}
