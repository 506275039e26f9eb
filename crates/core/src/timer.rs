//! Waiting for a moment of which it may not be known yet when it is.

use tokio::time::{Instant, sleep_until};

/// Sleeps until `time`; for ever, while there is no such time.
pub async fn until(time: Option<impl Into<Instant>>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
