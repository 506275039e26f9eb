//! The loop of the claimer: passes over the lanes, and waits in between for notifications, free slots or the poll.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use copyhold_core::domain::{Lease, ReplicaName};
use copyhold_db::{Leases, daemon::Daemon};
use futures::future::join_all;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    crash_suspects::{CrashSuspects, SuspectAdmission},
    lane_scan::SourcelessScan,
    lost_claims::LostClaims,
    low_water_mark::LowWaterMark,
    pass::{BATCH, LanesToAsk, PassResult},
};
use crate::{
    metrics,
    wakeup::{
        idle::{IdleRegistration, POLL, RETRY_EVERY, WaitFor},
        wake_channel::WakeReceiver,
    },
    worker::{
        attempt::{AttemptResources, Runner},
        replica::{ProbeCopy, ReplicaRegistry},
        slots::{Slot, SlotPool, Slots},
    },
};

/// Retries that are due within this time of one another are found together.
const AT_LEAST: Duration = Duration::from_millis(50);
/// Claims as many rows as there are free slots, and no more.
#[derive(Debug)]
pub struct Claimer {
    pub(super) leases: Leases,
    pub(super) daemon: Daemon,
    pub(super) registry: ReplicaRegistry,
    pub(super) runner: Arc<Runner>,
    pub(super) slots: Slots,
    pub(super) suspects: CrashSuspects,
    /// The objects under way.
    pub(super) running: TaskTracker,
    pub(super) wakeups: ClaimWakeups,
    pub(super) idle: IdleRegistration,
    pub(super) marks: HashMap<ReplicaName, LowWaterMark>,
    pub(super) lost_claims: LostClaims,
    /// The scans for objects that have a source while the primary cannot be read.
    pub(super) scans: HashMap<ReplicaName, SourcelessScan>,
    /// When it may ask for recently registered objects again.
    pub(super) recent_at: Instant,
    /// Take on nothing new.
    pub(super) drain: CancellationToken,
    /// The leases of claims whose answers came after that.
    pub(super) late: Vec<Lease>,
}

/// What ends a claimer's wait before its time.
#[derive(Debug)]
pub struct ClaimWakeups {
    /// This process has made something claimable, or has seen that it is.
    pub own: WakeReceiver,
    /// A notification from PostgreSQL.
    pub notifications: WakeReceiver,
}

/// Why a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WakeReason {
    Notification,
    OwnOrTimeout,
}

impl Claimer {
    #[must_use]
    pub fn new(
        daemon: Daemon,
        runner: Runner,
        slots: Slots,
        running: TaskTracker,
        wakeups: ClaimWakeups,
        idle: IdleRegistration,
        drain: CancellationToken,
    ) -> Self {
        let (leases, registry) = (runner.leases.clone(), runner.registry.clone());
        let (marks, scans) = (HashMap::new(), HashMap::new());
        let runner = Arc::new(runner);
        let (suspects, lost_claims, recent_at) = (CrashSuspects::new(), LostClaims::default(), Instant::now());
        Self {
            leases,
            daemon,
            registry,
            runner,
            slots,
            suspects,
            running,
            wakeups,
            idle,
            marks,
            lost_claims,
            scans,
            recent_at,
            drain,
            late: Vec::new(),
        }
    }

    /// Claims until `drain`. A claim that is under way then is not cut off, and what it leases is released at once: the
    /// daemon has logged that it claims no more, and an object of hours would hold up its end.
    pub async fn run(mut self) {
        self.claim_until_drained().await;
        join_all(self.late.iter().map(|lease| self.runner.release(lease))).await;
        // What this cannot free any more is swept.
        let _ = self.free_lost_claims().await;
    }

    async fn claim_until_drained(&mut self) {
        let drain = self.drain.clone();
        let mut passes = 0;
        let mut away = false;
        let mut lanes_to_ask = LanesToAsk::All;
        // Until when there is no reason to look without a notification.
        let mut rest_until = Instant::now();
        while !drain.is_cancelled() {
            self.wakeups.own.arm();
            self.wakeups.notifications.arm();
            // Not in a `select!`: a claim that is cut off may have leased rows that no worker has.
            let pass = self.pass(passes, lanes_to_ask).await;
            passes += 1;
            if pass.is_ok() && std::mem::take(&mut away) {
                info!("PostgreSQL is back");
            }
            let asked_lanes = std::mem::replace(&mut lanes_to_ask, LanesToAsk::All);
            let pause = match pass {
                Ok(PassResult::Empty | PassResult::Partial(_)) if asked_lanes == LanesToAsk::One => {
                    self.idle.stagger.record(false);
                    rest_until.saturating_duration_since(Instant::now())
                }
                Ok(PassResult::Empty) => self.idle_pause().await,
                Ok(PassResult::Scanning(pause)) => pause,
                Ok(PassResult::Partial(pause)) => self.idle_pause().await.min(pause),
                Ok(PassResult::Claimed(rows)) => {
                    self.idle.stagger.record(true);
                    // While it is registered as idle, INSERTs notify it of rows that it is going to find anyway. But to
                    // clear and renew the registration for every single object costs more than that.
                    if rows >= BATCH {
                        self.idle.clear().await;
                    }
                    continue;
                }
                Ok(PassResult::Full(until)) => {
                    let pause = until.saturating_duration_since(Instant::now());
                    let runner = Arc::clone(&self.runner);
                    tokio::select! {
                        () = drain.cancelled() => return,
                        () = runner.freed.notified() => {}
                        _ = self.wakeups.wait(pause) => {}
                    }
                    continue;
                }
                Err(error) => {
                    metrics::database_error("lease::claim");
                    if !std::mem::replace(&mut away, true) {
                        warn!(error = %error, "Could not look for work; trying again every second");
                    }
                    self.idle.invalidate();
                    RETRY_EVERY
                }
            };
            rest_until = Instant::now() + pause;
            let Some(woken) = drain.run_until_cancelled(self.wakeups.wait(pause)).await else { return };
            if woken == WakeReason::Notification {
                debug!("Woken by a notification");
            }
            if woken == WakeReason::Notification && self.idle.is_registered() && !self.idle.stagger.is_first() {
                let rest = self.wakeups.own.wait(self.idle.stagger.wait());
                // Work that this process has found itself is not waited for, and every lane is asked.
                match drain.run_until_cancelled(rest).await {
                    Some(false) => lanes_to_ask = LanesToAsk::One,
                    Some(true) => {}
                    None => return,
                }
            }
        }
    }

    pub(super) fn start(&mut self, leases: Vec<Lease>, slots: Vec<Slot>, pool: SlotPool) {
        for (lease, slot) in leases.into_iter().zip(slots) {
            self.start_one(lease, Some(slot), pool, None);
        }
    }

    /// Starts an attempt. The object keeps its slot until its result is written, or it only waits for a slow target.
    pub(super) fn start_one(
        &mut self,
        lease: Lease,
        slot: Option<Slot>,
        pool: SlotPool,
        probe_copy: Option<ProbeCopy>,
    ) {
        if self.drain.is_cancelled() {
            return self.late.push(lease);
        }
        let runner = Arc::clone(&self.runner);
        let alone = match self.suspects.admit(&lease) {
            SuspectAdmission::Admitted(alone) => alone,
            SuspectAdmission::Deferred(rest) => return self.defer(lease, slot, rest),
        };
        // Here and not in the task: what is asked for next must see which permits are taken.
        let journal = runner.journals.of(&lease);
        let (mut job, permits, active_read) = self.registry.job(&lease, pool, probe_copy.as_ref(), journal);
        if job.sources.is_empty() {
            return self.defer(lease, slot, self.runner.health.without_source());
        }
        self.running.spawn(async move {
            runner.recall(&lease, &mut job).await;
            runner.run(lease, job, permits, AttemptResources { slot, active_read, probe_copy }).await;
            drop(alone);
            runner.freed.notify_one();
        });
    }

    fn defer(&self, lease: Lease, slot: Option<Slot>, rest: Duration) {
        let runner = Arc::clone(&self.runner);
        self.running.spawn(async move {
            runner.defer(&lease, rest).await;
            drop(slot);
            runner.freed.notify_one();
        });
    }

    /// Returns how long to wait for a notification before the next pass.
    async fn idle_pause(&mut self) -> Duration {
        match self.idle.register().await {
            WaitFor::Exactly(rest) => rest,
            WaitFor::AtMost(bound) => self.until_due().await.clamp(AT_LEAST, bound),
        }
    }

    /// Returns how long until the next retry; other work is notified, or found by the poll.
    async fn until_due(&self) -> Duration {
        match self.leases.next_due(&self.registry.writable()).await {
            Ok(due) => due.unwrap_or(POLL),
            // The next claim logs the error.
            Err(_) => POLL,
        }
    }
}

impl ClaimWakeups {
    /// Returns at the first signal since both were armed, or after `pause` ± 20 %.
    async fn wait(&mut self, pause: Duration) -> WakeReason {
        tokio::select! {
            () = self.notifications.notified() => WakeReason::Notification,
            _ = self.own.wait(pause) => WakeReason::OwnOrTimeout,
        }
    }
}
