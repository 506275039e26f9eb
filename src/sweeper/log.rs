//! Keeps the log within its retention: new partitions ahead of need, old ones dropped.

use std::time::{Duration, Instant};

use copyhold_db::{
    DatabaseError, Duties,
    log::{LogDuty, Retention},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{metrics, wakeup::jitter::jittered};

/// A duty that has failed for so long is logged: some transaction blocks it.
const PATIENCE: Duration = Duration::from_hours(1);
/// Partitions dropped in one go at most; the rest is the next sweep's.
const AT_ONCE: usize = 32;

/// Keeps the log within its retention: partitions are made ahead, and the old ones dropped. Several daemons may run it;
/// one acts at a time.
#[derive(Debug)]
pub struct LogSweeper {
    pub duties: Duties,
    pub every: Duration,
    pub retention: Retention,
}

/// The recent results of one duty.
#[derive(Debug, Default)]
struct DutyLog {
    failing_since: Option<Instant>,
    reported: bool,
}

impl LogSweeper {
    /// Sweeps until `drain`.
    pub async fn run(self, drain: CancellationToken) {
        let mut records: [DutyLog; LogDuty::ALL.len()] = Default::default();
        loop {
            for (duty, record) in LogDuty::ALL.into_iter().zip(&mut records) {
                record.record(duty, self.perform(duty).await);
            }
            match self.duties.log_bytes().await {
                Ok(bytes) => metrics::log_bytes(bytes, self.every),
                Err(_) => metrics::database_error("log::bytes"),
            }
            if drain.run_until_cancelled(tokio::time::sleep(jittered(self.every))).await.is_none() {
                return;
            }
        }
    }

    async fn perform(&self, duty: LogDuty) -> Result<(), DatabaseError> {
        let times = if duty == LogDuty::Drop { AT_ONCE } else { 1 };
        for _ in 0..times {
            if !self.duties.tidy_log(duty, self.retention).await? {
                break;
            }
            if duty == LogDuty::Drop {
                metrics::log_partition_dropped();
                info!("Dropped a partition of the log: its events exceeded the retention by age or size");
            }
        }
        Ok(())
    }
}

impl DutyLog {
    fn record(&mut self, duty: LogDuty, result: Result<(), DatabaseError>) {
        let Err(error) = result else {
            *self = Self::default();
            return;
        };
        metrics::database_error(duty.name());
        // Other sessions read the log or append to it at this moment: the duty gives way, and is done next time.
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        // The claimer logs that PostgreSQL is unavailable.
        let worth_saying = if error.is_lock_timeout() { since.elapsed() > PATIENCE } else { !error.is_unavailable() };
        if worth_saying && !std::mem::replace(&mut self.reported, true) {
            warn!(
                error = %error,
                "Could not maintain the log ({}); trying again at each sweep. Is a transaction that has read it open for long?",
                duty.name()
            );
        }
    }
}
