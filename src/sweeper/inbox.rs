//! Moves events of other programs from the inbox into the log.

use std::time::Duration;

use copyhold_db::{DatabaseError, Duties, log::InboxMove};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    metrics,
    wakeup::{
        idle::{IdleRegistration, POLL, RETRY_EVERY},
        jitter::jittered,
        wake_channel::{WakeReceiver, WakeSender},
    },
};

/// Events of one transaction at most, so that it holds the log's lock for milliseconds.
const BATCH: usize = 200;
/// While another daemon moves some, or holds the log. What it has not seen may be what this one was woken for.
const NOT_NOW: Duration = Duration::from_millis(5);
/// After an event that PostgreSQL refuses; twice as long after each that follows.
const REFUSED: Duration = Duration::from_millis(50);

/// Moves the events of other programs into the log, as soon as they are committed. Every daemon runs it; one moves at a
/// time.
#[derive(Debug)]
pub struct InboxMover {
    pub duties: Duties,
    /// Woken when there may be events.
    pub wake: WakeReceiver,
    pub idle: IdleRegistration,
    /// Wakes this process's own readers of the log, which may not be notified.
    pub grows: WakeSender,
}

impl InboxMover {
    /// Moves until `drain`.
    pub async fn run(mut self, drain: CancellationToken) {
        let mut failing = false;
        // How many more are moved one by one, because one of them is refused.
        let mut singly = 0_usize;
        // Events in a row that were refused.
        let mut refused = 0_u32;
        while !drain.is_cancelled() {
            self.wake.arm();
            let most = if singly > 0 { 1 } else { BATCH };
            singly = singly.saturating_sub(1);
            let moved = self.duties.move_inbox(most).await;
            let pause = match moved {
                Ok(InboxMove::Some) => {
                    refused = 0;
                    metrics::inbox_moved(most);
                    self.grows.wake();
                    failing = false;
                    self.idle.clear().await;
                    continue;
                }
                Ok(InboxMove::All(events)) => {
                    metrics::inbox_moved(events);
                    failing = false;
                    self.idle.stagger.record(events > 0);
                    if events > 0 {
                        self.grows.wake();
                    }
                    self.idle.register().await.whole()
                }
                Ok(InboxMove::Locked) => jittered(NOT_NOW),
                // Another transaction appends at the moment.
                Err(error) if error.is_conflict() => jittered(NOT_NOW),
                Err(error) if error.may_concern_one_row() && most > 1 => {
                    singly = BATCH;
                    NOT_NOW
                }
                Err(error) if error.may_concern_one_row() => {
                    self.defer_first(&error, std::mem::replace(&mut failing, true)).await;
                    refused += 1;
                    jittered((REFUSED * 2_u32.pow(refused.min(16))).min(POLL))
                }
                Err(error) => {
                    failed(&error, std::mem::replace(&mut failing, true));
                    self.idle.invalidate();
                    RETRY_EVERY
                }
            };
            let Some(called) = drain.run_until_cancelled(self.wake.wait(pause)).await else { return };
            if called {
                debug!("Woken by a notification for the inbox");
            }
            if called && self.idle.is_registered() {
                drain.run_until_cancelled(tokio::time::sleep(self.idle.stagger.wait())).await;
            }
        }
    }
}

impl InboxMover {
    /// The first event is refused: it goes behind the others, and is tried again when they are moved.
    async fn defer_first(&self, why: &DatabaseError, logged: bool) {
        metrics::database_error("log::move_inbox");
        match self.duties.defer_first_of_inbox().await {
            Ok(Some(id)) if !logged => {
                error!(id, error = %why, "PostgreSQL refuses to put an event of another program into the log; it waits in log_inbox as {id} behind the others");
            }
            Ok(_) => {}
            Err(error) => failed(&error, logged),
        }
    }
}

fn failed(error: &DatabaseError, logged: bool) {
    metrics::database_error("log::move_inbox");
    // The claimer logs that PostgreSQL is unavailable.
    if !logged && !error.is_unavailable() {
        warn!(error = %error, "Could not move events of other programs into the log; trying again every second");
    }
}
