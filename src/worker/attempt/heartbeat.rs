//! Renews the leases of this process with one statement.

use std::time::{Duration, Instant};

use copyhold_db::{Leases, connections::LogThrottle, daemon::Daemon, lease::FencedWrite};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::held_leases::HeldLeases;
use crate::metrics;

/// Renews the leases of this process, and stops copies whose lease cannot be renewed.
///
/// It has a connection of its own. One statement renews all; a row that another transaction has locked is renewed with
/// the next one. Its copy stops only when the lease is about to expire.
#[derive(Debug)]
pub struct Heartbeat {
    pub leases: Leases,
    pub daemon: Daemon,
    pub held: HeldLeases,
    pub every: Duration,
}

impl Heartbeat {
    /// Beats until `end`.
    pub async fn run(self, end: CancellationToken) {
        // A tenth of the lease is left for the copies under way to notice and stop.
        let margin = self.daemon.lease_timeout / 10;
        let look = (self.every / 3).min(Duration::from_secs(1));
        let mut next_beat = Instant::now() + self.every;
        let throttle = LogThrottle::new();
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                () = tokio::time::sleep(look) => {}
            }
            if Instant::now() >= next_beat {
                // After a failure the next round tries again at once.
                if self.beat(&throttle).await {
                    throttle.is_over();
                    next_beat = Instant::now() + self.every;
                }
            }
            let expiring = self.held.mark_expiring_lost(margin);
            if !expiring.is_empty() {
                metrics::leases_lost(expiring.len());
                warn!(leases = expiring.len(), "Could not renew leases in time; their copies stop");
            }
        }
    }

    /// Whether the database answered.
    async fn beat(&self, throttle: &LogThrottle) -> bool {
        let asked = self.held.to_renew();
        let sent = Instant::now();
        let answers = match self.leases.renew(&asked, self.daemon.lease_timeout).await {
            Ok(answers) => answers,
            Err(error) => return failed(&error, throttle),
        };
        for (key, fence, answer) in answers {
            match answer {
                FencedWrite::Applied => self.held.extend(&key, fence, sent + self.daemon.lease_timeout),
                FencedWrite::Superseded if self.held.mark_lost(&key, fence) => {
                    metrics::leases_lost(1);
                    warn!(object.key = %key, "The lease of {key} is lost, or the key was registered again; its copy stops");
                }
                // It is renewed with the next statement; or its copy ended meanwhile.
                FencedWrite::RowLocked | FencedWrite::Superseded | FencedWrite::FailureWritten => {}
            }
        }
        match self.leases.heartbeat(&self.daemon).await {
            Ok(()) => true,
            Err(error) => failed(&error, throttle),
        }
    }
}

fn failed(error: &copyhold_db::DatabaseError, throttle: &LogThrottle) -> bool {
    metrics::database_error("lease::renew");
    throttle.fails(|times| warn!(error = %error, times, "The heartbeat failed, trying again"));
    false
}
