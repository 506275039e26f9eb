//! The state of an outage, shared by all connections of a process: logged at once, and again when it changes.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::watch;
use tracing::warn;

use super::{cause::ConnectCause, error::ConnectError, log_throttle::LogThrottle};

/// Shared by the pools of a process.
#[derive(Debug, Clone)]
pub struct Outage(Arc<OutageState>);

#[derive(Debug)]
struct OutageState {
    /// The last attempt to connect, if it failed.
    now: watch::Sender<Option<FailedAttempt>>,
    /// What was logged of each cause since the outage began: a server that shuts down goes through several.
    throttles: Mutex<Vec<(Option<ConnectCause>, LogThrottle)>>,
    /// Whether a connection was ever made.
    had: std::sync::atomic::AtomicBool,
}

/// An attempt to connect that failed.
#[derive(Debug, Clone)]
pub struct FailedAttempt {
    pub at: Instant,
    pub error: ConnectError,
}

impl Default for Outage {
    fn default() -> Self {
        let inner = OutageState { now: watch::Sender::new(None), throttles: Mutex::default(), had: false.into() };
        Self(Arc::new(inner))
    }
}

impl Outage {
    /// Records that a connection was made.
    pub(super) fn ends(&self) {
        self.0.had.store(true, std::sync::atomic::Ordering::Relaxed);
        if self.0.now.send_if_modified(|now| now.take().is_some()) {
            self.throttles().clear();
        }
    }

    /// Records that connecting failed.
    pub(super) fn goes_on(&self, error: &ConnectError) {
        // A read-only server is logged by the components that write.
        if error.read_only.is_none() {
            let mut throttles = self.throttles();
            if !throttles.iter().any(|(cause, _)| *cause == error.cause) {
                throttles.push((error.cause, LogThrottle::new()));
            }
            let throttle = throttles.iter().find(|(cause, _)| *cause == error.cause).map(|(_, throttle)| throttle);
            // Cannot be `None`: it was just added.
            throttle.inspect(|throttle| {
                throttle.fails(|times| warn!(times, "No connection to PostgreSQL: {error}"));
            });
        }
        self.0.now.send_replace(Some(FailedAttempt { at: Instant::now(), error: error.clone() }));
    }

    fn throttles(&self) -> MutexGuard<'_, Vec<(Option<ConnectCause>, LogThrottle)>> {
        self.0.throttles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last attempt to connect, if it failed.
    #[must_use]
    pub fn now(&self) -> Option<FailedAttempt> {
        self.0.now.borrow().clone()
    }

    /// Whether no connection was ever made.
    #[must_use]
    pub fn is_first_contact(&self) -> bool {
        !self.0.had.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Waits for the next failed attempt.
    pub async fn fails(&self) -> FailedAttempt {
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
