use std::time::{Duration, Instant};

use super::QueueError;

/// How long PostgreSQL may be away until an operator's command gives up: long enough for a restart.
pub const AWAY_FOR: Duration = Duration::from_secs(30);
pub const AWAY_PAUSE: Duration = Duration::from_secs(1);

/// Asks PostgreSQL again while it is away, for so long. For what may be asked twice.
pub async fn while_away<T>(ask: impl AsyncFn() -> Result<T, QueueError>) -> Result<T, QueueError> {
    let begun = Instant::now();
    loop {
        match ask().await {
            Err(error) if error.is_away() && begun.elapsed() < AWAY_FOR => tokio::time::sleep(AWAY_PAUSE).await,
            answer => return answer,
        }
    }
}
