use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{lanes::Lanes, run::Runner};
use crate::{
    metrics,
    queue::{Daemon, Queue, QueueError},
    wake::Wake,
};

/// Rows of one claim at most.
const BATCH: usize = 64;
/// The promise: without any notice, work is found after this long.
const POLL: Duration = Duration::from_secs(5);
/// When it looks again after it has said that it sleeps: a transaction that looked before that may commit later.
const AFTER_SAYING_SO: [Duration; 3] = [Duration::ZERO, Duration::from_millis(50), Duration::from_secs(1)];
/// Retries that are due within this time of one another are found together.
const AT_LEAST: Duration = Duration::from_millis(50);
const AWAY: Duration = Duration::from_secs(1);

/// Asks for as much work as there are free slots, and no more.
#[derive(Debug)]
pub struct Claimer {
    pub queue: Queue,
    pub daemon: Daemon,
    pub lanes: Lanes,
    pub runner: Arc<Runner>,
    pub slots: Arc<Semaphore>,
    /// The objects under way.
    pub running: TaskTracker,
    pub wake: Wake,
}

/// What this daemon has told the others about itself.
enum Sleep {
    /// It works, and need not be woken.
    Awake,
    /// It has said that it sleeps, and has still to look this many times more at once.
    Said(usize),
}

impl Claimer {
    /// Claims until `drain`.
    pub async fn run(mut self, drain: CancellationToken) {
        let mut turn = 0;
        let mut sleep = Sleep::Awake;
        let mut away = false;
        while !drain.is_cancelled() {
            self.wake.arm();
            // Not in a `select!`: a claim that is cut off has leased rows to nobody.
            let pass = self.pass(turn, &drain).await;
            turn += 1;
            let pause = match pass {
                Ok(found) => {
                    if std::mem::take(&mut away) {
                        info!("PostgreSQL is back");
                    }
                    self.after(found, &mut sleep).await
                }
                Err(error) => {
                    metrics::database_error("queue::claim");
                    if !std::mem::replace(&mut away, true) {
                        warn!(error = %error, "Could not look for work, trying again every second");
                    }
                    // What it said before the outage may be forgotten.
                    sleep = Sleep::Awake;
                    Some(AWAY)
                }
            };
            let Some(pause) = pause else { continue };
            tokio::select! {
                () = drain.cancelled() => return,
                _ = self.wake.wait(pause) => {}
            }
        }
    }

    /// Asks each lane once, beginning with another one each time. How many rows it found.
    async fn pass(&self, turn: usize, drain: &CancellationToken) -> Result<usize, QueueError> {
        let lanes = self.lanes.open();
        let mut found = 0;
        for i in 0..lanes.len() {
            let lane = &lanes[(turn + i) % lanes.len()];
            let first = tokio::select! {
                () = drain.cancelled() => return Ok(found),
                slot = self.slot() => slot,
            };
            let free = 1 + self.slots.available_permits();
            let asked = Instant::now();
            let leases = self.queue.claim(&self.daemon, lane, free.min(BATCH)).await?;
            metrics::claimed(leases.len(), asked.elapsed());
            found += leases.len();
            let mut first = Some(first);
            for lease in leases {
                let slot = match first.take() {
                    Some(slot) => slot,
                    // Cannot wait: only this task takes slots, and there were as many.
                    None => self.slot().await,
                };
                let runner = Arc::clone(&self.runner);
                self.running.spawn(async move {
                    runner.run(lease).await;
                    drop(slot);
                });
            }
        }
        Ok(found)
    }

    async fn slot(&self) -> OwnedSemaphorePermit {
        // Cannot fail: nobody closes the semaphore.
        Arc::clone(&self.slots).acquire_owned().await.expect("the slots are never closed")
    }

    /// How long to wait for a notice before the next pass; `None`: not at all.
    async fn after(&self, found: usize, sleep: &mut Sleep) -> Option<Duration> {
        match sleep {
            _ if found > 0 => {
                // Still on the list of sleepers, it would be woken by inserts that it is going to find anyway;
                // but taking it off and on for every single object costs more than that.
                if matches!(sleep, Sleep::Said(_)) && found >= BATCH {
                    self.say(false).await;
                    *sleep = Sleep::Awake;
                }
                None
            }
            Sleep::Awake => {
                if !self.say(true).await {
                    return Some(AWAY);
                }
                *sleep = Sleep::Said(1);
                Some(AFTER_SAYING_SO[0])
            }
            Sleep::Said(looks) => {
                let pause = AFTER_SAYING_SO.get(*looks).copied();
                *looks += 1;
                Some(match pause {
                    Some(pause) => pause,
                    None => self.until_due().await.clamp(AT_LEAST, POLL),
                })
            }
        }
    }

    /// How long until the next retry; whatever else comes is announced, or found by the poll.
    async fn until_due(&self) -> Duration {
        match self.queue.next_due(&self.lanes.open()).await {
            Ok(due) => due.unwrap_or(POLL),
            // The next claim will say it.
            Err(_) => POLL,
        }
    }

    async fn say(&self, sleeping: bool) -> bool {
        let said = self.queue.set_sleeping(self.daemon.id, sleeping).await;
        if let Err(error) = &said {
            metrics::database_error("queue::set_sleeping");
            warn!(error = %error, "Could not say whether this daemon sleeps; the poll finds the work");
        }
        said.is_ok()
    }
}
