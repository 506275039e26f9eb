//! What an open breaker blocks, and when its replica is probed next.

use std::time::Duration;

use super::FailureClass;

/// Whether a store is used as a source or as a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// An object is read from the store.
    Read,
    /// An object is written to the store.
    Write,
}

/// The operations that an open breaker blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreakerScope {
    /// Writes are blocked, reads are not: a full store, for example.
    Writing,
    /// All requests are blocked.
    All,
}

impl Direction {
    /// Returns its name in messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "source",
            Self::Write => "target",
        }
    }
}

impl BreakerScope {
    pub const ALL: [Self; 2] = [Self::Writing, Self::All];

    /// Returns its name in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::All => "all",
        }
    }

    /// Returns whether an open breaker of this scope forbids use of the store in this direction.
    #[must_use]
    pub const fn forbids(self, direction: Direction) -> bool {
        match (self, direction) {
            (Self::All, _) | (Self::Writing, Direction::Write) => true,
            (Self::Writing, Direction::Read) => false,
        }
    }

    /// Returns what to block at a store that fails in this direction only. A store that cannot be read is not written
    /// to either, because copies there could not be checked.
    #[must_use]
    pub const fn for_direction(direction: Direction) -> Self {
        match direction {
            Direction::Read => Self::All,
            Direction::Write => Self::Writing,
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

/// Returns the time until the next probe after a breaker of this class opened and `probes_failed` probes failed.
///
/// An operator makes room by hand, and each probe for room sends a whole object: a full store is probed rarely.
#[must_use]
pub fn next_probe(class: FailureClass, probes_failed: u32) -> Duration {
    match class {
        FailureClass::Full => 5 * MINUTE,
        FailureClass::Transient
        | FailureClass::Throttled
        | FailureClass::Denied
        | FailureClass::Misconfigured
        | FailureClass::Gone
        | FailureClass::Changed
        | FailureClass::Corrupt
        | FailureClass::Refused
        | FailureClass::Archived => (SECOND * 2u32.pow(probes_failed.min(5))).min(30 * SECOND),
    }
}

/// Returns whether a failed probe counts as an attempt of the objects it tried, if the store answers pings. Not in the
/// first minute, so that a short outage charges no object; later, so that faulty objects are found.
#[must_use]
pub const fn charges_probed(probes_failed: u32) -> bool {
    probes_failed >= 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_interval_of_an_unavailable_store_doubles_up_to_half_a_minute() {
        let seconds: Vec<_> = (0..8).map(|n| next_probe(FailureClass::Transient, n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn a_repaired_store_is_noticed_within_half_a_minute_and_a_full_one_is_tried_every_five() {
        for class in FailureClass::ALL {
            let longest = (0..100).map(|n| next_probe(class, n)).max().unwrap();
            assert_eq!(longest, if class == FailureClass::Full { 5 * MINUTE } else { 30 * SECOND }, "{class}");
        }
    }

    #[test]
    fn an_outage_of_a_minute_charges_no_object_that_a_probe_tries() {
        let until_charged: Duration =
            (0..100).take_while(|n| !charges_probed(*n)).map(|n| next_probe(FailureClass::Denied, n)).sum();
        assert!(until_charged + next_probe(FailureClass::Denied, 5) >= MINUTE, "{until_charged:?}");
    }

    #[test]
    fn a_full_store_may_be_read() {
        assert!(BreakerScope::Writing.forbids(Direction::Write) && !BreakerScope::Writing.forbids(Direction::Read));
        assert!(BreakerScope::All.forbids(Direction::Write) && BreakerScope::All.forbids(Direction::Read));
    }
}
