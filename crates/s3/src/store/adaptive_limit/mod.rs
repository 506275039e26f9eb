//! Limits the concurrency of requests to one store: a store that throttles gets fewer requests.
//!
//! A single throttled object changes nothing, and a throttled prefix of keys only delays itself: stores throttle by
//! prefix.

mod state;
#[cfg(test)]
mod tests;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use copyhold_core::domain::ReplicaName;
use tokio::{sync::Notify, time::Instant};

use crate::metrics;
pub(super) use state::Prefixes;
use state::{Attribution, State, Wait};

/// The number of requests that may be under way to one store: halved when it throttles, one more after each successful
/// round (AIMD). No store states a rate limit; this limit is found by its answers.
#[derive(Debug)]
pub(super) struct AdaptiveLimit {
    replica: ReplicaName,
    state: Mutex<State>,
    /// Held by the first waiting request, so that requests pass in the order of their arrival.
    turnstile: tokio::sync::Mutex<()>,
    left: Notify,
}

/// The permit for one request, returned when dropped.
#[derive(Debug)]
pub(super) struct RequestPermit<'a> {
    pace: &'a AdaptiveLimit,
    is_aside: bool,
}

impl AdaptiveLimit {
    /// Makes a limit of `most` requests at once, beside which `most_aside` may be stuck.
    pub(super) fn new(replica: ReplicaName, most: usize, most_aside: usize) -> Self {
        let state = State::new(most, most_aside);
        let pace =
            Self { replica, state: Mutex::new(state), turnstile: tokio::sync::Mutex::default(), left: Notify::new() };
        pace.show(&pace.lock());
        pace
    }

    /// Waits until the limit allows another request.
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

    /// Returns how long requests under these prefixes must wait; `None`: they need not.
    pub(super) fn spared_for(&self, prefixes: &[u64]) -> Option<Duration> {
        let state = self.lock();
        let now = Instant::now();
        let until = prefixes.iter().filter_map(|prefix| state.prefixes.get(prefix)).map(|spared| spared.until).max();
        until.filter(|until| *until > now).map(|until| until - now)
    }

    /// Records that the store executed a request.
    pub(super) fn succeeded(&self, prefixes: &Prefixes) {
        let mut state = self.lock();
        if state.succeeded(prefixes, Instant::now()) {
            self.show(&state);
            self.left.notify_one();
        }
    }

    /// Records that the store throttled a request for this object, with its `Retry-After` if there was one. The caller
    /// defers the object in any case.
    pub(super) fn throttled(&self, object: Option<u64>, prefixes: &Prefixes, retry_after: Option<Duration>) {
        let mut state = self.lock();
        let now = Instant::now();
        match state.judge(object, prefixes, retry_after, now) {
            Attribution::Object | Attribution::Prefix { alone: false } => return,
            // `judge` has deferred the prefix. If nothing succeeds outside of it, all requests are reduced as well.
            Attribution::Prefix { alone: true } => state.slow_down(None, now),
            Attribution::Store => state.slow_down(retry_after, now),
        }
        self.show(&state);
    }

    fn show(&self, state: &State) {
        let limit = if state.spacing.is_zero() { state.limit } else { 0 };
        metrics::concurrency_limit(&self.replica, limit);
    }

    /// A poisoned lock is usable: no step under it leaves the value inconsistent.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RequestPermit<'_> {
    /// Marks the request as stuck: another one may be sent in its place.
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
