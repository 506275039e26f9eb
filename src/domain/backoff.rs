use std::time::Duration;

use super::{Class, Failure};

/// When a copy is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// After this long by the database's clock. `counted`: it was an attempt of this copy.
    After { delay: Duration, counted: bool },
    /// Not until somebody says so.
    Parked,
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
/// How long an object may be registered before its upload ends.
const UPLOAD_MAY_TAKE: Duration = Duration::from_hours(24);

/// Decides from the class of the failure alone when the copy is tried again.
///
/// `attempts`: those that counted before this one, of the same copy and class.
/// `age`: since the object was registered. `jitter`: 0..1, spreads retries by ±20 %.
#[must_use]
pub fn next_try(why: &Failure, attempts: u32, age: Duration, jitter: f64) -> Next {
    let wait = |first: Duration, most: Duration| {
        let doubled = first.saturating_mul(2u32.saturating_pow(attempts.min(30)));
        doubled.min(most).mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0))
    };
    let counted = |delay| Next::After { delay, counted: true };
    match why.class {
        // Not this object's fault: attempts do not grow, so neither does the wait.
        Class::Throttled => Next::After {
            delay: why.retry_after.map_or_else(|| wait(SECOND, MINUTE), |told| told.min(15 * MINUTE)),
            counted: false,
        },
        Class::Full => Next::After { delay: wait(5 * MINUTE, 5 * MINUTE), counted: false },
        Class::Misconfigured => Next::After { delay: wait(MINUTE, MINUTE), counted: false },
        Class::Denied if attempts + 1 >= 5 => Next::Parked,
        Class::Transient | Class::Denied => counted(wait(SECOND, 15 * MINUTE)),
        Class::Gone if age > UPLOAD_MAY_TAKE => Next::Parked,
        // Mostly it is registered a moment before its upload can be seen.
        Class::Gone => counted(wait(2 * SECOND, 60 * MINUTE)),
        Class::Changed | Class::Corrupt if attempts + 1 >= 3 => Next::Parked,
        Class::Changed | Class::Corrupt => counted(Duration::ZERO),
        Class::Refused | Class::Archived => Next::Parked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(class: Class) -> Failure {
        Failure::new(class, "")
    }

    fn delay(class: Class, attempts: u32) -> Duration {
        match next_try(&failure(class), attempts, Duration::ZERO, 0.5) {
            Next::After { delay, .. } => delay,
            Next::Parked => panic!("{class} is parked after {attempts}"),
        }
    }

    #[test]
    fn a_transient_failure_backs_off_doubling_up_to_a_quarter_of_an_hour() {
        assert_eq!(delay(Class::Transient, 0), SECOND);
        assert_eq!(delay(Class::Transient, 3), 8 * SECOND);
        assert_eq!(delay(Class::Transient, 40), 15 * MINUTE);
    }

    #[test]
    fn jitter_spreads_by_a_fifth_either_way() {
        let at = |jitter| match next_try(&failure(Class::Transient), 0, Duration::ZERO, jitter) {
            Next::After { delay, .. } => delay,
            Next::Parked => unreachable!(),
        };
        assert_eq!(at(0.0), Duration::from_millis(800));
        assert_eq!(at(1.0), Duration::from_millis(1200));
    }

    #[test]
    fn what_speaks_of_the_store_counts_no_attempt_of_the_object() {
        for class in [Class::Throttled, Class::Full, Class::Misconfigured] {
            let next = next_try(&failure(class), 100, Duration::ZERO, 0.5);
            assert!(matches!(next, Next::After { counted: false, .. }), "{class}: {next:?}");
        }
    }

    #[test]
    fn a_store_that_says_how_long_is_believed_within_reason() {
        let told = |s| Failure { retry_after: Some(Duration::from_secs(s)), ..failure(Class::Throttled) };
        let next = |s| next_try(&told(s), 0, Duration::ZERO, 0.5);
        assert_eq!(next(7), Next::After { delay: 7 * SECOND, counted: false });
        assert_eq!(next(86_400), Next::After { delay: 15 * MINUTE, counted: false });
    }

    #[test]
    fn an_object_that_is_not_there_yet_is_looked_for_after_two_seconds_and_then_doubling() {
        let waits = [0, 1, 2, 10, 11, 40].map(|attempts| delay(Class::Gone, attempts).as_secs());
        assert_eq!(waits, [2, 4, 8, 2048, 3600, 3600]);
    }

    #[test]
    fn an_object_may_be_registered_a_day_before_its_upload_ends() {
        let at = |age| next_try(&failure(Class::Gone), 20, age, 0.5);
        assert!(matches!(at(UPLOAD_MAY_TAKE), Next::After { .. }));
        assert_eq!(at(UPLOAD_MAY_TAKE + SECOND), Next::Parked);
    }

    #[test]
    fn what_cannot_get_better_by_itself_is_parked() {
        assert_eq!(next_try(&failure(Class::Refused), 0, Duration::ZERO, 0.5), Next::Parked);
        assert_eq!(next_try(&failure(Class::Archived), 0, Duration::ZERO, 0.5), Next::Parked);
        for (class, tries) in [(Class::Corrupt, 3), (Class::Changed, 3), (Class::Denied, 5)] {
            assert!(matches!(next_try(&failure(class), tries - 2, Duration::ZERO, 0.5), Next::After { .. }));
            assert_eq!(next_try(&failure(class), tries - 1, Duration::ZERO, 0.5), Next::Parked);
        }
    }
}
