//! Registers this daemon as idle in PostgreSQL, so that an INSERT notifies it; and decides when it looks for work all
//! the same.

use std::time::Duration;

use copyhold_db::{
    Database,
    daemon::{DaemonId, IdleKind},
};
use tokio::time::Instant;
use tracing::warn;

use super::{listen_status::ListenStatus, stagger::StaggeredWakeup};
use crate::metrics;

/// Upper bound on pickup latency when no notification arrives.
pub const POLL: Duration = Duration::from_secs(5);
/// Between two attempts while PostgreSQL is unavailable.
pub const RETRY_EVERY: Duration = Duration::from_secs(1);
/// When the daemon looks again after it has registered as idle: a transaction that did not see the registration may
/// commit later.
const AFTER_REGISTERING: [Duration; 3] = [Duration::ZERO, Duration::from_millis(50), Duration::from_secs(1)];

/// Whether this daemon is registered as idle. While any daemon is, every INSERT sends a NOTIFY.
#[derive(Debug)]
pub struct IdleRegistration {
    database: Database,
    daemon: DaemonId,
    kind: IdleKind,
    listen_status: ListenStatus,
    state: Registration,
    /// How many other daemons look first when all are notified.
    pub stagger: StaggeredWakeup,
}

/// How the table lists this daemon.
#[derive(Debug, Clone, Copy)]
enum Registration {
    /// It works, and need not be notified.
    Cleared,
    /// Last at this time, and it has looked this many times since.
    Registered { looks: usize, at: Instant },
    /// An outage may have removed the registration.
    Unknown,
}

/// How long to wait for a notification before the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    Exactly(Duration),
    /// Or less, for a caller that knows of work that becomes due without a notification.
    AtMost(Duration),
}

impl WaitFor {
    /// Returns the longest wait.
    #[must_use]
    pub fn whole(self) -> Duration {
        match self {
            Self::Exactly(rest) | Self::AtMost(rest) => rest,
        }
    }
}

impl IdleRegistration {
    /// Not registered.
    #[must_use]
    pub fn new(database: Database, daemon: DaemonId, kind: IdleKind, listen_status: ListenStatus) -> Self {
        Self {
            database,
            daemon,
            kind,
            listen_status,
            state: Registration::Cleared,
            stagger: StaggeredWakeup::default(),
        }
    }

    /// Whether it is registered and has not cleared that.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        matches!(self.state, Registration::Registered { .. })
    }

    /// Clears the registration, if there is one or may be one.
    pub async fn clear(&mut self) {
        if !matches!(self.state, Registration::Cleared) && self.write(false).await {
            self.state = Registration::Cleared;
        }
    }

    /// Marks the registration as unknown after an outage, so that it is written again.
    pub fn invalidate(&mut self) {
        if self.is_registered() {
            self.state = Registration::Unknown;
        }
    }

    /// Registers the daemon as idle after a look that found nothing; returns how long to wait.
    pub async fn register(&mut self) -> WaitFor {
        if !self.listen_status.is_listening() {
            // Every INSERT would pay for a NOTIFY that this daemon cannot receive.
            self.clear().await;
            return WaitFor::AtMost(self.listen_status.poll_interval(POLL));
        }
        let Registration::Registered { looks, mut at } = self.state else {
            if !self.write(true).await {
                return WaitFor::Exactly(RETRY_EVERY);
            }
            self.state = Registration::Registered { looks: 1, at: Instant::now() };
            return WaitFor::Exactly(AFTER_REGISTERING[0]);
        };
        let pause = AFTER_REGISTERING.get(looks).copied();
        // The registration may be lost, and other daemons come and go.
        if pause.is_none() && at.elapsed() > POLL && self.write(true).await {
            at = Instant::now();
        }
        self.state = Registration::Registered { looks: looks + 1, at };
        pause.map_or(WaitFor::AtMost(POLL), WaitFor::Exactly)
    }

    async fn write(&mut self, sleeping: bool) -> bool {
        match self.database.set_idle(self.daemon, self.kind, sleeping).await {
            Ok(before) => {
                self.stagger.set_ahead(before);
                true
            }
            Err(error) => {
                metrics::database_error("daemon::set_idle");
                // One of the two kinds is enough to log it.
                if self.kind == IdleKind::Work {
                    warn!(error = %error, "Could not register this daemon as idle or busy; polling finds the work");
                }
                false
            }
        }
    }
}
