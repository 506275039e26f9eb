use std::time::Duration;

use rand::RngExt as _;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    metrics,
    queue::{Moved, Queue, QueueError},
    sleeper::{AWAY, Sleeper},
    wake::{Wake, Waker},
};

/// Events of one transaction at most, so that it holds the log's lock for milliseconds.
const BATCH: usize = 200;
/// While another daemon moves some, or holds the log. What it has not seen may be what this one was woken for.
const NOT_NOW: Duration = Duration::from_millis(5);

/// Moves the events of other programs into the log, as soon as they are committed. Every daemon runs it; one moves at a
/// time.
#[derive(Debug)]
pub struct Mover {
    pub queue: Queue,
    /// Heard when there may be events.
    pub wake: Wake,
    pub sleeper: Sleeper,
    /// For this process's own readers of the log, who may not hear of it.
    pub grows: Waker,
}

impl Mover {
    /// Moves until `drain`.
    pub async fn run(mut self, drain: CancellationToken) {
        let mut failing = false;
        while !drain.is_cancelled() {
            self.wake.arm();
            let moved = self.queue.move_inbox(BATCH).await;
            let pause = match moved {
                Ok(Moved::Some) => {
                    metrics::inbox_moved(BATCH);
                    self.grows.wake();
                    failing = false;
                    self.sleeper.rouse().await;
                    continue;
                }
                Ok(Moved::All(events)) => {
                    metrics::inbox_moved(events);
                    failing = false;
                    self.sleeper.turn.found(events > 0);
                    if events > 0 {
                        self.grows.wake();
                    }
                    self.sleeper.nothing().await.whole()
                }
                Ok(Moved::NotNow) => jittered(NOT_NOW),
                // Somebody else appends at the moment.
                Err(error) if error.is_contended() => jittered(NOT_NOW),
                Err(error) => {
                    failed(&error, std::mem::replace(&mut failing, true));
                    self.sleeper.forget();
                    AWAY
                }
            };
            let Some(called) = drain.run_until_cancelled(self.wake.wait(pause)).await else { return };
            if called && self.sleeper.is_asleep() {
                drain.run_until_cancelled(tokio::time::sleep(self.sleeper.turn.wait())).await;
            }
        }
    }
}

fn failed(error: &QueueError, said: bool) {
    metrics::database_error("queue::move_inbox");
    // The claims will say that PostgreSQL is away.
    if !said && !error.is_away() {
        warn!(error = %error, "The events of other programs could not be moved into the log, trying again every second");
    }
}

/// ± 20 %, so that daemons do not march in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.8..1.2))
}
