//! What is known of an outage by all connections of a process: said once in the log, at once, and again when it changes.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::warn;

use super::{cause::ConnectCause, error::ConnectError};

/// How often the same is said.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Shared by the pools of a process.
#[derive(Debug, Clone)]
pub struct Outage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The last attempt to connect, if it failed.
    now: watch::Sender<Option<Failed>>,
    said: Mutex<Option<(Instant, Option<ConnectCause>)>>,
    /// Whether there was ever a connection.
    had: std::sync::atomic::AtomicBool,
}

/// An attempt to connect that failed.
#[derive(Debug, Clone)]
pub struct Failed {
    pub at: Instant,
    pub error: ConnectError,
}

impl Default for Outage {
    fn default() -> Self {
        let inner = Inner { now: watch::Sender::new(None), said: Mutex::default(), had: false.into() };
        Self(Arc::new(inner))
    }
}

impl Outage {
    /// A connection was made.
    pub(super) fn ends(&self) {
        self.0.had.store(true, std::sync::atomic::Ordering::Relaxed);
        self.0.now.send_if_modified(|now| now.take().is_some());
    }

    /// None was made.
    pub(super) fn goes_on(&self, error: &ConnectError) {
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        // What can only be read is said by those who would write.
        let is_news = error.read_only.is_none()
            && said.is_none_or(|(at, cause)| cause != error.cause || at.elapsed() > SAY_EVERY);
        if is_news {
            *said = Some((Instant::now(), error.cause));
            warn!("No connection to PostgreSQL: {error}");
        }
        drop(said);
        self.0.now.send_replace(Some(Failed { at: Instant::now(), error: error.clone() }));
    }

    /// The attempt that failed last, if none has succeeded since.
    #[must_use]
    pub fn now(&self) -> Option<Failed> {
        self.0.now.borrow().clone()
    }

    /// Whether no connection was ever made.
    #[must_use]
    pub fn is_first_contact(&self) -> bool {
        !self.0.had.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Waits for the next attempt that fails.
    pub async fn fails(&self) -> Failed {
        let mut now = self.0.now.subscribe();
        loop {
            // Cannot fail: we hold the sender.
            let _ = now.changed().await;
            if let Some(failed) = now.borrow_and_update().clone() {
                return failed;
            }
        }
    }
}
