//! What a daemon tells the others about its rest: that a notice is to wake it, or that none need.

use std::time::Duration;

use copyhold_db::{
    Database,
    daemon::{DaemonId, IdleKind},
};
use tokio::time::Instant;
use tracing::warn;

use crate::{ears::Ears, herd::Turn, metrics};

/// The promise: without any notice, what there is is found after this long.
pub const POLL: Duration = Duration::from_secs(5);
/// Between two tries while PostgreSQL is away.
pub const AWAY: Duration = Duration::from_secs(1);
/// When it looks again after it has said that it sleeps: a transaction that looked before that may commit later.
const AFTER_SAYING_SO: [Duration; 3] = [Duration::ZERO, Duration::from_millis(50), Duration::from_secs(1)];

/// Whether this daemon has said that it sleeps. Said with care: while one does, each insert of anybody notifies.
#[derive(Debug)]
pub struct Sleeper {
    queue: Database,
    daemon: DaemonId,
    of: IdleKind,
    ears: Ears,
    said: Said,
    /// How many others look first when all are notified.
    pub turn: Turn,
}

/// What the database has of it.
#[derive(Debug, Clone, Copy)]
enum Said {
    /// It works, and need not be woken.
    Awake,
    /// Last at this time, and it has looked this many times since.
    Asleep { looks: usize, at: Instant },
    /// That it sleeps, from before an outage; or that was forgotten with it.
    Unknown,
}

/// How long to wait for a notice before the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    For(Duration),
    /// Or less, for whoever knows that something comes without a notice.
    AtMost(Duration),
}

impl Rest {
    /// The longest.
    #[must_use]
    pub fn whole(self) -> Duration {
        match self {
            Self::For(rest) | Self::AtMost(rest) => rest,
        }
    }
}

impl Sleeper {
    /// Awake.
    #[must_use]
    pub fn new(queue: Database, daemon: DaemonId, of: IdleKind, ears: Ears) -> Self {
        Self { queue, daemon, of, ears, said: Said::Awake, turn: Turn::default() }
    }

    /// It has said so, and not taken it back.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        matches!(self.said, Said::Asleep { .. })
    }

    /// Says that it is awake, if it has said otherwise, or may have.
    pub async fn rouse(&mut self) {
        if !matches!(self.said, Said::Awake) && self.say(false).await {
            self.said = Said::Awake;
        }
    }

    /// What it said before an outage may be forgotten there: it is to be said again.
    pub fn forget(&mut self) {
        if self.is_asleep() {
            self.said = Said::Unknown;
        }
    }

    /// It has looked and found nothing. Says that it sleeps, once that makes sense.
    pub async fn nothing(&mut self) -> Rest {
        if !self.ears.are_open() {
            // Others would pay for notices that nobody hears.
            self.rouse().await;
            return Rest::AtMost(self.ears.poll(POLL));
        }
        let Said::Asleep { looks, mut at } = self.said else {
            if !self.say(true).await {
                return Rest::For(AWAY);
            }
            self.said = Said::Asleep { looks: 1, at: Instant::now() };
            return Rest::For(AFTER_SAYING_SO[0]);
        };
        let pause = AFTER_SAYING_SO.get(looks).copied();
        // It may have been forgotten, and other daemons come and go.
        if pause.is_none() && at.elapsed() > POLL && self.say(true).await {
            at = Instant::now();
        }
        self.said = Said::Asleep { looks: looks + 1, at };
        pause.map_or(Rest::AtMost(POLL), Rest::For)
    }

    async fn say(&mut self, sleeping: bool) -> bool {
        match self.queue.set_idle(self.daemon, self.of, sleeping).await {
            Ok(before) => {
                self.turn.comes_after(before);
                true
            }
            Err(error) => {
                metrics::database_error("daemon::set_idle");
                // One of the two is enough to say it.
                if self.of == IdleKind::Work {
                    warn!(error = %error, "Could not say whether this daemon sleeps; the poll finds the work");
                }
                false
            }
        }
    }
}
