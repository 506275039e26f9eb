use std::time::Duration;

use rand::RngExt as _;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    ears::Ears,
    herd::Turn,
    metrics,
    queue::{DaemonId, Moved, Queue, QueueError, SleepsFor},
    wake::{Wake, Waker},
};

/// Events of one transaction at most, so that it holds the log's lock for milliseconds.
const BATCH: usize = 200;
/// The promise: without any notice, events are found after this long.
const POLL: Duration = Duration::from_secs(5);
/// When it looks again after it has said that it sleeps: a transaction that looked before that may commit later.
const AFTER_SAYING_SO: [Duration; 3] = [Duration::ZERO, Duration::from_millis(50), Duration::from_secs(1)];
/// While another daemon moves some, or holds the log. What it has not seen may be what this one was woken for.
const NOT_NOW: Duration = Duration::from_millis(5);
const AWAY: Duration = Duration::from_secs(1);

/// Moves the events of other programs into the log, as soon as they are committed. Every daemon runs it; one moves at a
/// time.
#[derive(Debug)]
pub struct Mover {
    pub queue: Queue,
    pub daemon: DaemonId,
    /// Heard when there may be events.
    pub wake: Wake,
    pub ears: Ears,
    /// For this process's own readers of the log, who may not hear of it.
    pub grows: Waker,
}

/// What this daemon has told the others, and how often it has looked since.
#[derive(Debug, Clone, Copy)]
enum Sleep {
    Awake,
    Said { looks: usize, at: tokio::time::Instant },
}

impl Mover {
    /// Moves until `drain`.
    pub async fn run(mut self, drain: CancellationToken) {
        let mut sleep = Sleep::Awake;
        let mut turn = Turn::default();
        let mut failing = false;
        while !drain.is_cancelled() {
            self.wake.arm();
            let moved = self.queue.move_inbox(BATCH).await;
            let pause = match moved {
                Ok(Moved::Some) => {
                    metrics::inbox_moved(BATCH);
                    self.grows.wake();
                    failing = false;
                    self.awake(&mut sleep).await;
                    continue;
                }
                Ok(Moved::All(events)) => {
                    metrics::inbox_moved(events);
                    failing = false;
                    turn.found(events > 0);
                    if events > 0 {
                        self.grows.wake();
                    }
                    self.empty(&mut sleep, &mut turn).await
                }
                Ok(Moved::NotNow) => jittered(NOT_NOW),
                // Somebody else appends at the moment.
                Err(error) if error.is_contended() => jittered(NOT_NOW),
                Err(error) => {
                    failed(&error, std::mem::replace(&mut failing, true));
                    sleep = Sleep::Awake;
                    AWAY
                }
            };
            let Some(called) = drain.run_until_cancelled(self.wake.wait(pause)).await else { return };
            if called && matches!(sleep, Sleep::Said { .. }) {
                drain.run_until_cancelled(tokio::time::sleep(turn.wait())).await;
            }
        }
    }

    /// There is nothing more; returns how long to wait for a notice.
    async fn empty(&self, sleep: &mut Sleep, turn: &mut Turn) -> Duration {
        if !self.ears.are_open() {
            // Who appends would pay for notices that nobody hears.
            self.awake(sleep).await;
            return self.ears.poll(POLL);
        }
        match sleep {
            Sleep::Awake => match self.say(true).await {
                Ok(before) => {
                    turn.comes_after(before);
                    *sleep = Sleep::Said { looks: 1, at: tokio::time::Instant::now() };
                    AFTER_SAYING_SO[0]
                }
                Err(_) => AWAY,
            },
            Sleep::Said { looks, at } => {
                let pause = AFTER_SAYING_SO.get(*looks).copied();
                *looks += 1;
                if pause.is_none() && at.elapsed() > POLL {
                    // It may have been forgotten, and other daemons come and go.
                    if let Ok(before) = self.say(true).await {
                        turn.comes_after(before);
                        *at = tokio::time::Instant::now();
                    }
                }
                pause.unwrap_or(POLL)
            }
        }
    }

    async fn awake(&self, sleep: &mut Sleep) {
        if matches!(sleep, Sleep::Said { .. }) && self.say(false).await.is_ok() {
            *sleep = Sleep::Awake;
        }
    }

    async fn say(&self, sleeping: bool) -> Result<u32, QueueError> {
        let said = self.queue.set_sleeping(self.daemon, SleepsFor::Inbox, sleeping).await;
        said.inspect_err(|_| metrics::database_error("queue::set_sleeping"))
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
