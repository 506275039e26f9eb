use std::time::{Duration, Instant};

use super::QueueError;

/// How long PostgreSQL may be away before a long command gives up.
pub const AWAY_FOR: Duration = Duration::from_secs(30);
pub const AWAY_PAUSE: Duration = Duration::from_secs(1);

/// Asks PostgreSQL again while it is away, for so long.
pub async fn while_away<T>(ask: impl AsyncFn() -> Result<T, QueueError>) -> Result<T, QueueError> {
    let begun = Instant::now();
    loop {
        match ask().await {
            Err(error) if error.is_away() && begun.elapsed() < AWAY_FOR => tokio::time::sleep(AWAY_PAUSE).await,
            answer => return answer,
        }
    }
}
