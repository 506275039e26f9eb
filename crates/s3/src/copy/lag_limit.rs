//! Drops a target that falls behind the others, so that it delays none of them for long.

use std::time::Duration;

use copyhold_core::{
    domain::{Failure, FailureClass},
    timer::sleep_until_some,
};
use tokio::{sync::watch, time::Instant};

use crate::store::Store;

/// How far a target may fall behind: this time, or half of the duration of the copy so far, if that is more. A target
/// that is a little slower is not dropped from a large object after a minute.
#[derive(Clone, Copy, Debug)]
pub(super) struct LagLimit {
    lag: Duration,
    begun: Instant,
}

/// A step that all targets do at the same time: they receive a whole object, or begin an upload in parts.
#[derive(Debug)]
pub(super) struct LagGroup {
    first_done: watch::Sender<Option<Instant>>,
}

/// The target was not done in time.
#[derive(Debug)]
pub(super) struct LagExceeded;

impl LagLimit {
    pub(super) fn new(lag: Duration) -> Self {
        Self { lag, begun: Instant::now() }
    }

    /// Returns how much further a target may fall behind that is `behind` already.
    pub(super) fn left(self, behind: Duration) -> Duration {
        self.lag.max(self.begun.elapsed() / 2).saturating_sub(behind)
    }

    pub(super) fn is_over(self, store: &Store) -> Failure {
        let what = format!("it fell more than {:.0?} behind the others, which did not wait any longer", self.lag);
        Failure::new(FailureClass::Transient, format!("target {}: {what}", store.name()))
    }
}

impl LagGroup {
    pub(super) fn new() -> Self {
        Self { first_done: watch::Sender::new(None) }
    }

    /// Runs one target's work, and drops it unless it is done within `patience` of the first. Returns by how much it
    /// was later.
    pub(super) async fn run<T, E>(
        &self,
        patience: Duration,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<(Result<T, E>, Duration), LagExceeded> {
        let result = tokio::select! {
            biased;
            result = work => result,
            () = self.over(patience) => return Err(LagExceeded),
        };
        let now = Instant::now();
        let first = *self.first_done.borrow();
        if result.is_ok() && first.is_none() {
            self.first_done.send_replace(Some(now));
        }
        Ok((result, first.map_or(Duration::ZERO, |first| now - first)))
    }

    async fn over(&self, patience: Duration) {
        let mut watched = self.first_done.subscribe();
        // Cannot fail: `self` holds the sender.
        let first = watched.wait_for(Option::is_some).await.ok().and_then(|first| *first);
        sleep_until_some(first.map(|first| first + patience)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn done_after(seconds: u32) -> Result<(), ()> {
        tokio::time::sleep(SECOND * seconds).await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_done_in_time_after_the_first_is_left_behind() {
        let race = LagGroup::new();
        let (first, late, in_time) = tokio::join!(
            race.run(60 * SECOND, done_after(10)),
            race.run(60 * SECOND, done_after(71)),
            race.run(60 * SECOND, done_after(69)),
        );
        assert_eq!(first.unwrap().1, Duration::ZERO);
        assert!(late.is_err());
        assert_eq!(in_time.unwrap().1, 59 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_late_while_none_is_done_and_a_failure_is_not_done() {
        let race = LagGroup::new();
        let failed = race.run(SECOND, async { Err::<(), ()>(()) });
        let (failed, done) = tokio::join!(failed, race.run(SECOND, done_after(3600)));
        assert!(failed.unwrap().0.is_err() && done.unwrap().0.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn patience_grows_with_what_the_copy_takes_anyway() {
        let patience = LagLimit::new(60 * SECOND);
        assert_eq!(patience.left(59 * SECOND), SECOND);
        assert_eq!(patience.left(61 * SECOND), Duration::ZERO);
        tokio::time::advance(200 * SECOND).await;
        assert_eq!(patience.left(61 * SECOND), 39 * SECOND);
    }
}
