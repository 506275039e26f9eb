//! What a daemon tells the others about its rest: that a notice is to wake it, or that none need.

use std::time::Duration;

use copyhold_db::queue::{DaemonId, Queue, SleepsFor};
use tokio::time::Instant;
use tracing::warn;

use crate::{metrics, wakeup::listen_status::ListenStatus, wakeup::stagger::StaggeredWakeup};

/// The promise: without any notice, what there is is found after this long.
pub const POLL: Duration = Duration::from_secs(5);
/// Between two tries while PostgreSQL is away.
pub const RETRY_EVERY: Duration = Duration::from_secs(1);
/// When it looks again after it has said that it sleeps: a transaction that looked before that may commit later.
const AFTER_REGISTERING: [Duration; 3] = [Duration::ZERO, Duration::from_millis(50), Duration::from_secs(1)];

/// Whether this daemon has said that it sleeps. Said with care: while one does, each insert of anybody notifies.
#[derive(Debug)]
pub struct IdleRegistration {
    queue: Queue,
    daemon: DaemonId,
    kind: SleepsFor,
    listen_status: ListenStatus,
    state: Registration,
    /// How many others look first when all are notified.
    pub stagger: StaggeredWakeup,
}

/// What the database has of it.
#[derive(Debug, Clone, Copy)]
enum Registration {
    /// It works, and need not be woken.
    Cleared,
    /// Last at this time, and it has looked this many times since.
    Registered { looks: usize, at: Instant },
    /// That it sleeps, from before an outage; or that was forgotten with it.
    Unknown,
}

/// How long to wait for a notice before the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    Exactly(Duration),
    /// Or less, for whoever knows that something comes without a notice.
    AtMost(Duration),
}

impl WaitFor {
    /// The longest.
    #[must_use]
    pub fn whole(self) -> Duration {
        match self {
            Self::Exactly(rest) | Self::AtMost(rest) => rest,
        }
    }
}

impl IdleRegistration {
    /// Awake.
    #[must_use]
    pub fn new(queue: Queue, daemon: DaemonId, kind: SleepsFor, listen_status: ListenStatus) -> Self {
        Self { queue, daemon, kind, listen_status, state: Registration::Cleared, stagger: StaggeredWakeup::default() }
    }

    /// It has said so, and not taken it back.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        matches!(self.state, Registration::Registered { .. })
    }

    /// Says that it is awake, if it has said otherwise, or may have.
    pub async fn clear(&mut self) {
        if !matches!(self.state, Registration::Cleared) && self.write(false).await {
            self.state = Registration::Cleared;
        }
    }

    /// What it said before an outage may be forgotten there: it is to be said again.
    pub fn invalidate(&mut self) {
        if self.is_registered() {
            self.state = Registration::Unknown;
        }
    }

    /// It has looked and found nothing. Says that it sleeps, once that makes sense.
    pub async fn register(&mut self) -> WaitFor {
        if !self.listen_status.is_listening() {
            // Others would pay for notices that nobody hears.
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
        // It may have been forgotten, and other daemons come and go.
        if pause.is_none() && at.elapsed() > POLL && self.write(true).await {
            at = Instant::now();
        }
        self.state = Registration::Registered { looks: looks + 1, at };
        pause.map_or(WaitFor::AtMost(POLL), WaitFor::Exactly)
    }

    async fn write(&mut self, sleeping: bool) -> bool {
        match self.queue.set_sleeping(self.daemon, self.kind, sleeping).await {
            Ok(before) => {
                self.stagger.set_ahead(before);
                true
            }
            Err(error) => {
                metrics::database_error("queue::set_sleeping");
                // One of the two is enough to say it.
                if self.kind == SleepsFor::Work {
                    warn!(error = %error, "Could not say whether this daemon sleeps; the poll finds the work");
                }
                false
            }
        }
    }
}
