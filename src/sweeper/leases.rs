//! Frees rows whose lease has expired, unless the database's clock has jumped.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use copyhold_db::{
    DatabaseError, Duties,
    connections::LogThrottle,
    lease::{ClockCorrection, ReclaimedLease},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::clock::{ClockTrust, ClockWatch};
use crate::{
    metrics,
    wakeup::{jitter::jittered, wake_channel::WakeSender},
};

/// Of objects that were abandoned again, those that are named: the ones it happened to most often.
const SUSPECTS_NAMED: usize = 5;

/// Frees rows whose lease has ended without its holder. Several daemons may run it; one acts at a time.
#[derive(Debug)]
pub struct Sweeper {
    pub duties: Duties,
    pub every: Duration,
    pub lease_time: Duration,
    /// After this time nothing that a dead holder has sent still arrives at a store.
    pub settle: Duration,
    pub waker: WakeSender,
}

impl Sweeper {
    /// Sweeps until `drain`.
    pub async fn run(self, drain: CancellationToken) {
        let mut watch = ClockWatch::new(self.lease_time);
        let throttle = LogThrottle::new();
        loop {
            match self.sweep(&mut watch).await {
                Ok(()) => throttle.is_over(),
                Err(error) => {
                    metrics::database_error("lease::reclaim");
                    throttle.fails(|times| {
                        warn!(error = %error, times, "Could not query expired leases; trying again");
                    });
                }
            }
            tokio::select! {
                () = drain.cancelled() => return,
                () = tokio::time::sleep(jittered(self.every)) => {}
            }
        }
    }

    /// Brings forward what a clock that was ahead has deferred, also when no daemon has seen it set back.
    async fn pull_in(&self, trust: ClockTrust) {
        let set_back = matches!(trust, ClockTrust::Stepped(seconds) if seconds < 0);
        match self.duties.pull_in(set_back, self.lease_time).await {
            Ok(None) => {}
            Ok(Some(ClockCorrection { ahead, copies })) => {
                warn!(
                    ahead_s = ahead.as_secs(),
                    copies,
                    "The database's clock was set back, by {ahead:.0?} or so: {copies} copies that waited are due now, and so are \
                     probes and figures"
                );
                self.waker.wake();
            }
            Err(error) => {
                metrics::database_error("lease::pull_in");
                // The sweep logs that PostgreSQL is unavailable.
                if !error.is_unavailable() {
                    warn!(error = %error, "Could not bring forward times that lie in the future; trying again");
                }
            }
        }
    }

    async fn sweep(&self, watch: &mut ClockWatch) -> Result<(), DatabaseError> {
        if self.duties.note_crash().await? {
            warn!(
                "PostgreSQL has crashed, and claims may be lost with it, since they commit asynchronously; copies that are \
                 recorded within the next minutes are read again"
            );
        }
        let database_us = self.duties.database_now().await?;
        let trust = watch.look(Instant::now(), database_us);
        self.pull_in(trust).await;
        match trust {
            ClockTrust::Yes => {}
            ClockTrust::NotYet => return Ok(()),
            ClockTrust::Stepped(seconds) => {
                warn!(
                    seconds,
                    "The database's clock has moved {seconds} s more than time has; no lease is freed for {:?}",
                    self.lease_time
                );
                return Ok(());
            }
        }
        loop {
            let freed = self.duties.reclaim(self.settle).await?;
            if freed.is_empty() {
                return Ok(());
            }
            metrics::leases_swept(freed.len());
            log_freed(&freed);
            self.waker.wake();
        }
    }
}

/// Logs one line per dead holder, with one of its keys, and one per object that may be what they died of.
fn log_freed(freed: &[ReclaimedLease]) {
    let mut by_holder: BTreeMap<i32, (usize, &ReclaimedLease)> = BTreeMap::new();
    for one in freed {
        by_holder.entry(one.holder.number()).or_insert((0, one)).0 += 1;
    }
    for (holder, (leases, example)) in by_holder {
        info!(
            daemon = holder,
            leases,
            object.key = %example.key,
            "Freed {leases} leases that daemon {holder} has let run out, {} for one",
            example.key
        );
    }
    let mut again: Vec<_> = freed.iter().filter(|one| one.times > 1).collect();
    metrics::abandoned_again(again.len());
    again.sort_by_key(|one| std::cmp::Reverse(one.times));
    for one in again.iter().take(SUSPECTS_NAMED) {
        let ReclaimedLease { key, holder, times } = one;
        warn!(
            object.key = %key,
            daemon = holder.number(),
            times,
            "{key} has lost its holder {times} times in a row, daemon {holder} the last: it waits longer each time and is \
             copied alone. If those daemons died of it, `copyhold park` puts it aside"
        );
    }
    if again.len() > SUSPECTS_NAMED {
        let more = again.len() - SUSPECTS_NAMED;
        warn!(objects = again.len(), "{more} more objects have lost their holders several times in a row");
    }
}
