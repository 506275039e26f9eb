//! The state of a limit: how requests, successes and refusals change it, and what a refusal is attributed to.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

/// Refusals within this time have the same cause, and halve the limit once.
const HALVES_AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// If one request at a time is still too much, requests are at least this far apart, ...
const SHORTEST_SPACING: Duration = Duration::from_millis(50);
/// ... and at most this far: with longer gaps a recovery of the store would go unnoticed.
const LONGEST_SPACING: Duration = Duration::from_secs(10);
/// Throttling is attributed to the store if it hits this many different objects ...
const OBJECTS: usize = 3;
/// ... within this time, ...
const WITHIN: Duration = Duration::from_secs(1);
/// ... and at least one answer in this many. A few objects that are always refused do not suffice.
const ONE_IN: u64 = 20;
/// An object that is throttled again within this time is no further evidence against the store.
const KNOWN_FOR: Duration = Duration::from_mins(15);
/// The most such objects that are remembered.
const KNOWN: usize = 256;
/// The most spared prefixes that are remembered, ...
const PREFIXES: usize = 256;
/// ... and the most of the last successes, each for this time.
const SUCCESSES: usize = 8;
const SUCCEEDED_WITHIN: Duration = Duration::from_secs(10);
/// A longer `Retry-After` is cut to this.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct State {
    pub(super) limit: usize,
    most: usize,
    pub(super) under_way: usize,
    /// Successes since the limit was last changed.
    round: usize,
    /// The time between two requests, if one at a time is too much.
    pub(super) spacing: Duration,
    not_before: Option<Instant>,
    slowed_at: Option<Instant>,
    /// Requests under way that have moved no byte for a while: others are sent in their place, ...
    pub(super) aside: usize,
    /// ... for at most this many of them.
    pub(super) most_aside: usize,
    /// The last different objects that were throttled, at most [`OBJECTS`]. A request without an object differs from
    /// every other.
    throttled: Vec<Refusal>,
    /// Prefixes that are spared: until when, and since when. No request has succeeded in them since.
    pub(super) prefixes: HashMap<u64, SparedPrefix>,
    /// The prefixes of the last successful requests.
    successes: VecDeque<(Instant, Prefixes)>,
    /// A request has succeeded since one was throttled.
    succeeded: bool,
    lately: RecentThrottles,
    /// Objects that were throttled, and when, the latest last.
    known: VecDeque<(Instant, u64)>,
}

/// The prefixes of an object's key, the shortest first, each a hash: its folders, and words in its name.
pub(crate) type Prefixes = Arc<[u64]>;

/// A throttled request.
#[derive(Debug)]
struct Refusal {
    at: Instant,
    object: Option<u64>,
    prefixes: Prefixes,
}

/// A prefix under which no request is sent for a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct SparedPrefix {
    pub(super) until: Instant,
    at: Instant,
}

/// What a throttled request is attributed to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attribution {
    Object,
    /// All recent refusals share this prefix, and no longer one. `alone`: no request outside of it has succeeded
    /// recently.
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

/// What a request has to wait for.
pub(super) enum Wait {
    Until(Instant),
    ForOneToLeave,
}

impl State {
    pub(super) fn new(most: usize, most_aside: usize) -> Self {
        let most = most.max(1);
        Self {
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
        }
    }

    pub(super) fn enter(&mut self, now: Instant) -> Result<(), Wait> {
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

    /// Attributes a throttled request. If it has a `Retry-After`, the prefixes concerned are spared for that time.
    pub(super) fn judge(
        &mut self,
        object: Option<u64>,
        prefixes: &Prefixes,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> Attribution {
        let until = retry_after.map(|told| now + told.min(LONGEST_PAUSE));
        // The prefix was spared before, and nothing has succeeded in it since: the refusal is no new evidence.
        let known = prefixes.iter().copied().find(|prefix| self.prefixes.contains_key(prefix));
        if let Some((known, until)) = known.zip(until) {
            self.lately.at(now).throttled[1] += 1;
            self.spare(known, until, now);
            return Attribution::Prefix { alone: self.is_alone(known, now) };
        }
        if !self.speaks_of_more(object, prefixes, now) {
            return Attribution::Object;
        }
        let common = self.common_prefixes(now);
        if let Some(&prefix) = common.last() {
            if let Some(until) = until {
                self.spare(prefix, until, now);
            }
            return Attribution::Prefix { alone: self.is_alone(prefix, now) };
        }
        // The prefixes are spared too, in case they are at fault and not the store.
        let firsts: Vec<u64> = self.throttled.iter().filter_map(|refusal| refusal.prefixes.first().copied()).collect();
        if let Some(until) = until {
            for prefix in firsts {
                self.spare(prefix, until, now);
            }
        }
        Attribution::Store
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

    /// Returns whether no request outside of this prefix has succeeded recently.
    fn is_alone(&self, prefix: u64, now: Instant) -> bool {
        let outside = |(at, inside): &(Instant, Prefixes)| {
            now.saturating_duration_since(*at) < SUCCEEDED_WITHIN && !inside.contains(&prefix)
        };
        !self.successes.iter().any(outside)
    }

    /// Returns the common prefixes of all requests refused since the last success, or within [`WITHIN`].
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

    /// Returns whether the refusal of this object's request concerns other objects as well: they were refused at the
    /// same time, or no request has succeeded since another one was refused.
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

    /// Returns whether the object was throttled before, and records that it is now.
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

    /// Records a success. Returns whether the limit of concurrent requests has grown.
    pub(super) fn succeeded(&mut self, prefixes: &Prefixes, now: Instant) -> bool {
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

    /// Halves the limit of concurrent requests, at most once a second, because the store throttles. If the limit is
    /// 1 already, the requests are sent further apart.
    pub(super) fn slow_down(&mut self, retry_after: Option<Duration>, now: Instant) {
        if let Some(told) = retry_after {
            let until = now + told.min(LONGEST_PAUSE);
            self.not_before = Some(self.not_before.map_or(until, |at| at.max(until)));
        }
        let lately = HALVES_AT_MOST_EVERY.max(self.spacing);
        if self.slowed_at.is_some_and(|at| now.saturating_duration_since(at) < lately) {
            return;
        }
        (self.slowed_at, self.round) = (Some(now), 0);
        // The requests in progress were too many, which may be fewer than the limit.
        let too_much = self.limit.min(self.under_way);
        if too_much > 1 {
            self.limit = too_much / 2;
        } else {
            self.limit = 1;
            self.spacing = (self.spacing * 2).clamp(SHORTEST_SPACING, LONGEST_SPACING);
        }
    }
}
