//! Sleeping until an optional deadline.

use tokio::time::{Instant, sleep_until};

/// Sleeps until `time`, or forever if there is none.
pub async fn sleep_until_some(time: Option<impl Into<Instant>>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
