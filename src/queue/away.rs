use std::time::{Duration, Instant};

use super::QueueError;

/// How long PostgreSQL may be away before somebody who waits for a command is told so.
pub const AWAY_FOR: Duration = Duration::from_secs(30);
/// Between two questions whether it is back.
pub const AWAY_PAUSE: Duration = Duration::from_secs(1);

/// Asks PostgreSQL again while it is away, for so long. Only for what may be asked twice: an answer that is lost is no
/// sign that nothing was done.
pub async fn while_away<T>(ask: impl AsyncFn() -> Result<T, QueueError>) -> Result<T, QueueError> {
    let begun = Instant::now();
    loop {
        match ask().await {
            Err(error) if error.is_away() && begun.elapsed() < AWAY_FOR => tokio::time::sleep(AWAY_PAUSE).await,
            answer => return answer,
        }
    }
}
