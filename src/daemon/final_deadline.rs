//! One deadline for the last steps of a shutdown, which share it.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// How long the last steps may take together: releasing leases, deregistering, closing connections.
const ALL_STEPS: Duration = Duration::from_secs(10);

/// One deadline for several steps: each of them can hang when PostgreSQL does.
#[derive(Debug, Clone, Copy)]
pub(super) struct FinalDeadline(Instant);

impl FinalDeadline {
    pub(super) fn begin() -> Self {
        Self(Instant::now() + ALL_STEPS)
    }

    /// Whether the step ended in time.
    pub(super) async fn step(self, step: impl Future<Output = ()>) -> bool {
        timeout_at(self.0, step).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn steps_that_hang_take_no_longer_together_than_one_of_them() {
        let begun = Instant::now();
        let deadline = FinalDeadline::begin();
        assert!(deadline.step(async {}).await);
        assert!(!deadline.step(std::future::pending()).await);
        assert!(!deadline.step(std::future::pending()).await);
        assert!(begun.elapsed() <= ALL_STEPS + Duration::from_millis(10), "{:?}", begun.elapsed());
    }
}
