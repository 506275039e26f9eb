//! Reads the figures of `/metrics` from PostgreSQL, so that a scrape sends no statement and waits for none.

use std::time::Duration;

use copyhold_db::{
    Duties,
    stats::{ReplicaStatus, count_interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::{self, BacklogFigures, ReplicaFigures},
    wakeup::jitter::jittered,
};

/// How often they are read.
const READ_EVERY: Duration = Duration::from_secs(5);

/// Reads until `end`, from before PostgreSQL was ever reached.
pub async fn watch(duties: Duties, end: CancellationToken) {
    loop {
        let Some(read) = end.run_until_cancelled(duties.figures()).await else { return };
        match read {
            // A read-only server counts as unavailable: no work is done, and its figures do not change.
            Ok(figures) if figures.writable => {
                metrics::database_read(&figures.replicas.iter().map(of_replica).collect::<Vec<_>>());
                metrics::notification_queue(figures.notification_queue.unwrap_or_default());
            }
            Ok(_) => metrics::database_away(),
            // The claimer logs that PostgreSQL is unavailable.
            Err(_) => {
                metrics::database_error("stats::figures");
                metrics::database_away();
            }
        }
        let pause = jittered(READ_EVERY);
        if end.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

fn of_replica(status: &ReplicaStatus) -> ReplicaFigures {
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let backlog = || {
        Some(BacklogFigures {
            counted_ago: seconds(status.counted_seconds_ago?),
            counted_every: count_interval(seconds(status.count_took_seconds?)),
            objects: status.backlog_objects?,
            bytes: status.backlog_bytes?,
            in_flight: status.in_flight?,
            waiting: status.waiting?,
            parked: status.parked?,
            oldest_age_seconds: status.oldest_age_seconds.unwrap_or_default(),
            recorded: status.recorded,
        })
    };
    ReplicaFigures {
        replica: status.replica.clone(),
        draining: status.draining_seconds.is_some(),
        paused: status.paused,
        breaker_open: status.breaker.is_some(),
        backlog: backlog(),
    }
}
