//! Keeps the log within its retention: new partitions ahead of need, old ones dropped.

use std::time::{Duration, Instant};

use copyhold_db::{
    Database, DatabaseError,
    log::{LogDuty, Retention},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::about;
use crate::metrics;

/// What has not come about for so long is said: somebody's transaction stands in the way.
const PATIENCE: Duration = Duration::from_hours(1);
/// Partitions dropped in one go at most; the rest is the next sweep's.
const AT_ONCE: usize = 32;

/// Keeps the log within its retention: partitions are made ahead, and the old ones dropped. Several daemons may run it; one
/// acts at a time.
#[derive(Debug)]
pub struct LogSweeper {
    pub queue: Database,
    pub every: Duration,
    pub retention: Retention,
}

/// How one duty has gone lately.
#[derive(Debug, Default)]
struct Record {
    failing_since: Option<Instant>,
    said: bool,
}

impl LogSweeper {
    /// Sweeps until `drain`.
    pub async fn run(self, drain: CancellationToken) {
        let mut records: [Record; LogDuty::ALL.len()] = Default::default();
        loop {
            for (duty, record) in LogDuty::ALL.into_iter().zip(&mut records) {
                record.took_place(duty, self.perform(duty).await);
            }
            match self.queue.log_bytes().await {
                Ok(bytes) => metrics::log_bytes(bytes, self.every),
                Err(_) => metrics::database_error("log::bytes"),
            }
            if drain.run_until_cancelled(tokio::time::sleep(about(self.every))).await.is_none() {
                return;
            }
        }
    }

    async fn perform(&self, duty: LogDuty) -> Result<(), DatabaseError> {
        let times = if duty == LogDuty::Drop { AT_ONCE } else { 1 };
        for _ in 0..times {
            if !self.queue.tidy_log(duty, self.retention).await? {
                break;
            }
            if duty == LogDuty::Drop {
                metrics::log_partition_dropped();
                info!(
                    "Dropped a partition of the log, whose events have been kept for long enough, or have become too many"
                );
            }
        }
        Ok(())
    }
}

impl Record {
    fn took_place(&mut self, duty: LogDuty, result: Result<(), DatabaseError>) {
        let Err(error) = result else {
            *self = Self::default();
            return;
        };
        metrics::database_error(duty.name());
        // Somebody reads the log, or appends to it, at this moment: it gives way to them, and is done next time.
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        // The claims will say that PostgreSQL is away.
        let worth_saying = if error.is_lock_timeout() { since.elapsed() > PATIENCE } else { !error.is_unavailable() };
        if worth_saying && !std::mem::replace(&mut self.said, true) {
            warn!(
                error = %error,
                "The log could not be tidied up ({}), trying again at each sweep: is a transaction open for long that has read it?",
                duty.name()
            );
        }
    }
}
