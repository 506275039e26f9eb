//! How far apart the requests of a listing are sent.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Answers within this time report the same excess.
const SLOWER_AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// Requests to a store that throttles are this far apart at least, ...
const SHORTEST: Duration = Duration::from_millis(100);
/// ... and this far at most: further apart, the scan would not notice that it has recovered.
const LONGEST: Duration = Duration::from_secs(10);
/// A store may ask for a longer pause than makes sense.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How far apart requests are sent: as far as was asked for, and further while the store throttles.
#[derive(Debug)]
pub(crate) struct RequestSpacing {
    usual: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    spacing: Duration,
    next: Instant,
    slowed_at: Option<Instant>,
}

impl RequestSpacing {
    /// `per_second`: more than zero.
    pub(crate) fn new(per_second: f64) -> Self {
        let usual = Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(LONGEST);
        Self { usual, state: Mutex::new(State { spacing: usual, next: Instant::now(), slowed_at: None }) }
    }

    /// Waits for the turn of one request.
    pub(crate) async fn turn(&self) {
        let at = {
            let mut state = self.lock();
            let at = state.next.max(Instant::now());
            state.next = at + state.spacing;
            at
        };
        tokio::time::sleep_until(at).await;
    }

    /// The store answered.
    pub(crate) fn succeeded(&self) {
        let mut state = self.lock();
        state.spacing = (state.spacing * 7 / 8).max(self.usual);
        if state.spacing < SHORTEST / 2 {
            state.spacing = self.usual;
        }
    }

    /// Records that the store asked to be spared; for so long, if it stated a time.
    pub(crate) fn throttled(&self, retry_after: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(requested) = retry_after {
            state.next = state.next.max(now + requested.min(LONGEST_PAUSE));
        }
        let lately = SLOWER_AT_MOST_EVERY.max(state.spacing);
        if state.slowed_at.is_some_and(|at| now.saturating_duration_since(at) < lately) {
            return;
        }
        state.slowed_at = Some(now);
        state.spacing = (state.spacing * 2).clamp(SHORTEST, LONGEST).max(self.usual);
        state.next = state.next.max(now + state.spacing);
    }

    /// A poisoned lock only means that a task panicked between two of these short steps.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_are_no_closer_than_asked_for_however_many_want_one() {
        let (rate, begun) = (RequestSpacing::new(20.0), Instant::now());
        futures::future::join_all((0..41).map(|_| rate.turn())).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_throttles_is_asked_less_often_and_as_often_as_before_when_it_is_well() {
        let rate = RequestSpacing::new(1000.0);
        let mut taken = Vec::new();
        for _ in 0..6 {
            let asked = Instant::now();
            rate.turn().await;
            taken.push(asked.elapsed());
            rate.throttled(None);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        rate.throttled(None);
        let asked = Instant::now();
        rate.turn().await;
        assert!(asked.elapsed() > Duration::from_secs(1), "{:?} after {taken:?}", asked.elapsed());
        for _ in 0..60 {
            rate.succeeded();
        }
        rate.turn().await;
        let asked = Instant::now();
        rate.turn().await;
        assert_eq!(asked.elapsed(), Duration::from_millis(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_says_how_long_is_left_alone_for_that_time_within_reason() {
        let rate = RequestSpacing::new(1000.0);
        for (requested, waited) in [(7, 7), (3600, 30)] {
            rate.throttled(Some(Duration::from_secs(requested)));
            let asked = Instant::now();
            rate.turn().await;
            assert_eq!(asked.elapsed(), Duration::from_secs(waited));
        }
    }
}
