//! Retries a single request after a transient failure, before more than that request fails.

use std::time::{Duration, Instant};

use backon::{ExponentialBuilder, Retryable};
use copyhold_core::domain::{Failure, FailureClass};

/// Enough for a broken connection or a restarted server; longer waits are the queue's.
const AGAIN: usize = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest delay that a store may ask for in the middle of an object.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A request that took this long to fail hangs, and would hang again.
const FAILS_WITHIN: Duration = Duration::from_secs(30);

/// Returns the pauses between attempts: one fewer than attempts.
pub(super) fn pauses() -> ExponentialBuilder {
    ExponentialBuilder::default().with_min_delay(FIRST_PAUSE).with_max_times(AGAIN).with_jitter()
}

/// Makes `attempt` up to three times.
pub(super) async fn with_retries<T, F>(attempt: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let begun = Instant::now();
    attempt
        .retry(pauses())
        .when(|why: &Failure| is_transient(why.class) && begun.elapsed() < FAILS_WITHIN)
        .adjust(|why, pause| pause.map(|pause| pause.max(why.retry_after.unwrap_or_default()).min(LONGEST_PAUSE)))
        .await
}

/// Corrupt counts: bytes that a store has refused as damaged were not stored.
pub(super) fn is_transient(class: FailureClass) -> bool {
    matches!(class, FailureClass::Transient | FailureClass::Throttled | FailureClass::Corrupt)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    async fn attempts(class: FailureClass, failures: usize) -> (usize, bool) {
        let made = AtomicUsize::new(0);
        let done = with_retries(|| async {
            let n = made.fetch_add(1, Ordering::Relaxed);
            if n < failures { Err(Failure::new(class, "")) } else { Ok(()) }
        });
        let done = done.await.is_ok();
        (made.load(Ordering::Relaxed), done)
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_in_passing_is_tried_three_times_and_what_is_certain_once() {
        assert_eq!(attempts(FailureClass::Transient, 2).await, (3, true));
        assert_eq!(attempts(FailureClass::Throttled, 3).await, (3, false));
        assert_eq!(attempts(FailureClass::Denied, 1).await, (1, false));
    }
}
