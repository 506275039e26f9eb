//! Failures of one store in one direction, as one process has seen them since the last success.
//! It decides when the store is in doubt, not what follows from a doubt.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, Instant},
};

use super::{Failure, FailureClass, FailureScope, FaultVerdict};
use crate::domain::ObjectKey;

/// The number of objects that must fail, without a success between, before a store is in doubt.
const OBJECTS: usize = 10;
/// A throttling store gets fewer requests. It is in doubt only after it has refused everything for this long.
const THROTTLED_FOR: Duration = Duration::from_secs(30);
/// For this long after a success between failures, further failures of that class are charged to the objects. A store
/// that fails from then on charges its objects for as long.
const MIXED_FOR: Duration = Duration::from_mins(1);
/// How long a verdict holds for further failures of the same class.
const VERDICT_HOLDS_FOR: Duration = Duration::from_secs(1);

/// The failures of one store in one direction.
///
/// Only the first failure of an object counts: an object that failed before is charged already, or waits to be retried.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Hashes of the keys that failed, [`OBJECTS`] at most.
    objects: HashSet<u64>,
    /// Since when the store has throttled every request.
    throttled_since: Option<Instant>,
    doubted: bool,
    /// The class with which objects failed since the last success.
    failing: Option<FailureClass>,
    mixed: Option<MixedFailures>,
    /// Time and class of the last verdict by which objects were charged.
    last_verdict: Option<(Instant, FailureClass)>,
}

/// Failures between which other objects succeeded.
#[derive(Debug, Clone, Copy)]
struct MixedFailures {
    class: FailureClass,
    /// The number of objects that failed within a minute of the next success.
    objects: usize,
    /// When the last of those successes was.
    at: Instant,
}

/// What a failure means for its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// Nothing: the object is charged.
    None,
    /// Not enough evidence yet. The object is charged when another one succeeds, or after some time.
    Watched,
    /// The store is in doubt: the caller pings it.
    Doubt,
}

impl Evidence {
    /// Records that an object was read from the store or written to it at `now`. Returns whether that ends a doubt.
    pub fn record_success(&mut self, now: Instant) -> bool {
        if let Some(class) = self.failing.take() {
            let before = self.mixed.filter(|mixed| mixed.class == class && is_lately(mixed.at, now, MIXED_FOR));
            let objects = before.map_or(0, |mixed| mixed.objects).saturating_add(self.objects.len());
            self.mixed = Some(MixedFailures { class, objects, at: now });
        }
        self.objects.clear();
        self.throttled_since = None;
        std::mem::take(&mut self.doubted)
    }

    /// Records a failure of this object at `now`. `first`: the object has no failure on record there.
    pub fn record_failure(&mut self, why: &Failure, key: &ObjectKey, first: bool, now: Instant) -> Suspicion {
        if why.class == FailureClass::Throttled {
            let since = *self.throttled_since.get_or_insert(now);
            self.doubted |= now.saturating_duration_since(since) >= THROTTLED_FOR;
            return if self.doubted { Suspicion::Doubt } else { Suspicion::None };
        }
        self.throttled_since = None;
        let is_ruled =
            |(at, class): (Instant, FailureClass)| class == why.class && is_lately(at, now, VERDICT_HOLDS_FOR);
        if why.scope == FailureScope::Object || self.last_verdict.is_some_and(is_ruled) {
            return Suspicion::None;
        }
        self.failing = Some(why.class);
        if first {
            if self.objects.len() < OBJECTS {
                self.objects.insert(hash(key));
            }
            self.doubted |= why.scope == FailureScope::Store || self.objects.len() >= OBJECTS;
        }
        match (self.doubted, first) {
            (true, _) => Suspicion::Doubt,
            (false, true) => Suspicion::Watched,
            (false, false) => Suspicion::None,
        }
    }

    /// Returns whether objects that fail with `class` at `now` fail among others that succeed: ten of them did within the
    /// last minute or, as long as that went on, before. Once only failing objects are left, none succeeds any more although
    /// the store has not changed.
    #[must_use]
    pub fn is_mixed(&self, class: FailureClass, now: Instant) -> bool {
        let tells = |mixed: MixedFailures| {
            mixed.class == class && mixed.objects >= OBJECTS && is_lately(mixed.at, now, MIXED_FOR)
        };
        self.mixed.is_some_and(tells)
    }

    #[must_use]
    pub fn is_doubted(&self) -> bool {
        self.doubted
    }

    /// Applies the verdict on failures of this class.
    pub fn apply(&mut self, verdict: FaultVerdict, class: FailureClass, now: Instant) {
        match verdict {
            FaultVerdict::OpenBreaker(_) => *self = Self::default(),
            FaultVerdict::Objects => {
                self.record_success(now);
                self.last_verdict = Some((now, class));
            }
            FaultVerdict::Undecided => self.last_verdict = Some((now, class)),
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
    use crate::domain::BreakerScope;

    const MS: Duration = Duration::from_millis(1);

    fn key(i: usize) -> ObjectKey {
        ObjectKey::new(format!("k{i}")).unwrap()
    }

    fn of(class: FailureClass) -> Failure {
        Failure::new(class, "")
    }

    fn of_scope(class: FailureClass, scope: FailureScope) -> Failure {
        Failure { scope, ..of(class) }
    }

    /// The suspicion after the first failures of `n` different objects.
    fn after(evidence: &mut Evidence, n: usize, class: FailureClass) -> Suspicion {
        let now = Instant::now();
        (0..n).map(|i| evidence.record_failure(&of(class), &key(i), true, now)).last().unwrap()
    }

    #[test]
    fn ten_objects_without_a_success_put_a_store_in_doubt_and_nine_do_not() {
        for class in [FailureClass::Transient, FailureClass::Denied, FailureClass::Misconfigured] {
            assert_eq!(after(&mut Evidence::default(), 9, class), Suspicion::Watched);
            assert_eq!(after(&mut Evidence::default(), 10, class), Suspicion::Doubt);
        }
    }

    #[test]
    fn a_success_between_begins_the_count_anew() {
        let mut evidence = Evidence::default();
        for i in 0..100 {
            assert_eq!(
                evidence.record_failure(&of(FailureClass::Denied), &key(i), true, Instant::now()),
                Suspicion::Watched,
                "{i}"
            );
            assert!(!evidence.record_success(Instant::now()));
        }
    }

    #[test]
    fn one_object_counts_once_however_often_it_fails() {
        let (mut evidence, now) = (Evidence::default(), Instant::now());
        for _ in 0..100 {
            assert_eq!(evidence.record_failure(&of(FailureClass::Transient), &key(0), true, now), Suspicion::Watched);
        }
    }

    #[test]
    fn objects_with_a_failure_on_record_say_nothing_of_the_store() {
        let (mut evidence, now) = (Evidence::default(), Instant::now());
        for i in 0..100 {
            assert_eq!(
                evidence.record_failure(&of_scope(FailureClass::Full, FailureScope::Store), &key(i), false, now),
                Suspicion::None
            );
        }
    }

    #[test]
    fn what_is_hardly_ever_one_object_alone_needs_no_second() {
        for class in [FailureClass::Misconfigured, FailureClass::Full, FailureClass::Transient, FailureClass::Denied] {
            let why = of_scope(class, FailureScope::Store);
            assert_eq!(
                Evidence::default().record_failure(&why, &key(0), true, Instant::now()),
                Suspicion::Doubt,
                "{class}"
            );
        }
        for class in [
            FailureClass::Gone,
            FailureClass::Changed,
            FailureClass::Corrupt,
            FailureClass::Refused,
            FailureClass::Archived,
        ] {
            assert_eq!(after(&mut Evidence::default(), 100, class), Suspicion::None, "{class}");
        }
    }

    #[test]
    fn in_doubt_every_failure_waits_for_the_ruling_and_a_success_ends_it() {
        let (mut evidence, now) = (Evidence::default(), Instant::now());
        after(&mut evidence, 10, FailureClass::Denied);
        assert_eq!(evidence.record_failure(&of(FailureClass::Transient), &key(50), false, now), Suspicion::Doubt);
        assert!(evidence.record_success(Instant::now()) && !evidence.is_doubted());
        assert_eq!(evidence.record_failure(&of(FailureClass::Denied), &key(51), true, now), Suspicion::Watched);
    }

    #[test]
    fn a_ruling_holds_for_a_second_for_failures_of_its_class() {
        for ruling in [FaultVerdict::Objects, FaultVerdict::Undecided] {
            let mut evidence = Evidence::default();
            after(&mut evidence, 10, FailureClass::Denied);
            let now = Instant::now();
            evidence.apply(ruling, FailureClass::Denied, now);
            let full = of_scope(FailureClass::Full, FailureScope::Store);
            assert_eq!(
                evidence.record_failure(&of(FailureClass::Denied), &key(20), true, now + 999 * MS),
                Suspicion::None
            );
            assert_ne!(
                evidence.record_failure(&of(FailureClass::Denied), &key(21), true, now + 1000 * MS),
                Suspicion::None
            );
            assert_eq!(evidence.record_failure(&full, &key(22), true, now), Suspicion::Doubt, "another class");
        }
    }

    #[test]
    fn without_anything_to_try_the_doubt_stays_and_a_ruling_on_objects_ends_it() {
        let mut evidence = Evidence::default();
        after(&mut evidence, 10, FailureClass::Denied);
        evidence.apply(FaultVerdict::Undecided, FailureClass::Denied, Instant::now());
        assert!(evidence.is_doubted());
        evidence.apply(FaultVerdict::Objects, FailureClass::Denied, Instant::now());
        assert!(!evidence.is_doubted());
        after(&mut evidence, 10, FailureClass::Full);
        evidence.apply(FaultVerdict::OpenBreaker(BreakerScope::All), FailureClass::Full, Instant::now());
        assert!(!evidence.is_doubted(), "its breaker says the rest");
    }

    #[test]
    fn a_throttling_store_is_doubted_only_when_nothing_at_all_succeeds_for_half_a_minute() {
        let (mut evidence, start) = (Evidence::default(), Instant::now());
        let at = |i: usize| start + 1000 * MS * u32::try_from(i).unwrap();
        let throttled =
            |evidence: &mut Evidence, i| evidence.record_failure(&of(FailureClass::Throttled), &key(i), i == 0, at(i));
        for i in 0..30 {
            assert_eq!(throttled(&mut evidence, i), Suspicion::None);
        }
        evidence.record_success(Instant::now());
        for i in 30..60 {
            assert_eq!(throttled(&mut evidence, i), Suspicion::None);
        }
        assert_eq!(throttled(&mut evidence, 60), Suspicion::Doubt);
    }

    #[test]
    fn objects_that_failed_among_others_are_known_for_a_minute_and_only_by_their_class() {
        let now = Instant::now();
        let mut evidence = Evidence::default();
        evidence.record_success(now);
        assert!(!evidence.is_mixed(FailureClass::Denied, now), "nothing has failed");
        after(&mut evidence, 9, FailureClass::Denied);
        assert!(!evidence.is_mixed(FailureClass::Denied, now), "nothing has succeeded since");
        evidence.record_success(now);
        assert!(!evidence.is_mixed(FailureClass::Denied, now), "they are too few");
        after(&mut evidence, 1, FailureClass::Denied);
        evidence.record_success(now);
        assert!(evidence.is_mixed(FailureClass::Denied, now + 59_000 * MS));
        assert!(!evidence.is_mixed(FailureClass::Denied, now + 60_000 * MS));
        assert!(!evidence.is_mixed(FailureClass::Full, now));
        // A breaker was open in between: that store is another one now.
        evidence.apply(FaultVerdict::OpenBreaker(BreakerScope::Writing), FailureClass::Denied, now);
        assert!(!evidence.is_mixed(FailureClass::Denied, now));
    }
}
