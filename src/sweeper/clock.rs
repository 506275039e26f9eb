//! Detects steps of the database's clock by comparing it with the monotonic clock of this process. Pure.

use std::time::{Duration, Instant};

use copyhold_core::domain::micros;

/// More than this between two readings of both clocks is a step and not noise.
const TOLERATED: Duration = Duration::from_secs(5);

/// Compares how far the database's clock moved with how far ours did, which never steps.
#[derive(Debug)]
pub(super) struct ClockWatch {
    last: Option<(Instant, i64)>,
    /// Until when the database's clock is not believed.
    distrusted_until: Option<Instant>,
    /// How long: after a step, leases that live were renewed once within it.
    lease_time: Duration,
}

/// The result of comparing the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClockTrust {
    /// It may be compared with.
    Yes,
    /// It has just stepped by this many seconds.
    Stepped(i64),
    /// It stepped less than a lease time ago.
    NotYet,
}

impl ClockWatch {
    pub(super) fn new(lease_time: Duration) -> Self {
        Self { last: None, distrusted_until: None, lease_time }
    }

    /// `now` by our clock, `database_us` by the database's.
    pub(super) fn look(&mut self, now: Instant, database_us: i64) -> ClockTrust {
        let last = self.last.replace((now, database_us));
        if let Some((then, database_then)) = last {
            let ours = micros(now - then);
            let step_us = database_us.saturating_sub(database_then).saturating_sub(ours);
            if Duration::from_micros(step_us.unsigned_abs()) > TOLERATED {
                self.distrusted_until = Some(now + self.lease_time);
                return ClockTrust::Stepped(step_us / 1_000_000);
            }
        }
        if self.distrusted_until.is_some_and(|until| now < until) { ClockTrust::NotYet } else { ClockTrust::Yes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(90);
    const HOUR_US: i64 = 3_600_000_000;

    #[test]
    fn a_database_clock_that_jumps_an_hour_frees_no_lease_for_one_lease_time() {
        for jump in [HOUR_US, -HOUR_US] {
            let start = Instant::now();
            let at = |s| start + Duration::from_secs(s);
            let db = |s: i64| 10 * HOUR_US + s * 1_000_000;
            let mut watch = ClockWatch::new(LEASE);
            assert_eq!(watch.look(at(0), db(0)), ClockTrust::Yes);
            assert_eq!(watch.look(at(30), db(30)), ClockTrust::Yes);
            assert_eq!(watch.look(at(60), db(60) + jump), ClockTrust::Stepped(jump / 1_000_000));
            assert_eq!(watch.look(at(90), db(90) + jump), ClockTrust::NotYet);
            assert_eq!(watch.look(at(151), db(151) + jump), ClockTrust::Yes);
        }
    }

    #[test]
    fn a_slow_answer_is_no_step() {
        let start = Instant::now();
        let mut watch = ClockWatch::new(LEASE);
        watch.look(start, 0);
        assert_eq!(watch.look(start + Duration::from_secs(30), 26_000_000), ClockTrust::Yes);
    }
}
