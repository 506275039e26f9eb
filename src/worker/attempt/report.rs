//! Writes what an attempt found out, and releases its lease.

use std::time::{Duration, Instant};

use copyhold_core::domain::{Lease, NextAttempt, Outcome};
use copyhold_db::lease::{FencedWrite, Report, UnsettledWrite};
use tracing::{debug, info, warn};

use super::task::Runner;
use crate::metrics;

/// For how long the release of a locked row is retried, and how often.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);
const LOCKED_PAUSE: Duration = Duration::from_millis(100);

/// Between two attempts to note writes that may still arrive.
const NOTE_AGAIN_AFTER: Duration = Duration::from_secs(1);

impl Runner {
    pub(super) async fn write(&self, lease: &Lease, report: Report) -> FencedWrite {
        let written = report.clone();
        let answer = match self.held.until(&lease.key, lease.fence) {
            Some(until) => self.completer.write(report, until).await,
            None => FencedWrite::Superseded,
        };
        if answer == FencedWrite::FailureWritten {
            // The completer has logged it, with the reason.
            self.wake_claimer.wake();
        } else if answer == FencedWrite::Applied {
            log_written(lease, &written);
            if written.outcomes.iter().any(|(_, outcome)| !matches!(outcome, Outcome::Recorded { .. })) {
                self.wake_claimer.wake();
            }
        } else {
            info!(object.key = %lease.key, "Discarded result for {}: lease lost or object re-registered", lease.key);
        }
        answer
    }

    /// Notes writes that may still arrive at a store, without the lease, until that has succeeded. While PostgreSQL is
    /// unavailable nothing is claimed either; and if this process ends first, its leases are swept.
    pub(super) async fn note_unsettled(&self, lease: &Lease, writes: Vec<UnsettledWrite>) {
        if writes.is_empty() {
            return;
        }
        let mut complained = false;
        while let Err(error) = self.leases.note_unsettled(&writes).await {
            metrics::database_error("lease::note_unsettled");
            if !std::mem::replace(&mut complained, true) {
                warn!(object.key = %lease.key, error = %error, "Could not note that writes of {} may still arrive; trying again", lease.key);
            }
            tokio::time::sleep(NOTE_AGAIN_AFTER).await;
        }
        debug!(object.key = %lease.key, writes = writes.len(), "{} writes of {} may still arrive; what is recorded under them is read again", writes.len(), lease.key);
    }

    /// Releases a row that may still carry this attempt's fence: the key was registered again, or the daemon is to
    /// stop. Every request of the attempt has ended by now, so nothing of the old content can arrive at a target later.
    pub(in crate::worker) async fn release(&self, lease: &Lease) {
        let give_up_at = Instant::now() + RELEASE_WITHIN;
        let released = loop {
            let released = self.leases.release(&[(lease.key.clone(), lease.fence)]).await;
            match &released {
                // If this were left to the sweeper, an application's lock would look like a crash of the holder.
                Ok(answers)
                    if matches!(answers.first(), Some((.., FencedWrite::RowLocked))) && Instant::now() < give_up_at =>
                {
                    debug!(object.key = %lease.key, "Row of {} is locked by another transaction; retrying release", lease.key);
                    tokio::time::sleep(LOCKED_PAUSE).await;
                }
                Ok(_) | Err(_) => break released,
            }
        };
        // An object that was registered again while it was copied is due now, and nothing else wakes the claimer for
        // it.
        self.wake_claimer.wake();
        if let Ok(answers) = &released
            && matches!(answers.first(), Some((.., FencedWrite::Superseded)))
            && let Err(error) = self.leases.log_lost_lease(&lease.key, lease.fence).await
        {
            warn!(object.key = %lease.key, error = %error, "Could not append to the event log that the lease of {} is lost", lease.key);
        }
        if let Err(error) = released {
            warn!(object.key = %lease.key, error = %error, "Could not release the lease of {}; it will be swept", lease.key);
        }
    }
}

/// Logs and counts what is now on record.
fn log_written(lease: &Lease, report: &Report) {
    let key = &lease.key;
    for (replica, outcome) in &report.outcomes {
        match outcome {
            Outcome::Recorded { proof, .. } => {
                let bytes = report.content.map_or(0, |c| c.size_bytes);
                metrics::copied(replica, bytes, lease.age + lease.claimed.elapsed());
                for property in report.not_carried.iter().flatten().filter(|property| !property.is_tried()) {
                    metrics::not_carried(replica, *property);
                }
                debug!(object.key = %key, replica.id = %replica, bytes, proof = proof.as_str(), "Copy of {key} at {replica} is recorded");
            }
            Outcome::Failed { next, why } => {
                metrics::failed(replica, why.class);
                let (class, message) = (why.class, &why.message);
                match next {
                    NextAttempt::After { delay, .. } => {
                        warn!(object.key = %key, replica.id = %replica, %class, "Copy of {key} to {replica} failed ({class}), next try in {delay:.1?}: {message}");
                    }
                    NextAttempt::Parked => {
                        warn!(object.key = %key, replica.id = %replica, %class, "Copy of {key} to {replica} failed ({class}) and is parked: {message}");
                    }
                }
            }
            Outcome::Deferred { delay } => {
                debug!(object.key = %key, replica.id = %replica, "The copy of {key} to {replica} is deferred for {delay:.1?}");
            }
            Outcome::Cleared { why, .. } => {
                metrics::failed(replica, why.class);
                warn!(object.key = %key, replica.id = %replica, "{key} is not at {replica} though it was on record: {}", why.message);
            }
        }
    }
}
