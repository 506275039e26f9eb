//! A store that says "slow down" is slowed down, not stopped.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::domain::ReplicaName;

/// Answers of one moment speak of the same excess.
const HALVES_AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// Where one request at a time is still too much, they are sent this far apart at least, ...
const SHORTEST_SPACING: Duration = Duration::from_millis(50);
/// ... and this far at most: further apart, nobody would see that the store has recovered.
const LONGEST_SPACING: Duration = Duration::from_secs(10);
/// A store may ask for more patience than makes sense.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How many requests may be under way to one store: half as many when it throttles, one more after each round that
/// went well. A limit on their rate would have to be told, and no store tells it; this one is found.
#[derive(Debug)]
pub(super) struct Pace {
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
}

/// The right to send one request; given back when dropped.
#[derive(Debug)]
pub(super) struct Pass<'a>(&'a Pace);

/// What must happen first.
enum Wait {
    Until(Instant),
    ForOneToLeave,
}

impl Pace {
    /// `most`: requests at once, as long as the store takes them.
    pub(super) fn new(replica: ReplicaName, most: usize) -> Self {
        let most = most.max(1);
        let state = State {
            limit: most,
            most,
            under_way: 0,
            round: 0,
            spacing: Duration::ZERO,
            not_before: None,
            slowed_at: None,
        };
        let pace =
            Self { replica, state: Mutex::new(state), turnstile: tokio::sync::Mutex::default(), left: Notify::new() };
        pace.show(&pace.lock());
        pace
    }

    /// Waits for as long as the store is to be spared.
    pub(super) async fn enter(&self) -> Pass<'_> {
        let _first = self.turnstile.lock().await;
        loop {
            let wait = self.lock().enter(Instant::now());
            match wait {
                Ok(()) => return Pass(self),
                Err(Wait::Until(at)) => tokio::time::sleep_until(at).await,
                Err(Wait::ForOneToLeave) => self.left.notified().await,
            }
        }
    }

    /// The store did what it was asked to.
    pub(super) fn succeeded(&self) {
        let mut state = self.lock();
        if state.succeeded() {
            self.show(&state);
            self.left.notify_one();
        }
    }

    /// It asked to be spared; for so long, if it said so.
    pub(super) fn throttled(&self, retry_after: Option<Duration>) {
        let mut state = self.lock();
        state.throttled(retry_after, Instant::now());
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

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
        self.0.left.notify_one();
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

    /// Whether more may be under way now.
    fn succeeded(&mut self) -> bool {
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

    fn throttled(&mut self, retry_after: Option<Duration>, now: Instant) {
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

    fn pace(most: usize) -> Pace {
        Pace::new(ReplicaName::new("b2").unwrap(), most)
    }

    fn limit(pace: &Pace) -> usize {
        pace.lock().limit
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_halves_what_is_under_way_at_most_once_a_second() {
        let pace = pace(64);
        let passes = futures::future::join_all((0..16).map(|_| pace.enter())).await;
        for _ in 0..16 {
            pace.throttled(None);
        }
        assert_eq!(limit(&pace), 8, "half of the 16, however many answers said so");
        assert!(pace.enter().now_or_never().is_none(), "16 are under way");
        drop(passes);
        let passes = futures::future::join_all((0..8).map(|_| pace.enter())).await;
        tokio::time::advance(SECOND).await;
        pace.throttled(None);
        assert_eq!(limit(&pace), 4);
        drop(passes);
    }

    #[tokio::test(start_paused = true)]
    async fn each_round_that_goes_well_allows_one_more_up_to_what_the_connections_are() {
        let pace = pace(4);
        let passes = [pace.enter().await, pace.enter().await];
        pace.throttled(None);
        drop(passes);
        let mut limits = Vec::new();
        for _ in 0..12 {
            pace.succeeded();
            limits.push(limit(&pace));
        }
        assert_eq!(limits, [2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn where_one_at_a_time_is_too_much_they_are_sent_apart_until_it_goes_well() {
        let pace = pace(8);
        let begun = Instant::now();
        let mut sent = 0;
        // A store that takes one request per second and refuses all others.
        let mut taken_at = begun - SECOND;
        let mut taken = 0;
        while begun.elapsed() < 300 * SECOND {
            let _pass = pace.enter().await;
            sent += 1;
            tokio::time::advance(Duration::from_millis(10)).await;
            if taken_at.elapsed() >= SECOND {
                (taken_at, taken) = (Instant::now(), taken + 1);
                pace.succeeded();
            } else {
                pace.throttled(None);
            }
        }
        assert!(taken > 150, "{taken} of 300 that it would have taken");
        assert!(sent < 3 * taken, "{sent} requests for {taken} that were taken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_says_how_long_is_left_alone_for_that_time_within_reason() {
        let pace = pace(8);
        pace.throttled(Some(7 * SECOND));
        let asked = Instant::now();
        drop(pace.enter().await);
        assert_eq!(asked.elapsed(), 7 * SECOND);
        pace.throttled(Some(Duration::from_hours(5)));
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
}
