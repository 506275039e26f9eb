use std::time::{Duration, SystemTime};

/// The end of the year 9999, in seconds since the epoch.
const LAST_SECOND: u64 = 253_402_300_799;

/// A time of the tables, µs since the epoch, for people: `2026-11-21T20:03:11Z`. Times set by hand may be anything;
/// what is no date is shown as the number it is.
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
    fn any_number_that_somebody_wrote_into_a_table_can_be_shown() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(1_795_291_391_999_999), "2026-11-21T20:03:11Z");
        assert_eq!(utc(253_402_300_799_999_999), "9999-12-31T23:59:59Z");
        for no_date in [i64::MIN, -1, 253_402_300_800_000_000, i64::MAX] {
            assert_eq!(utc(no_date), format!("{no_date} µs"));
        }
    }
}
