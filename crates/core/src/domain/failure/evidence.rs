//! What one process has seen of one store in one role since that last succeeded.
//! It decides when to doubt the store; what comes of a doubt is ruled elsewhere.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, Instant},
};

use super::{Class, Failure, ObjectKey, Ruling, Scope};

/// So many objects must fail, with not one success between, before a store is doubted.
const OBJECTS: usize = 10;
/// A throttling store is slowed down. Only one that lets nothing at all through for this long is doubted.
const THROTTLED_FOR: Duration = Duration::from_secs(30);
/// So long after a success that came between failures of objects, further failures like those are objects' faults. A
/// store that is at fault from then on charges its objects for so long.
const MIXED_FOR: Duration = Duration::from_mins(1);
/// For how long a ruling holds for further failures of the same class.
const RULING_HOLDS_FOR: Duration = Duration::from_secs(1);

/// The failures of one store in one role.
///
/// Only the first failure of an object counts: what failed before is known to be at fault, or waits for its turn.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Hashes of different keys, no more than decide.
    objects: HashSet<u64>,
    /// Since when all that was asked for was refused as too much.
    throttled_since: Option<Instant>,
    doubted: bool,
    /// With what objects failed since the last success.
    failing: Option<Class>,
    mixed: Option<Mixed>,
    /// The last ruling by which objects were charged: when, and with what.
    ruled: Option<(Instant, Class)>,
}

/// Failures between which other objects succeeded.
#[derive(Debug, Clone, Copy)]
struct Mixed {
    class: Class,
    /// So many objects, each within a minute of the next success.
    objects: usize,
    /// The last of those successes.
    at: Instant,
}

/// What a failure makes of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// Nothing: the object is charged.
    None,
    /// Too little yet. The object is charged when another one succeeds, or when some time has passed.
    Watched,
    /// The store is in doubt: it is asked.
    Doubt,
}

impl Evidence {
    /// Notes that an object was read from the store at `now`, or written to it. Returns whether that ends a doubt.
    pub fn worked(&mut self, now: Instant) -> bool {
        if let Some(class) = self.failing.take() {
            let before = self.mixed.filter(|mixed| mixed.class == class && is_lately(mixed.at, now, MIXED_FOR));
            let objects = before.map_or(0, |mixed| mixed.objects).saturating_add(self.objects.len());
            self.mixed = Some(Mixed { class, objects, at: now });
        }
        self.objects.clear();
        self.throttled_since = None;
        std::mem::take(&mut self.doubted)
    }

    /// Notes that it failed for this object at `now`. `first`: the object has no failure on record there.
    pub fn failed(&mut self, why: &Failure, key: &ObjectKey, first: bool, now: Instant) -> Suspicion {
        if why.class == Class::Throttled {
            let since = *self.throttled_since.get_or_insert(now);
            self.doubted |= now.saturating_duration_since(since) >= THROTTLED_FOR;
            return if self.doubted { Suspicion::Doubt } else { Suspicion::None };
        }
        self.throttled_since = None;
        let is_ruled = |(at, class): (Instant, Class)| class == why.class && is_lately(at, now, RULING_HOLDS_FOR);
        if why.scope == Scope::Object || self.ruled.is_some_and(is_ruled) {
            return Suspicion::None;
        }
        self.failing = Some(why.class);
        if first {
            if self.objects.len() < OBJECTS {
                self.objects.insert(hash(key));
            }
            self.doubted |= why.scope == Scope::Store || self.objects.len() >= OBJECTS;
        }
        match (self.doubted, first) {
            (true, _) => Suspicion::Doubt,
            (false, true) => Suspicion::Watched,
            (false, false) => Suspicion::None,
        }
    }

    /// Whether objects that fail with `class` at `now` fail among others that succeed: ten of them did within the last minute
    /// or, as long as that went on, before. When only they are left, none succeeds any more, and the store is the same.
    #[must_use]
    pub fn is_mixed(&self, class: Class, now: Instant) -> bool {
        let tells =
            |mixed: Mixed| mixed.class == class && mixed.objects >= OBJECTS && is_lately(mixed.at, now, MIXED_FOR);
        self.mixed.is_some_and(tells)
    }

    #[must_use]
    pub fn is_doubted(&self) -> bool {
        self.doubted
    }

    /// Takes over what was ruled on failures of this class.
    pub fn ruled(&mut self, ruling: Ruling, class: Class, now: Instant) {
        match ruling {
            Ruling::Open(_) => *self = Self::default(),
            Ruling::Objects => {
                self.worked(now);
                self.ruled = Some((now, class));
            }
            Ruling::Undecided => self.ruled = Some((now, class)),
        }
    }
}

fn is_lately(at: Instant, now: Instant, within: Duration) -> bool {
    now.saturating_duration_since(at) < within
}

fn hash(key: &ObjectKey) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Blocks;

    const MS: Duration = Duration::from_millis(1);

    fn key(i: usize) -> ObjectKey {
        ObjectKey::new(format!("k{i}")).unwrap()
    }

    fn of(class: Class) -> Failure {
        Failure::new(class, "")
    }

    fn of_scope(class: Class, scope: Scope) -> Failure {
        Failure { scope, ..of(class) }
    }

    /// The suspicion after the first failures of `n` different objects.
    fn after(evidence: &mut Evidence, n: usize, class: Class) -> Suspicion {
        let now = Instant::now();
        (0..n).map(|i| evidence.failed(&of(class), &key(i), true, now)).last().unwrap()
    }

    #[test]
    fn ten_objects_without_a_success_put_a_store_in_doubt_and_nine_do_not() {
        for class in [Class::Transient, Class::Denied, Class::Misconfigured] {
            assert_eq!(after(&mut Evidence::default(), 9, class), Suspicion::Watched);
            assert_eq!(after(&mut Evidence::default(), 10, class), Suspicion::Doubt);
        }
    }

    #[test]
    fn a_success_between_begins_the_count_anew() {
        let mut evidence = Evidence::default();
        for i in 0..100 {
            assert_eq!(evidence.failed(&of(Class::Denied), &key(i), true, Instant::now()), Suspicion::Watched, "{i}");
            assert!(!evidence.worked(Instant::now()));
        }
    }

    #[test]
    fn one_object_counts_once_however_often_it_fails() {
        let (mut evidence, now) = (Evidence::default(), Instant::now());
        for _ in 0..100 {
            assert_eq!(evidence.failed(&of(Class::Transient), &key(0), true, now), Suspicion::Watched);
        }
    }

    #[test]
    fn objects_with_a_failure_on_record_say_nothing_of_the_store() {
        let (mut evidence, now) = (Evidence::default(), Instant::now());
        for i in 0..100 {
            assert_eq!(evidence.failed(&of_scope(Class::Full, Scope::Store), &key(i), false, now), Suspicion::None);
        }
    }

    #[test]
    fn what_is_hardly_ever_one_object_alone_needs_no_second() {
        for class in [Class::Misconfigured, Class::Full, Class::Transient, Class::Denied] {
            let why = of_scope(class, Scope::Store);
            assert_eq!(Evidence::default().failed(&why, &key(0), true, Instant::now()), Suspicion::Doubt, "{class}");
        }
        for class in [Class::Gone, Class::Changed, Class::Corrupt, Class::Refused, Class::Archived] {
            assert_eq!(after(&mut Evidence::default(), 100, class), Suspicion::None, "{class}");
        }
    }

    #[test]
    fn in_doubt_every_failure_waits_for_the_ruling_and_a_success_ends_it() {
        let (mut evidence, now) = (Evidence::default(), Instant::now());
        after(&mut evidence, 10, Class::Denied);
        assert_eq!(evidence.failed(&of(Class::Transient), &key(50), false, now), Suspicion::Doubt);
        assert!(evidence.worked(Instant::now()) && !evidence.is_doubted());
        assert_eq!(evidence.failed(&of(Class::Denied), &key(51), true, now), Suspicion::Watched);
    }

    #[test]
    fn a_ruling_holds_for_a_second_for_failures_of_its_class() {
        for ruling in [Ruling::Objects, Ruling::Undecided] {
            let mut evidence = Evidence::default();
            after(&mut evidence, 10, Class::Denied);
            let now = Instant::now();
            evidence.ruled(ruling, Class::Denied, now);
            let full = of_scope(Class::Full, Scope::Store);
            assert_eq!(evidence.failed(&of(Class::Denied), &key(20), true, now + 999 * MS), Suspicion::None);
            assert_ne!(evidence.failed(&of(Class::Denied), &key(21), true, now + 1000 * MS), Suspicion::None);
            assert_eq!(evidence.failed(&full, &key(22), true, now), Suspicion::Doubt, "another class");
        }
    }

    #[test]
    fn without_anything_to_try_the_doubt_stays_and_a_ruling_on_objects_ends_it() {
        let mut evidence = Evidence::default();
        after(&mut evidence, 10, Class::Denied);
        evidence.ruled(Ruling::Undecided, Class::Denied, Instant::now());
        assert!(evidence.is_doubted());
        evidence.ruled(Ruling::Objects, Class::Denied, Instant::now());
        assert!(!evidence.is_doubted());
        after(&mut evidence, 10, Class::Full);
        evidence.ruled(Ruling::Open(Blocks::All), Class::Full, Instant::now());
        assert!(!evidence.is_doubted(), "its breaker says the rest");
    }

    #[test]
    fn a_throttling_store_is_doubted_only_when_nothing_at_all_succeeds_for_half_a_minute() {
        let (mut evidence, start) = (Evidence::default(), Instant::now());
        let at = |i: usize| start + 1000 * MS * u32::try_from(i).unwrap();
        let throttled = |evidence: &mut Evidence, i| evidence.failed(&of(Class::Throttled), &key(i), i == 0, at(i));
        for i in 0..30 {
            assert_eq!(throttled(&mut evidence, i), Suspicion::None);
        }
        evidence.worked(Instant::now());
        for i in 30..60 {
            assert_eq!(throttled(&mut evidence, i), Suspicion::None);
        }
        assert_eq!(throttled(&mut evidence, 60), Suspicion::Doubt);
    }

    #[test]
    fn objects_that_failed_among_others_are_known_for_a_minute_and_only_by_their_class() {
        let now = Instant::now();
        let mut evidence = Evidence::default();
        evidence.worked(now);
        assert!(!evidence.is_mixed(Class::Denied, now), "nothing has failed");
        after(&mut evidence, 9, Class::Denied);
        assert!(!evidence.is_mixed(Class::Denied, now), "nothing has succeeded since");
        evidence.worked(now);
        assert!(!evidence.is_mixed(Class::Denied, now), "they are too few");
        after(&mut evidence, 1, Class::Denied);
        evidence.worked(now);
        assert!(evidence.is_mixed(Class::Denied, now + 59_000 * MS));
        assert!(!evidence.is_mixed(Class::Denied, now + 60_000 * MS));
        assert!(!evidence.is_mixed(Class::Full, now));
        // A breaker was open in between: that store is another one now.
        evidence.ruled(Ruling::Open(Blocks::Writing), Class::Denied, now);
        assert!(!evidence.is_mixed(Class::Denied, now));
    }
}
