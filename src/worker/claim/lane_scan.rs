//! The position in a lane that is scanned for objects with a source while the primary cannot be read. Pure.

use std::time::{Duration, Instant};

use copyhold_db::lease::{LanePosition, Peeked};

/// How long after the end of a scan the next one begins: rows may have appeared before the last one.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// A scan may take a tenth of the time: the rest is this many times as long.
const REST: u32 = 9;
const REST_AT_LEAST: Duration = Duration::from_millis(10);

/// The position in a lane whose rows are searched for those that have a source while the primary cannot be read.
#[derive(Debug)]
pub(super) struct SourcelessScan {
    at: LanePosition,
    /// When to begin again; `None`: the end is not reached.
    again_at: Option<Instant>,
}

impl SourcelessScan {
    pub(super) fn new() -> Self {
        Self { at: LanePosition::BEGINNING, again_at: None }
    }

    /// Returns the position to read from now.
    pub(super) fn from(&mut self, now: Instant) -> LanePosition {
        if self.again_at.is_some_and(|at| at <= now) {
            *self = Self::new();
        }
        self.at
    }

    /// What was seen.
    pub(super) fn advance(&mut self, sought: &Peeked, now: Instant) {
        self.at = sought.last.unwrap_or(self.at);
        self.again_at = if sought.more { None } else { self.again_at.or(Some(now + AGAIN_AFTER)) };
    }

    /// How long to rest after looking for so long; `None`: until something happens.
    pub(super) fn rest(&self, took: Duration) -> Option<Duration> {
        self.again_at.is_none().then(|| (took * REST).max(REST_AT_LEAST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sought(id: i64, more: bool) -> Peeked {
        Peeked { keys: Vec::new(), last: (id > 0).then_some(LanePosition { due: 1, id }), more }
    }

    #[test]
    fn a_lane_is_looked_through_once_and_begun_again_some_seconds_after_its_end() {
        let (mut scan, start) = (SourcelessScan::new(), Instant::now());
        assert_eq!(scan.from(start), LanePosition::BEGINNING);
        scan.advance(&sought(256, true), start);
        assert_eq!(scan.from(start), LanePosition { due: 1, id: 256 });
        assert!(scan.rest(Duration::from_millis(5)).is_some_and(|rest| rest == Duration::from_millis(45)));
        scan.advance(&sought(300, false), start);
        assert_eq!(scan.rest(Duration::ZERO), None);
        // What is appended meanwhile is found behind the end, and puts the beginning off no further.
        let later = start + Duration::from_secs(3);
        assert_eq!(scan.from(later), LanePosition { due: 1, id: 300 });
        scan.advance(&sought(301, false), later);
        assert_eq!(scan.from(start + AGAIN_AFTER), LanePosition::BEGINNING);
    }
}
