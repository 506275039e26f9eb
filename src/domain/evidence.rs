use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, Instant},
};

use super::{Blocks, Class, ObjectKey, Role};

/// So many objects in a row must fail, with not one success between, ...
const OBJECTS: usize = 10;
/// ... over at least this time, before a store that answers probes is not used any more.
const FOR_AT_LEAST: Duration = Duration::from_secs(5);
/// A throttling store is slowed down. Only one that lets nothing at all through for this long is left alone.
const THROTTLED_FOR: Duration = Duration::from_secs(30);

/// What one process has seen of one store since it last did what it should.
#[derive(Debug, Default)]
pub struct Evidence {
    reading: Failures,
    writing: Failures,
    /// Since when all that was asked for was refused as too much.
    throttled_since: Option<Instant>,
}

#[derive(Debug, Default)]
struct Failures {
    /// Hashes of different keys, no more than decide.
    objects: HashSet<u64>,
    since: Option<Instant>,
}

/// What a failure speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The object, or nothing that anybody else need know.
    Object,
    /// Perhaps the whole store: ask it something simple. If it does not answer, it is away; if it does, it is left alone
    /// as far as `answering` says.
    Ask { answering: Option<Blocks> },
    /// The whole store, as far as it is to be blocked.
    Store(Blocks),
}

const ASK: Verdict = Verdict::Ask { answering: None };

impl Evidence {
    /// An object was read from the store, or written to it.
    pub fn worked(&mut self, role: Role) {
        self.throttled_since = None;
        *self.of(role) = Failures::default();
    }

    /// It failed for this object at `now`.
    pub fn failed(&mut self, role: Role, class: Class, key: &ObjectKey, now: Instant) -> Verdict {
        match class {
            Class::Transient | Class::Denied => {
                self.throttled_since = None;
                if self.of(role).add(key, now) { Verdict::Store(Blocks::for_role(role)) } else { ASK }
            }
            Class::Throttled => {
                let since = *self.throttled_since.get_or_insert(now);
                if now.saturating_duration_since(since) >= THROTTLED_FOR {
                    Verdict::Store(Blocks::for_role(role))
                } else {
                    Verdict::Object
                }
            }
            // A cap on what is read is one too.
            Class::Full => Verdict::Store(Blocks::for_role(role)),
            // A storage class that it does not know keeps nobody from reading; the answer to a probe tells.
            Class::Misconfigured if role == Role::Target => Verdict::Ask { answering: Some(Blocks::Writing) },
            Class::Misconfigured => Verdict::Store(Blocks::All),
            Class::Gone | Class::Changed | Class::Corrupt | Class::Refused | Class::Archived => Verdict::Object,
        }
    }

    fn of(&mut self, role: Role) -> &mut Failures {
        match role {
            Role::Source => &mut self.reading,
            Role::Target => &mut self.writing,
        }
    }
}

impl Failures {
    /// Whether it is enough.
    fn add(&mut self, key: &ObjectKey, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        if self.objects.len() < OBJECTS {
            let mut hasher = DefaultHasher::new();
            key.hash(&mut hasher);
            self.objects.insert(hasher.finish());
        }
        self.objects.len() >= OBJECTS && now.saturating_duration_since(since) >= FOR_AT_LEAST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: usize) -> ObjectKey {
        ObjectKey::new(format!("k{i}")).unwrap()
    }

    /// The verdict on the last of `n` failures of different objects, a second apart.
    fn after(evidence: &mut Evidence, n: usize, class: Class) -> Verdict {
        let start = Instant::now();
        let at = |i: usize| start + Duration::from_secs(i as u64);
        (0..n).map(|i| evidence.failed(Role::Target, class, &key(i), at(i))).last().unwrap()
    }

    #[test]
    fn a_store_that_answers_but_takes_nothing_is_not_written_to_after_ten_objects() {
        assert_eq!(after(&mut Evidence::default(), 9, Class::Transient), ASK);
        assert_eq!(after(&mut Evidence::default(), 10, Class::Denied), Verdict::Store(Blocks::Writing));
    }

    #[test]
    fn one_object_that_fails_again_and_again_says_nothing_of_the_store() {
        let (mut evidence, start) = (Evidence::default(), Instant::now());
        for i in 0..100 {
            let now = start + Duration::from_secs(i);
            assert_eq!(evidence.failed(Role::Target, Class::Transient, &key(0), now), ASK);
        }
    }

    #[test]
    fn many_failures_within_a_moment_are_one_event() {
        let (mut evidence, now) = (Evidence::default(), Instant::now());
        for i in 0..100 {
            assert_eq!(evidence.failed(Role::Target, Class::Transient, &key(i), now), ASK);
        }
    }

    #[test]
    fn a_success_clears_what_was_held_against_that_role_alone() {
        let mut evidence = Evidence::default();
        after(&mut evidence, 9, Class::Transient);
        evidence.worked(Role::Target);
        assert_eq!(after(&mut evidence, 9, Class::Transient), ASK);
        evidence.worked(Role::Source);
        let later = Instant::now() + Duration::from_secs(20);
        assert_eq!(
            evidence.failed(Role::Target, Class::Transient, &key(9), later),
            Verdict::Store(Blocks::Writing),
            "reading says nothing of writing"
        );
    }

    #[test]
    fn a_throttling_store_is_left_alone_only_when_nothing_at_all_succeeds_for_half_a_minute() {
        let mut evidence = Evidence::default();
        assert_eq!(after(&mut evidence, 30, Class::Throttled), Verdict::Object);
        evidence.worked(Role::Source);
        assert_eq!(after(&mut evidence, 30, Class::Throttled), Verdict::Object);
        assert_eq!(after(&mut Evidence::default(), 31, Class::Throttled), Verdict::Store(Blocks::Writing));
    }

    #[test]
    fn what_speaks_of_the_store_needs_no_second_failure() {
        let now = Instant::now();
        let verdict = |role, class| Evidence::default().failed(role, class, &key(0), now);
        assert_eq!(verdict(Role::Target, Class::Full), Verdict::Store(Blocks::Writing));
        assert_eq!(verdict(Role::Source, Class::Full), Verdict::Store(Blocks::All));
        assert_eq!(verdict(Role::Source, Class::Misconfigured), Verdict::Store(Blocks::All));
        assert_eq!(verdict(Role::Target, Class::Misconfigured), Verdict::Ask { answering: Some(Blocks::Writing) });
        for class in [Class::Gone, Class::Changed, Class::Corrupt, Class::Refused, Class::Archived] {
            assert_eq!(verdict(Role::Target, class), Verdict::Object, "{class}");
        }
    }
}
