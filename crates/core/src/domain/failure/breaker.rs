//! What an open breaker forbids, and when its replica is probed next. Pure.

use std::time::Duration;

use super::Class;

/// What we want of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To read an object from it.
    Source,
    /// To write one to it.
    Target,
}

/// What is not done with a replica while its breaker is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blocks {
    /// Nothing is written to it; it may still be read. A full store, for example.
    Writing,
    /// It is not asked at all.
    All,
}

impl Role {
    /// The word for it in messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

impl Blocks {
    pub const ALL: [Self; 2] = [Self::Writing, Self::All];

    /// The word for it in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::All => "all",
        }
    }

    /// Whether a store with this breaker open may not be used so.
    #[must_use]
    pub const fn forbids(self, role: Role) -> bool {
        match (self, role) {
            (Self::All, _) | (Self::Writing, Role::Target) => true,
            (Self::Writing, Role::Source) => false,
        }
    }

    /// What is blocked where a store fails only in this role. A store that cannot be read is not written to either:
    /// nobody could see whether a copy is there.
    #[must_use]
    pub const fn for_role(role: Role) -> Self {
        match role {
            Role::Source => Self::All,
            Role::Target => Self::Writing,
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

/// How long a store rests after a breaker of this class was opened, or after that many probes of it have failed.
///
/// Room is made by hand, and each look for it sends a whole object.
#[must_use]
pub fn next_probe(class: Class, probes_failed: u32) -> Duration {
    match class {
        Class::Full => 5 * MINUTE,
        Class::Transient
        | Class::Throttled
        | Class::Denied
        | Class::Misconfigured
        | Class::Gone
        | Class::Changed
        | Class::Corrupt
        | Class::Refused
        | Class::Archived => (SECOND * 2u32.pow(probes_failed.min(5))).min(30 * SECOND),
    }
}

/// Whether the objects that a probe tries in vain are charged with it, where the store answers something simple. Not in
/// the first minute, which a short outage takes; later, so that objects at fault come to be known.
#[must_use]
pub const fn charges_probed(probes_failed: u32) -> bool {
    probes_failed >= 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_away_is_probed_twice_as_seldom_each_time_up_to_half_a_minute() {
        let seconds: Vec<_> = (0..8).map(|n| next_probe(Class::Transient, n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn what_an_operator_mends_is_noticed_within_half_a_minute_and_a_full_store_is_tried_every_five() {
        for class in Class::ALL {
            let longest = (0..100).map(|n| next_probe(class, n)).max().unwrap();
            assert_eq!(longest, if class == Class::Full { 5 * MINUTE } else { 30 * SECOND }, "{class}");
        }
    }

    #[test]
    fn an_outage_of_a_minute_charges_no_object_that_a_probe_tries() {
        let until_charged: Duration =
            (0..100).take_while(|n| !charges_probed(*n)).map(|n| next_probe(Class::Denied, n)).sum();
        assert!(until_charged + next_probe(Class::Denied, 5) >= MINUTE, "{until_charged:?}");
    }

    #[test]
    fn a_full_store_may_be_read() {
        assert!(Blocks::Writing.forbids(Role::Target) && !Blocks::Writing.forbids(Role::Source));
        assert!(Blocks::All.forbids(Role::Target) && Blocks::All.forbids(Role::Source));
    }
}
