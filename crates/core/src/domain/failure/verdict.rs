//! What becomes of a replica that is in doubt: the store's fault, or its objects'.

use std::fmt;

use super::{Blocks, Class, Role};

/// Objects that may be on their way to or from a replica in doubt, at most.
pub const MAX_IN_DOUBT: usize = 4;
/// Objects that one trial takes, at most.
pub const TRIAL_OBJECTS: usize = 4;

/// How a store answers something simple: a listing or, without the right to list, a HEAD of an object recorded there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    Answers,
    Fails(Class),
    /// No answer at all, or none in time.
    Unreachable,
}

/// How the objects of a trial ended at the replica in doubt. Those that failed for a reason of their own are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrialCount {
    pub succeeded: usize,
    pub failed: usize,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// The store's: its breaker opens, and no object is charged.
    Open(Blocks),
    /// The objects': they are charged, and the doubt ends.
    Objects,
    /// Nobody knows: the objects are charged, and the doubt stays.
    Undecided,
}

/// For people.
impl fmt::Display for Canary {
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

/// For people: whose fault it is.
impl fmt::Display for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open(Blocks::Writing) => "the store's, and nothing more is written to it",
            Self::Open(Blocks::All) => "the store's, and it is not used any more",
            Self::Objects => "the objects'",
            Self::Undecided => "nobody knows",
        })
    }
}

impl Canary {
    /// Whether it shows that the store fails as its objects did. Then no trial is needed.
    #[must_use]
    pub fn condemns(self, class: Class) -> bool {
        match self {
            Self::Answers => false,
            Self::Fails(canary) => canary == class,
            Self::Unreachable => true,
        }
    }
}

/// Rules on objects that failed with `class` in this role. `mixed`: until lately they failed among others that succeeded.
#[must_use]
pub fn rule(role: Role, class: Class, canary: Canary, trial: TrialCount, mixed: bool) -> Ruling {
    if canary.condemns(class) {
        return Ruling::Open(Blocks::All);
    }
    match trial {
        TrialCount { succeeded: 1.., .. } => Ruling::Objects,
        // Only those may be left.
        TrialCount { failed: 1.., .. } if mixed && canary == Canary::Answers => Ruling::Undecided,
        TrialCount { failed: 1.., .. } => Ruling::Open(Blocks::for_role(role)),
        // It has refused everything for half a minute.
        _ if class == Class::Throttled => Ruling::Open(Blocks::for_role(role)),
        _ => Ruling::Undecided,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Canary::{Answers, Fails, Unreachable};
    use Class::{Denied, Full, Misconfigured, Throttled, Transient};

    const NONE: TrialCount = TrialCount { succeeded: 0, failed: 0 };
    const ONE_OF_FOUR: TrialCount = TrialCount { succeeded: 1, failed: 3 };
    const ALL_FAILED: TrialCount = TrialCount { succeeded: 0, failed: 4 };

    #[test]
    fn each_named_case_is_ruled_as_the_table_says() {
        use Role::{Source, Target};
        let all = Ruling::Open(Blocks::All);
        let writing = Ruling::Open(Blocks::Writing);
        let cases = [
            (
                "all keys revoked, or the account's signatures fail",
                Target,
                Misconfigured,
                Fails(Misconfigured),
                NONE,
                all,
            ),
            ("a policy that denies everything", Target, Denied, Fails(Denied), NONE, all),
            ("the store is down", Target, Transient, Unreachable, NONE, all),
            ("the store is down while it was full", Target, Full, Unreachable, NONE, all),
            ("the primary is down", Source, Transient, Unreachable, NONE, all),
            ("it fails every request by itself", Target, Transient, Fails(Transient), NONE, all),
            ("one object with a bad signature", Target, Misconfigured, Answers, ONE_OF_FOUR, Ruling::Objects),
            ("one strange object at the source", Source, Misconfigured, Answers, ONE_OF_FOUR, Ruling::Objects),
            ("a denied prefix", Target, Denied, Answers, ONE_OF_FOUR, Ruling::Objects),
            ("no room for one large object", Target, Full, Answers, ONE_OF_FOUR, Ruling::Objects),
            ("the quota is used up", Target, Full, Answers, ALL_FAILED, writing),
            ("lists but fails every PUT", Target, Transient, Answers, ALL_FAILED, writing),
            ("lists but denies every PUT", Target, Denied, Answers, ALL_FAILED, writing),
            ("lists but fails every GET", Source, Transient, Answers, ALL_FAILED, all),
            (
                "the listing fails otherwise, and no object fares better",
                Target,
                Denied,
                Fails(Transient),
                ALL_FAILED,
                writing,
            ),
            (
                "the listing fails otherwise, and an object fares better",
                Target,
                Denied,
                Fails(Transient),
                ONE_OF_FOUR,
                Ruling::Objects,
            ),
            ("nothing else to try", Target, Denied, Answers, NONE, Ruling::Undecided),
            ("throttles everything, the listing too", Target, Throttled, Fails(Throttled), NONE, all),
            ("throttles every object", Target, Throttled, Answers, NONE, writing),
        ];
        for (name, role, class, canary, trial, expected) in cases {
            assert_eq!(rule(role, class, canary, trial, false), expected, "{name}");
            // What only some objects have failed with does not hide that the store fails altogether.
            if canary != Answers || trial != ALL_FAILED {
                assert_eq!(rule(role, class, canary, trial, true), expected, "{name}, after some that failed");
            }
        }
        let left = rule(Target, Denied, Answers, ALL_FAILED, true);
        assert_eq!(left, Ruling::Undecided, "only objects at fault are left");
    }
}
