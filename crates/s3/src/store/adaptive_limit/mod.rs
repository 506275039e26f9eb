//! A store that says "slow down" is slowed down, not stopped. One object that it refuses so slows nothing down, and one
//! prefix of keys holds nothing up but itself: stores throttle by prefix.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use copyhold_core::domain::ReplicaName;
use tokio::{sync::Notify, time::Instant};

/// Answers of one moment speak of the same excess.
const HALVES_AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// Where one request at a time is still too much, they are sent this far apart at least, ...
const SHORTEST_SPACING: Duration = Duration::from_millis(50);
/// ... and this far at most: further apart, nobody would see that the store has recovered.
const LONGEST_SPACING: Duration = Duration::from_secs(10);
/// Throttling speaks of the store where so many different objects meet with it ...
const OBJECTS: usize = 3;
/// ... within this time, ...
const WITHIN: Duration = Duration::from_secs(1);
/// ... and at least one answer of so many says so: a few objects that are always refused do not.
const ONE_IN: u64 = 20;
/// An object that is throttled again within this time says nothing new of the store.
const KNOWN_FOR: Duration = Duration::from_mins(15);
/// So many of them are remembered.
const KNOWN: usize = 256;
/// So many prefixes that asked to be spared are remembered, ...
const PREFIXES: usize = 256;
/// ... and so many of the last successes, each for so long.
const SUCCESSES: usize = 8;
const SUCCEEDED_WITHIN: Duration = Duration::from_secs(10);
/// A store may ask for more patience than makes sense.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How many requests may be under way to one store: half as many when it throttles, one more after each round that
/// went well. A limit on their rate would have to be told, and no store tells it; this one is found.
#[derive(Debug)]
pub(super) struct AdaptiveLimit {
    replica: ReplicaName,
    state: Mutex<State>,
    /// Held by the first of those who wait, so that they pass in the order of their coming.
    turnstile: tokio::sync::Mutex<()>,
    left: Notify,
}

#[derive(Debug)]
struct State {
    limit: usize,
    most: usize,
    under_way: usize,
    /// Successes since the limit was last changed.
    round: usize,
    /// Between two requests, where one at a time is too much.
    spacing: Duration,
    not_before: Option<Instant>,
    slowed_at: Option<Instant>,
    /// Requests under way that have moved nothing for a while: others are sent in their place, ...
    aside: usize,
    /// ... but no more than for so many.
    most_aside: usize,
    /// The last different objects that were throttled, no more than decide. `None`: a request of no object's, unlike any
    /// other.
    throttled: Vec<Refusal>,
    /// Prefixes that asked to be spared: until when, and when that was. Nothing has succeeded in them since.
    prefixes: HashMap<u64, SparedPrefix>,
    /// In which prefixes requests succeeded last.
    successes: VecDeque<(Instant, Prefixes)>,
    /// A request has succeeded since one was throttled.
    succeeded: bool,
    lately: RecentThrottles,
    /// Objects that were throttled, and when, the latest last.
    known: VecDeque<(Instant, u64)>,
}

/// The prefixes of an object's key, the shortest first, each a hash: its folders, and words in its name.
pub(super) type Prefixes = Arc<[u64]>;

/// A request that was refused as too much.
#[derive(Debug)]
struct Refusal {
    at: Instant,
    object: Option<u64>,
    prefixes: Prefixes,
}

/// A prefix under which nothing is asked for.
#[derive(Debug, Clone, Copy)]
struct SparedPrefix {
    until: Instant,
    at: Instant,
}

/// Of what a refusal speaks.
#[derive(Debug, PartialEq, Eq)]
enum About {
    Object,
    /// All that was refused lately is in this prefix, though in nothing smaller. `alone`: nothing else has succeeded lately.
    Prefix {
        alone: bool,
    },
    Store,
}

/// The answers of the running second and of the one before it.
#[derive(Debug)]
struct RecentThrottles {
    began: Instant,
    throttled: [u64; 2],
    succeeded: [u64; 2],
}

impl RecentThrottles {
    fn new(now: Instant) -> Self {
        Self { began: now, throttled: [0; 2], succeeded: [0; 2] }
    }

    /// Makes the running second the one at `now`.
    fn at(&mut self, now: Instant) -> &mut Self {
        let since = now.saturating_duration_since(self.began);
        if since >= WITHIN {
            let before = |[_, last]: [u64; 2]| [if since < 2 * WITHIN { last } else { 0 }, 0];
            *self = Self { began: now, throttled: before(self.throttled), succeeded: before(self.succeeded) };
        }
        self
    }

    fn is_throttled(&self) -> bool {
        let sum = |of: [u64; 2]| of.iter().sum::<u64>();
        sum(self.throttled) * ONE_IN >= sum(self.succeeded)
    }
}

/// The right to send one request; given back when dropped.
#[derive(Debug)]
pub(super) struct RequestPermit<'a> {
    pace: &'a AdaptiveLimit,
    is_aside: bool,
}

/// What must happen first.
enum Wait {
    Until(Instant),
    ForOneToLeave,
}

impl AdaptiveLimit {
    /// `most`: requests at once, as long as the store takes them; beside them, `most_aside` may be stuck.
    pub(super) fn new(replica: ReplicaName, most: usize, most_aside: usize) -> Self {
        let most = most.max(1);
        let state = State {
            limit: most,
            most,
            under_way: 0,
            round: 0,
            spacing: Duration::ZERO,
            not_before: None,
            slowed_at: None,
            aside: 0,
            most_aside,
            throttled: Vec::new(),
            prefixes: HashMap::new(),
            successes: VecDeque::new(),
            succeeded: false,
            lately: RecentThrottles::new(Instant::now()),
            known: VecDeque::new(),
        };
        let pace =
            Self { replica, state: Mutex::new(state), turnstile: tokio::sync::Mutex::default(), left: Notify::new() };
        pace.show(&pace.lock());
        pace
    }

    /// Waits for as long as the store is to be spared.
    pub(super) async fn enter(&self) -> RequestPermit<'_> {
        let _first = self.turnstile.lock().await;
        loop {
            let wait = self.lock().enter(Instant::now());
            match wait {
                Ok(()) => return RequestPermit { pace: self, is_aside: false },
                Err(Wait::Until(at)) => tokio::time::sleep_until(at).await,
                Err(Wait::ForOneToLeave) => self.left.notified().await,
            }
        }
    }

    /// How long nothing is to be asked for in these prefixes; `None`: nothing forbids it.
    pub(super) fn spared_for(&self, prefixes: &[u64]) -> Option<Duration> {
        let state = self.lock();
        let now = Instant::now();
        let until = prefixes.iter().filter_map(|prefix| state.prefixes.get(prefix)).map(|spared| spared.until).max();
        until.filter(|until| *until > now).map(|until| until - now)
    }

    /// The store did what it was asked to.
    pub(super) fn succeeded(&self, prefixes: &Prefixes) {
        let mut state = self.lock();
        if state.succeeded(prefixes, Instant::now()) {
            self.show(&state);
            self.left.notify_one();
        }
    }

    /// It asked to be spared, on a request for this object; for so long, if it said so. The object rests in any case.
    pub(super) fn throttled(&self, object: Option<u64>, prefixes: &Prefixes, retry_after: Option<Duration>) {
        let mut state = self.lock();
        let now = Instant::now();
        match state.judge(object, prefixes, retry_after, now) {
            About::Object | About::Prefix { alone: false } => return,
            // It is spared for as long as it was told; if there is nothing else, it is the store all the same.
            About::Prefix { alone: true } => state.slow_down(None, now),
            About::Store => state.slow_down(retry_after, now),
        }
        self.show(&state);
    }

    fn show(&self, state: &State) {
        let limit = if state.spacing.is_zero() { state.limit } else { 0 };
        #[expect(clippy::cast_precision_loss, reason = "a number of connections")]
        metrics::gauge!("copyhold_store_pace", "replica" => self.replica.to_string()).set(limit as f64);
    }

    /// A poisoned lock only means that somebody panicked between two of these short steps.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RequestPermit<'_> {
    /// The request moves nothing: another one may be sent in its place.
    pub(super) fn set_aside(&mut self) {
        let mut state = self.pace.lock();
        if !self.is_aside && state.aside < state.most_aside {
            (state.under_way, state.aside) = (state.under_way - 1, state.aside + 1);
            self.is_aside = true;
            self.pace.left.notify_one();
        }
    }
}

impl Drop for RequestPermit<'_> {
    fn drop(&mut self) {
        let mut state = self.pace.lock();
        if self.is_aside {
            state.aside -= 1;
        } else {
            state.under_way -= 1;
            self.pace.left.notify_one();
        }
    }
}

impl State {
    fn enter(&mut self, now: Instant) -> Result<(), Wait> {
        if let Some(at) = self.not_before.filter(|at| *at > now) {
            return Err(Wait::Until(at));
        }
        if self.under_way >= self.limit {
            return Err(Wait::ForOneToLeave);
        }
        self.under_way += 1;
        self.not_before = (!self.spacing.is_zero()).then(|| now + self.spacing);
        Ok(())
    }

    /// What a refusal speaks of. If it says how long, prefixes of which it speaks are spared for so long.
    fn judge(
        &mut self,
        object: Option<u64>,
        prefixes: &Prefixes,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> About {
        let until = retry_after.map(|told| now + told.min(LONGEST_PAUSE));
        // It was spared before, and nothing has succeeded in it since: that says nothing new.
        let known = prefixes.iter().copied().find(|prefix| self.prefixes.contains_key(prefix));
        if let Some((known, until)) = known.zip(until) {
            self.lately.at(now).throttled[1] += 1;
            self.spare(known, until, now);
            return About::Prefix { alone: self.is_alone(known, now) };
        }
        if !self.speaks_of_more(object, prefixes, now) {
            return About::Object;
        }
        let common = self.common_prefixes(now);
        if let Some(&prefix) = common.last() {
            if let Some(until) = until {
                self.spare(prefix, until, now);
            }
            return About::Prefix { alone: self.is_alone(prefix, now) };
        }
        // Where some prefixes are at fault and not the store, those are known from now on.
        let firsts: Vec<u64> = self.throttled.iter().filter_map(|refusal| refusal.prefixes.first().copied()).collect();
        if let Some(until) = until {
            for prefix in firsts {
                self.spare(prefix, until, now);
            }
        }
        About::Store
    }

    fn spare(&mut self, prefix: u64, until: Instant, now: Instant) {
        self.prefixes.retain(|_, spared| now.saturating_duration_since(spared.at) < KNOWN_FOR);
        if self.prefixes.len() >= PREFIXES
            && let Some(oldest) = self.prefixes.iter().min_by_key(|(_, spared)| spared.at).map(|(prefix, _)| *prefix)
        {
            self.prefixes.remove(&oldest);
        }
        let spared = self.prefixes.entry(prefix).or_insert(SparedPrefix { until, at: now });
        *spared = SparedPrefix { until: spared.until.max(until), at: now };
    }

    /// Whether nothing has succeeded lately outside of this prefix.
    fn is_alone(&self, prefix: u64, now: Instant) -> bool {
        let outside = |(at, inside): &(Instant, Prefixes)| {
            now.saturating_duration_since(*at) < SUCCEEDED_WITHIN && !inside.contains(&prefix)
        };
        !self.successes.iter().any(outside)
    }

    /// The prefixes that all have in common that were refused since the last success, or in this moment.
    fn common_prefixes(&self, now: Instant) -> Vec<u64> {
        let last_success = self.successes.back().map(|(at, _)| *at);
        let counts = |refusal: &&Refusal| {
            last_success.is_none_or(|at| refusal.at >= at) || now.saturating_duration_since(refusal.at) < WITHIN
        };
        let mut refusals = self.throttled.iter().filter(counts);
        let mut common = refusals.next().map(|refusal| refusal.prefixes.to_vec()).unwrap_or_default();
        for refusal in refusals {
            let same = common.iter().zip(&*refusal.prefixes).take_while(|(one, other)| one == other).count();
            common.truncate(same);
        }
        common
    }

    /// Whether what was said to this object's request is meant for others as well: they heard it in the same moment, or
    /// nothing has succeeded since another one did.
    fn speaks_of_more(&mut self, object: Option<u64>, prefixes: &Prefixes, now: Instant) -> bool {
        self.lately.at(now).throttled[1] += 1;
        if object.is_some_and(|object| self.is_known(object, now)) {
            return false;
        }
        let other = |before: &Refusal| before.object.is_none() || before.object != object;
        let nothing_since = !self.succeeded && self.throttled.iter().any(other);
        self.throttled.retain(other);
        if self.throttled.len() >= OBJECTS {
            self.throttled.remove(0);
        }
        self.throttled.push(Refusal { at: now, object, prefixes: Arc::clone(prefixes) });
        self.succeeded = false;
        let lately = |refusal: &&Refusal| now.saturating_duration_since(refusal.at) < WITHIN;
        nothing_since || self.throttled.iter().filter(lately).count() >= OBJECTS && self.lately.is_throttled()
    }

    /// Whether the object was throttled before. From now on it was.
    fn is_known(&mut self, object: u64, now: Instant) -> bool {
        let before = self.known.len();
        self.known.retain(|(_, known)| *known != object);
        let is_known = self.known.len() < before;
        self.known.retain(|(at, _)| now.saturating_duration_since(*at) < KNOWN_FOR);
        if self.known.len() >= KNOWN {
            self.known.pop_front();
        }
        self.known.push_back((now, object));
        is_known
    }

    /// Whether more may be under way now.
    fn succeeded(&mut self, prefixes: &Prefixes, now: Instant) -> bool {
        self.succeeded = true;
        if !self.prefixes.is_empty() {
            self.prefixes.retain(|prefix, _| !prefixes.contains(prefix));
        }
        if self.successes.len() >= SUCCESSES {
            self.successes.pop_front();
        }
        self.successes.push_back((now, Arc::clone(prefixes)));
        self.lately.at(now).succeeded[1] += 1;
        if !self.spacing.is_zero() {
            let closer = self.spacing * 7 / 8;
            self.spacing = if closer < SHORTEST_SPACING / 2 { Duration::ZERO } else { closer };
            return false;
        }
        self.round += 1;
        let grows = self.limit < self.most && self.round >= self.limit;
        if grows {
            self.limit += 1;
            self.round = 0;
        }
        grows
    }

    fn slow_down(&mut self, retry_after: Option<Duration>, now: Instant) {
        if let Some(told) = retry_after {
            let until = now + told.min(LONGEST_PAUSE);
            self.not_before = Some(self.not_before.map_or(until, |at| at.max(until)));
        }
        let lately = HALVES_AT_MOST_EVERY.max(self.spacing);
        if self.slowed_at.is_some_and(|at| now.saturating_duration_since(at) < lately) {
            return;
        }
        (self.slowed_at, self.round) = (Some(now), 0);
        // What was under way is what was too much, and not what would have been allowed.
        let too_much = self.limit.min(self.under_way);
        if too_much > 1 {
            self.limit = too_much / 2;
        } else {
            self.limit = 1;
            self.spacing = (self.spacing * 2).clamp(SHORTEST_SPACING, LONGEST_SPACING);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(most: usize) -> AdaptiveLimit {
        AdaptiveLimit::new(ReplicaName::new("b2").unwrap(), most, most)
    }

    fn none() -> Prefixes {
        Arc::new([])
    }

    fn prefixes<const N: usize>(prefixes: [u64; N]) -> Prefixes {
        Arc::new(prefixes)
    }

    /// Three objects hear it in one moment.
    fn by_three(pace: &AdaptiveLimit, retry_after: Option<Duration>) {
        (0..3).for_each(|object| pace.throttled(Some(object), &none(), retry_after));
    }

    fn limit(pace: &AdaptiveLimit) -> usize {
        pace.lock().limit
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_halves_what_is_under_way_at_most_once_a_second() {
        let pace = pace(64);
        let passes = futures::future::join_all((0..16).map(|_| pace.enter())).await;
        for object in 0..16 {
            pace.throttled(Some(object), &none(), None);
        }
        assert_eq!(limit(&pace), 8, "half of the 16, however many answers said so");
        assert!(pace.enter().now_or_never().is_none(), "16 are under way");
        drop(passes);
        let passes = futures::future::join_all((0..8).map(|_| pace.enter())).await;
        tokio::time::advance(SECOND).await;
        pace.throttled(Some(17), &none(), None);
        assert_eq!(limit(&pace), 4);
        drop(passes);
    }

    #[tokio::test(start_paused = true)]
    async fn each_round_that_goes_well_allows_one_more_up_to_what_the_connections_are() {
        let pace = pace(4);
        let passes = [pace.enter().await, pace.enter().await];
        by_three(&pace, None);
        drop(passes);
        let mut limits = Vec::new();
        for _ in 0..12 {
            pace.succeeded(&none());
            limits.push(limit(&pace));
        }
        assert_eq!(limits, [2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn where_one_at_a_time_is_too_much_they_are_sent_apart_until_it_goes_well() {
        let pace = pace(8);
        let begun = Instant::now();
        let mut sent = 0_u64;
        // A store that takes one request per second and refuses all others.
        let mut taken_at = begun - SECOND;
        let mut taken = 0;
        while begun.elapsed() < 300 * SECOND {
            let _pass = pace.enter().await;
            sent += 1;
            tokio::time::advance(Duration::from_millis(10)).await;
            if taken_at.elapsed() >= SECOND {
                (taken_at, taken) = (Instant::now(), taken + 1);
                pace.succeeded(&none());
            } else {
                pace.throttled(Some(sent), &none(), None);
            }
        }
        assert!(taken > 150, "{taken} of 300 that it would have taken");
        assert!(sent < 3 * taken, "{sent} requests for {taken} that were taken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_says_how_long_is_left_alone_for_that_time_within_reason() {
        let pace = pace(8);
        by_three(&pace, Some(7 * SECOND));
        let asked = Instant::now();
        drop(pace.enter().await);
        assert_eq!(asked.elapsed(), 7 * SECOND);
        pace.throttled(Some(4), &none(), Some(Duration::from_hours(5)));
        let asked = Instant::now();
        drop(pace.enter().await);
        assert_eq!(asked.elapsed(), LONGEST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_waiting_takes_nobodys_turn() {
        let pace = pace(1);
        let pass = pace.enter().await;
        let mut first = Box::pin(pace.enter());
        let mut second = Box::pin(pace.enter());
        assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
        drop(first);
        drop(pass);
        assert!(second.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_object_that_is_refused_as_too_much_rests_alone() {
        let pace = pace(8);
        for round in 0..100 {
            pace.throttled(Some(7), &none(), Some(20 * SECOND));
            assert!(pace.enter().now_or_never().is_some(), "round {round}");
            if round > 50 {
                pace.succeeded(&none());
            }
        }
        assert_eq!(limit(&pace), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_objects_among_others_that_succeed_slow_nothing_down() {
        let pace = pace(8);
        for _ in 0..10 {
            for object in 0..20 {
                pace.throttled(Some(object), &none(), Some(20 * SECOND));
                pace.succeeded(&none());
                tokio::time::advance(SECOND / 2).await;
            }
        }
        assert!(pace.enter().now_or_never().is_some());
        assert_eq!(limit(&pace), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_lets_nothing_through_is_slowed_down_by_the_second_object() {
        let pace = pace(8);
        pace.throttled(Some(1), &none(), Some(20 * SECOND));
        tokio::time::advance(10 * SECOND).await;
        pace.throttled(Some(2), &none(), Some(20 * SECOND));
        let asked = Instant::now();
        drop(pace.enter().await);
        assert_eq!(asked.elapsed(), 20 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_are_stuck_leave_their_places_to_as_many_others() {
        let pace = pace(2);
        let mut stuck = [pace.enter().await, pace.enter().await];
        assert!(pace.enter().now_or_never().is_none());
        stuck.iter_mut().for_each(RequestPermit::set_aside);
        let mut more = [pace.enter().await, pace.enter().await];
        more.iter_mut().for_each(RequestPermit::set_aside);
        assert!(pace.enter().now_or_never().is_none(), "two are stuck already");
        drop(stuck);
        more.iter_mut().for_each(RequestPermit::set_aside);
        assert!(pace.enter().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn objects_that_are_always_refused_slow_nothing_down_beside_many_that_succeed() {
        let pace = pace(8);
        for _ in 0..10 {
            for object in 0..20 {
                pace.throttled(Some(object), &none(), None);
                (0..35).for_each(|_| pace.succeeded(&none()));
            }
            tokio::time::advance(SECOND).await;
        }
        assert_eq!(limit(&pace), 8);
        // One answer in ten is another matter.
        tokio::time::advance(3 * SECOND).await;
        let mut least = 8;
        for object in 100..120 {
            pace.throttled(Some(object), &none(), None);
            least = least.min(limit(&pace));
            (0..9).for_each(|_| pace.succeeded(&none()));
        }
        assert_eq!(least, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn objects_that_are_refused_again_and_again_slow_down_nothing_that_comes_later() {
        let pace = pace(8);
        pace.throttled(Some(1), &none(), None);
        pace.succeeded(&none());
        pace.throttled(Some(2), &none(), None);
        for _ in 0..100 {
            tokio::time::advance(SECOND).await;
            pace.throttled(Some(1), &none(), None);
            pace.throttled(Some(2), &none(), None);
        }
        assert_eq!(limit(&pace), 8);
        assert!(pace.enter().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_that_is_throttled_is_spared_and_nothing_else_waits() {
        let pace = pace(8);
        (0..64).for_each(|object| pace.throttled(Some(object), &prefixes([1]), Some(20 * SECOND)));
        assert_eq!(pace.spared_for(&[1, 7]), Some(20 * SECOND));
        assert_eq!(pace.spared_for(&[2]), None);
        assert!(pace.enter().now_or_never().is_some());
        // It holds for subfolders alike.
        tokio::time::advance(20 * SECOND).await;
        pace.succeeded(&prefixes([2]));
        let before = limit(&pace);
        for object in 100..500 {
            pace.throttled(Some(object), &prefixes([1, object]), Some(20 * SECOND));
            pace.succeeded(&prefixes([2]));
        }
        assert_eq!(pace.spared_for(&[1]), Some(20 * SECOND));
        assert!(pace.enter().now_or_never().is_some() && limit(&pace) >= before);
        tokio::time::advance(20 * SECOND).await;
        pace.succeeded(&prefixes([1, 3]));
        assert_eq!(pace.spared_for(&[1]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn folders_that_are_throttled_together_are_the_store_and_each_says_so_once() {
        let pace = pace(8);
        (0..3).for_each(|object| pace.throttled(Some(object), &prefixes([object]), Some(20 * SECOND)));
        let asked = Instant::now();
        drop(pace.enter().await);
        assert_eq!(asked.elapsed(), 20 * SECOND);
        // The same ones again, in other objects, while others succeed.
        pace.succeeded(&prefixes([9]));
        tokio::time::advance(SECOND).await;
        (10..13).for_each(|object| pace.throttled(Some(object), &prefixes([object - 10]), Some(20 * SECOND)));
        assert!(pace.enter().now_or_never().is_some());
        assert_eq!(
            (0..4).map(|prefix| pace.spared_for(&[prefix]).is_some()).collect::<Vec<_>>(),
            [true, true, true, false]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_is_only_one_folder_it_is_the_store_that_is_slowed_down() {
        let pace = pace(8);
        let passes = futures::future::join_all((0..8).map(|_| pace.enter())).await;
        (0..3).for_each(|object| pace.throttled(Some(object), &prefixes([1]), None));
        drop(passes);
        assert_eq!(limit(&pace), 4);
    }
}
