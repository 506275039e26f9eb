//! When a copy is tried again, by the class of its failure. Pure.

use std::time::Duration;

use super::{Class, Failure, Scope};

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

/// Attempts of an object after which it is parked, where others succeed.
pub const TRIES: u32 = 5;

/// What the class of a failure does not tell.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Those that counted before this one, of the same copy and class.
    pub before: u32,
    /// Since the object was registered.
    pub age: Duration,
    /// Another object succeeded there, in the same role, since this one failed first, or less than a minute before.
    pub others_succeed: bool,
    /// 0..1, spreads retries by ±20 %.
    pub jitter: f64,
}

/// Decides when a copy is tried again that is at fault itself, as far as anybody knows.
#[must_use]
pub fn next_try(why: &Failure, attempt: Attempt) -> Next {
    let attempts = attempt.before;
    let wait = |first: Duration, most: Duration| {
        let doubled = first.saturating_mul(2u32.saturating_pow(attempts.min(30)));
        doubled.min(most).mul_f64(0.8 + 0.4 * attempt.jitter.clamp(0.0, 1.0))
    };
    let counted = |delay| Next::After { delay, counted: true };
    // What somebody may mend for all objects at once is never held against one, unless others fare better.
    let unless_alone = |first| {
        let at_fault = attempt.others_succeed && attempts + 1 >= TRIES;
        if at_fault { Next::Parked } else { counted(wait(first, 15 * MINUTE)) }
    };
    match why.class {
        // Attempts do not grow, so neither does the wait.
        Class::Throttled => Next::After {
            delay: why.retry_after.map_or_else(|| wait(SECOND, MINUTE), |told| told.min(15 * MINUTE)),
            counted: false,
        },
        Class::Full => unless_alone(MINUTE),
        Class::Misconfigured | Class::Denied => unless_alone(4 * SECOND),
        // By a proxy, or whatever else stands before the store.
        Class::Refused if why.scope != Scope::Object => unless_alone(4 * SECOND),
        Class::Transient => counted(wait(SECOND, 15 * MINUTE)),
        Class::Gone if attempt.age > UPLOAD_MAY_TAKE => Next::Parked,
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

    fn attempt(before: u32) -> Attempt {
        Attempt { before, age: Duration::ZERO, others_succeed: true, jitter: 0.5 }
    }

    fn delay(class: Class, before: u32) -> Duration {
        match next_try(&failure(class), attempt(before)) {
            Next::After { delay, .. } => delay,
            Next::Parked => panic!("{class} is parked after {before}"),
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
        let at = |jitter| match next_try(&failure(Class::Transient), Attempt { jitter, ..attempt(0) }) {
            Next::After { delay, .. } => delay,
            Next::Parked => unreachable!(),
        };
        assert_eq!(at(0.0), Duration::from_millis(800));
        assert_eq!(at(1.0), Duration::from_millis(1200));
    }

    #[test]
    fn that_a_store_asks_for_less_counts_no_attempt_of_the_object() {
        let next = next_try(&failure(Class::Throttled), attempt(100));
        assert!(matches!(next, Next::After { counted: false, .. }), "{next:?}");
    }

    #[test]
    fn a_store_that_says_how_long_is_believed_within_reason() {
        let told = |s| Failure { retry_after: Some(Duration::from_secs(s)), ..failure(Class::Throttled) };
        let next = |s| next_try(&told(s), attempt(0));
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
        let at = |age| next_try(&failure(Class::Gone), Attempt { age, ..attempt(20) });
        assert!(matches!(at(UPLOAD_MAY_TAKE), Next::After { .. }));
        assert_eq!(at(UPLOAD_MAY_TAKE + SECOND), Next::Parked);
    }

    #[test]
    fn what_cannot_get_better_by_itself_is_parked() {
        assert_eq!(next_try(&failure(Class::Refused), attempt(0)), Next::Parked);
        assert_eq!(next_try(&failure(Class::Archived), attempt(0)), Next::Parked);
        for (class, tries) in [(Class::Corrupt, 3), (Class::Changed, 3)] {
            assert!(matches!(next_try(&failure(class), attempt(tries - 2)), Next::After { .. }));
            assert_eq!(next_try(&failure(class), attempt(tries - 1)), Next::Parked);
        }
    }

    #[test]
    fn what_somebody_may_mend_for_all_parks_an_object_only_where_others_succeed() {
        let by_a_proxy = Failure { scope: Scope::Either, ..failure(Class::Refused) };
        for why in [failure(Class::Denied), failure(Class::Misconfigured), failure(Class::Full), by_a_proxy] {
            for before in [0, TRIES - 2] {
                assert!(matches!(next_try(&why, attempt(before)), Next::After { counted: true, .. }), "{}", why.class);
            }
            assert_eq!(next_try(&why, attempt(TRIES - 1)), Next::Parked, "{}", why.class);
            let alone = next_try(&why, Attempt { others_succeed: false, ..attempt(100) });
            assert_eq!(alone, Next::After { delay: 15 * MINUTE, counted: true }, "{}", why.class);
        }
    }
}
