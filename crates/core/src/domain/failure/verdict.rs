//! Decides whether a replica in doubt fails because of its store or because of its objects.

use std::fmt;

use super::{BreakerScope, Direction, FailureClass};

/// The most objects in transfer at a replica in doubt.
pub const MAX_IN_DOUBT: usize = 4;
/// The most objects that one trial copies.
pub const TRIAL_OBJECTS: usize = 4;

/// How a store answers a ping: a listing or, without the right to list, a HEAD of an object recorded there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingResult {
    Answers,
    Fails(FailureClass),
    /// No answer, or none in time.
    Unreachable,
}

/// How the objects of a trial ended at the replica in doubt. Objects that failed for a reason of their own do not
/// count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrialCount {
    pub succeeded: usize,
    pub failed: usize,
}

/// Whether the store or its objects are at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultVerdict {
    /// The store: its breaker opens, and no object is charged.
    OpenBreaker(BreakerScope),
    /// The objects: they are charged, and the doubt ends.
    Objects,
    /// Neither is shown: the objects are charged, and the doubt remains.
    Undecided,
}

/// For people.
impl fmt::Display for PingResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answers => f.write_str("answered"),
            Self::Fails(class) => write!(f, "failed ({class})"),
            Self::Unreachable => f.write_str("not answered"),
        }
    }
}

/// For people.
impl fmt::Display for TrialCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.succeeded, self.failed) {
            (0, 0) => f.write_str("none"),
            (succeeded, failed) => write!(f, "{succeeded} succeeded and {failed} failed"),
        }
    }
}

/// For people: which side is at fault.
impl fmt::Display for FaultVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenBreaker(BreakerScope::Writing) => "the store's, and nothing more is written to it",
            Self::OpenBreaker(BreakerScope::All) => "the store's, and it is not used any more",
            Self::Objects => "the objects'",
            Self::Undecided => "undecided",
        })
    }
}

impl PingResult {
    /// Returns whether the store fails in the same way as its objects did. Then no trial is needed.
    #[must_use]
    pub fn confirms(self, class: FailureClass) -> bool {
        match self {
            Self::Answers => false,
            Self::Fails(ping_class) => ping_class == class,
            Self::Unreachable => true,
        }
    }
}

/// Decides about objects that failed with `class` in this direction. `mixed`: until recently other objects succeeded
/// between their failures.
#[must_use]
pub fn decide_fault(
    direction: Direction,
    class: FailureClass,
    ping: PingResult,
    trial: TrialCount,
    mixed: bool,
) -> FaultVerdict {
    if ping.confirms(class) {
        return FaultVerdict::OpenBreaker(BreakerScope::All);
    }
    match trial {
        TrialCount { succeeded: 1.., .. } => FaultVerdict::Objects,
        // Perhaps only the failing objects are left.
        TrialCount { failed: 1.., .. } if mixed && ping == PingResult::Answers => FaultVerdict::Undecided,
        TrialCount { failed: 1.., .. } => FaultVerdict::OpenBreaker(BreakerScope::for_direction(direction)),
        // The store has refused everything for half a minute.
        _ if class == FailureClass::Throttled => FaultVerdict::OpenBreaker(BreakerScope::for_direction(direction)),
        _ => FaultVerdict::Undecided,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailureClass::{Denied, Full, Misconfigured, Throttled, Transient};
    use PingResult::{Answers, Fails, Unreachable};

    const NONE: TrialCount = TrialCount { succeeded: 0, failed: 0 };
    const ONE_OF_FOUR: TrialCount = TrialCount { succeeded: 1, failed: 3 };
    const ALL_FAILED: TrialCount = TrialCount { succeeded: 0, failed: 4 };

    #[test]
    fn each_named_case_is_ruled_as_the_table_says() {
        use Direction::{Read, Write};
        let all = FaultVerdict::OpenBreaker(BreakerScope::All);
        let writing = FaultVerdict::OpenBreaker(BreakerScope::Writing);
        let cases = [
            (
                "all keys revoked, or the account's signatures fail",
                Write,
                Misconfigured,
                Fails(Misconfigured),
                NONE,
                all,
            ),
            ("a policy that denies everything", Write, Denied, Fails(Denied), NONE, all),
            ("the store is down", Write, Transient, Unreachable, NONE, all),
            ("the store is down while it was full", Write, Full, Unreachable, NONE, all),
            ("the primary is down", Read, Transient, Unreachable, NONE, all),
            ("it fails every request by itself", Write, Transient, Fails(Transient), NONE, all),
            ("one object with a bad signature", Write, Misconfigured, Answers, ONE_OF_FOUR, FaultVerdict::Objects),
            ("one strange object at the source", Read, Misconfigured, Answers, ONE_OF_FOUR, FaultVerdict::Objects),
            ("a denied prefix", Write, Denied, Answers, ONE_OF_FOUR, FaultVerdict::Objects),
            ("no room for one large object", Write, Full, Answers, ONE_OF_FOUR, FaultVerdict::Objects),
            ("the quota is used up", Write, Full, Answers, ALL_FAILED, writing),
            ("lists but fails every PUT", Write, Transient, Answers, ALL_FAILED, writing),
            ("lists but denies every PUT", Write, Denied, Answers, ALL_FAILED, writing),
            ("lists but fails every GET", Read, Transient, Answers, ALL_FAILED, all),
            (
                "the listing fails otherwise, and no object fares better",
                Write,
                Denied,
                Fails(Transient),
                ALL_FAILED,
                writing,
            ),
            (
                "the listing fails otherwise, and an object fares better",
                Write,
                Denied,
                Fails(Transient),
                ONE_OF_FOUR,
                FaultVerdict::Objects,
            ),
            ("nothing else to try", Write, Denied, Answers, NONE, FaultVerdict::Undecided),
            ("throttles everything, the listing too", Write, Throttled, Fails(Throttled), NONE, all),
            ("throttles every object", Write, Throttled, Answers, NONE, writing),
        ];
        for (name, direction, class, ping, trial, expected) in cases {
            assert_eq!(decide_fault(direction, class, ping, trial, false), expected, "{name}");
            // A class with which only some objects failed does not hide that the whole store fails.
            if ping != Answers || trial != ALL_FAILED {
                assert_eq!(
                    decide_fault(direction, class, ping, trial, true),
                    expected,
                    "{name}, after some that failed"
                );
            }
        }
        let left = decide_fault(Write, Denied, Answers, ALL_FAILED, true);
        assert_eq!(left, FaultVerdict::Undecided, "only objects at fault are left");
    }
}
