//! When a failed copy is retried, by the class of its failure.

use std::time::Duration;

use super::{Failure, FailureClass, FailureScope};

/// When a copy is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextAttempt {
    /// After this delay by the database's clock. `counted`: the attempt counts towards parking the copy.
    After { delay: Duration, counted: bool },
    /// Not until an operator or the application asks for it.
    Parked,
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
/// The longest time between registration of an object and the end of its upload.
const UPLOAD_MAY_TAKE: Duration = Duration::from_hours(24);

/// Attempts after which a copy is parked while other objects succeed.
pub const MAX_ATTEMPTS: u32 = 5;

/// What decides about the next attempt beside the class of the failure.
#[derive(Clone, Copy, Debug)]
pub struct AttemptContext {
    /// Counted attempts before this one, of the same copy and class.
    pub before: u32,
    /// Time since the object was registered.
    pub age: Duration,
    /// Another object succeeded at the replica, in the same direction, since this one first failed or less than a minute
    /// before.
    pub others_succeed: bool,
    /// 0..1; spreads retries by ±20 %.
    pub jitter: f64,
}

/// Decides when a copy is retried whose failure is attributed to the object, not to the store.
#[must_use]
pub fn next_attempt(why: &Failure, attempt: AttemptContext) -> NextAttempt {
    let attempts = attempt.before;
    let wait = |first: Duration, most: Duration| {
        let doubled = first.saturating_mul(2u32.saturating_pow(attempts.min(30)));
        doubled.min(most).mul_f64(0.8 + 0.4 * attempt.jitter.clamp(0.0, 1.0))
    };
    let counted = |delay| NextAttempt::After { delay, counted: true };
    // A fault that an operator can fix for all objects at once parks one object only if others succeed.
    let unless_alone = |first| {
        let at_fault = attempt.others_succeed && attempts + 1 >= MAX_ATTEMPTS;
        if at_fault { NextAttempt::Parked } else { counted(wait(first, 15 * MINUTE)) }
    };
    match why.class {
        // Attempts do not grow, so neither does the wait.
        FailureClass::Throttled => NextAttempt::After {
            delay: why.retry_after.map_or_else(|| wait(SECOND, MINUTE), |told| told.min(15 * MINUTE)),
            counted: false,
        },
        FailureClass::Full => unless_alone(MINUTE),
        FailureClass::Misconfigured | FailureClass::Denied => unless_alone(4 * SECOND),
        // Refused by a proxy or another intermediary in front of the store.
        FailureClass::Refused if why.scope != FailureScope::Object => unless_alone(4 * SECOND),
        FailureClass::Transient => counted(wait(SECOND, 15 * MINUTE)),
        FailureClass::Gone if attempt.age > UPLOAD_MAY_TAKE => NextAttempt::Parked,
        // Usually the object was registered a moment before its upload became visible.
        FailureClass::Gone => counted(wait(2 * SECOND, 60 * MINUTE)),
        FailureClass::Changed | FailureClass::Corrupt if attempts + 1 >= 3 => NextAttempt::Parked,
        FailureClass::Changed | FailureClass::Corrupt => counted(Duration::ZERO),
        FailureClass::Refused | FailureClass::Archived => NextAttempt::Parked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(class: FailureClass) -> Failure {
        Failure::new(class, "")
    }

    fn attempt(before: u32) -> AttemptContext {
        AttemptContext { before, age: Duration::ZERO, others_succeed: true, jitter: 0.5 }
    }

    fn delay(class: FailureClass, before: u32) -> Duration {
        match next_attempt(&failure(class), attempt(before)) {
            NextAttempt::After { delay, .. } => delay,
            NextAttempt::Parked => panic!("{class} is parked after {before}"),
        }
    }

    #[test]
    fn a_transient_failure_backs_off_doubling_up_to_a_quarter_of_an_hour() {
        assert_eq!(delay(FailureClass::Transient, 0), SECOND);
        assert_eq!(delay(FailureClass::Transient, 3), 8 * SECOND);
        assert_eq!(delay(FailureClass::Transient, 40), 15 * MINUTE);
    }

    #[test]
    fn jitter_spreads_by_a_fifth_either_way() {
        let at = |jitter| match next_attempt(&failure(FailureClass::Transient), AttemptContext { jitter, ..attempt(0) })
        {
            NextAttempt::After { delay, .. } => delay,
            NextAttempt::Parked => unreachable!(),
        };
        assert_eq!(at(0.0), Duration::from_millis(800));
        assert_eq!(at(1.0), Duration::from_millis(1200));
    }

    #[test]
    fn throttling_counts_no_attempt_of_the_object() {
        let next = next_attempt(&failure(FailureClass::Throttled), attempt(100));
        assert!(matches!(next, NextAttempt::After { counted: false, .. }), "{next:?}");
    }

    #[test]
    fn the_retry_after_of_a_store_is_followed_up_to_a_quarter_of_an_hour() {
        let told = |s| Failure { retry_after: Some(Duration::from_secs(s)), ..failure(FailureClass::Throttled) };
        let next = |s| next_attempt(&told(s), attempt(0));
        assert_eq!(next(7), NextAttempt::After { delay: 7 * SECOND, counted: false });
        assert_eq!(next(86_400), NextAttempt::After { delay: 15 * MINUTE, counted: false });
    }

    #[test]
    fn an_object_that_is_not_there_yet_is_looked_for_after_two_seconds_and_then_doubling() {
        let waits = [0, 1, 2, 10, 11, 40].map(|attempts| delay(FailureClass::Gone, attempts).as_secs());
        assert_eq!(waits, [2, 4, 8, 2048, 3600, 3600]);
    }

    #[test]
    fn an_object_may_be_registered_a_day_before_its_upload_ends() {
        let at = |age| next_attempt(&failure(FailureClass::Gone), AttemptContext { age, ..attempt(20) });
        assert!(matches!(at(UPLOAD_MAY_TAKE), NextAttempt::After { .. }));
        assert_eq!(at(UPLOAD_MAY_TAKE + SECOND), NextAttempt::Parked);
    }

    #[test]
    fn a_failure_that_does_not_pass_by_itself_is_parked() {
        assert_eq!(next_attempt(&failure(FailureClass::Refused), attempt(0)), NextAttempt::Parked);
        assert_eq!(next_attempt(&failure(FailureClass::Archived), attempt(0)), NextAttempt::Parked);
        for (class, tries) in [(FailureClass::Corrupt, 3), (FailureClass::Changed, 3)] {
            assert!(matches!(next_attempt(&failure(class), attempt(tries - 2)), NextAttempt::After { .. }));
            assert_eq!(next_attempt(&failure(class), attempt(tries - 1)), NextAttempt::Parked);
        }
    }

    #[test]
    fn a_fault_that_an_operator_can_fix_for_all_objects_parks_one_only_where_others_succeed() {
        let by_a_proxy = Failure { scope: FailureScope::Either, ..failure(FailureClass::Refused) };
        for why in [
            failure(FailureClass::Denied),
            failure(FailureClass::Misconfigured),
            failure(FailureClass::Full),
            by_a_proxy,
        ] {
            for before in [0, MAX_ATTEMPTS - 2] {
                assert!(
                    matches!(next_attempt(&why, attempt(before)), NextAttempt::After { counted: true, .. }),
                    "{}",
                    why.class
                );
            }
            assert_eq!(next_attempt(&why, attempt(MAX_ATTEMPTS - 1)), NextAttempt::Parked, "{}", why.class);
            let alone = next_attempt(&why, AttemptContext { others_succeed: false, ..attempt(100) });
            assert_eq!(alone, NextAttempt::After { delay: 15 * MINUTE, counted: true }, "{}", why.class);
        }
    }
}
