//! Conversions between Rust's times and the tables' microseconds since the epoch.

use std::time::{Duration, SystemTime};

/// The end of the year 9999, in seconds since the epoch.
const LAST_SECOND: u64 = 253_402_300_799;

/// Returns whole microseconds, the unit of every time in the tables.
#[must_use]
pub fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Returns a store's time in the unit of the tables: µs since the epoch, and 0 for times before it.
#[must_use]
pub fn micros_since_epoch(at: SystemTime) -> i64 {
    micros(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// Formats a time of the tables (µs since the epoch) for people: `2026-11-21T20:03:11Z`. A row edited by hand may hold
/// anything; what is not a date is shown as a number.
#[must_use]
pub fn utc(micros: i64) -> String {
    match u64::try_from(micros).map(Duration::from_micros) {
        Ok(since) if since.as_secs() <= LAST_SECOND => {
            humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
        }
        _ => format!("{micros} µs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tables_cannot_hold_is_the_longest_that_they_can() {
        assert_eq!(micros(Duration::from_millis(1_500)), 1_500_000);
        assert_eq!(micros(Duration::MAX), i64::MAX);
    }

    #[test]
    fn a_time_before_the_epoch_is_the_epoch() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(micros_since_epoch(at(7)), 7_000_000);
        assert_eq!(micros_since_epoch(SystemTime::UNIX_EPOCH - Duration::from_secs(7)), 0);
    }

    #[test]
    fn any_number_written_into_a_table_by_hand_can_be_shown() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(1_795_291_391_999_999), "2026-11-21T20:03:11Z");
        assert_eq!(utc(253_402_300_799_999_999), "9999-12-31T23:59:59Z");
        for no_date in [i64::MIN, -1, 253_402_300_800_000_000, i64::MAX] {
            assert_eq!(utc(no_date), format!("{no_date} µs"));
        }
    }
}
