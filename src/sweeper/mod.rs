//! What dead workers left behind, here and at the stores, the figures of the backlog, the log's size and what other
//! programs put into it: duties that one daemon at a time performs. And two that each performs: it warns where daemons
//! differ, and looks after sequences.

mod clock;
mod differences;
mod inbox;
mod leases;
mod log;
mod sequences;
mod uploads;

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use differences::watch_differences;
pub use inbox::InboxMover;
pub use leases::Sweeper;
pub use log::LogSweeper;
pub use sequences::{mend_sequences, watch_sequences};
pub use uploads::{AbortScope, AbortScopes, OrphanedUploads};

use copyhold_db::Duties;

use crate::{metrics, wakeup::jitter::jittered};

/// How often it is asked whether the backlog is to be counted; the statement itself decides.
const BACKLOG_EVERY: Duration = Duration::from_secs(2);
/// A count that came to nothing has cost as much as one that did not: this daemon tries again after this many times as
/// long.
const REST_AFTER_FAILURE: u32 = 50;

/// Keeps the table `backlog` up to date until `drain`.
pub async fn count_backlog(duties: Duties, drain: CancellationToken) {
    let mut failing = false;
    loop {
        let mut pause = BACKLOG_EVERY;
        let asked = Instant::now();
        match duties.refresh_backlog().await {
            Ok(_) => failing = false,
            Err(error) => {
                metrics::database_error("stats::refresh_backlog");
                pause = pause.max(asked.elapsed() * REST_AFTER_FAILURE);
                if !std::mem::replace(&mut failing, true) {
                    warn!(error = %error, "Could not count the backlog; trying again");
                }
            }
        }
        tokio::select! {
            () = drain.cancelled() => return,
            () = tokio::time::sleep(jittered(pause)) => {}
        }
    }
}
