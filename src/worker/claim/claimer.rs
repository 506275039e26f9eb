//! Claims as many rows as there are free slots, and waits when there are none.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use copyhold_core::domain::{Lease, ReplicaName, TRIAL_OBJECTS};
use copyhold_db::queue::{ClaimError, Daemon, Pick, Position, Queue, QueueError};
use futures::future::join_all;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    crash_suspects::{CrashSuspects, SuspectAdmission},
    lane_scan::SourcelessScan,
    lost_claims::LostClaims,
    low_water_mark::LowWaterMark,
};
use crate::{
    metrics,
    wakeup::{
        idle::{IdleRegistration, POLL, RETRY_EVERY, WaitFor},
        wake_channel::WakeReceiver,
    },
    worker::{
        attempt::{AttemptResources, Runner},
        replica::{LaneChoice, ProbeCopy, ProbeCopyRequest, ReplicaRegistry},
        slots::{Slot, SlotPool, Slots},
    },
};

/// Rows of one claim at most.
const BATCH: usize = 64;
/// Retries that are due within this time of one another are found together.
const AT_LEAST: Duration = Duration::from_millis(50);
/// How often it looks for fresh objects while all other slots are taken.
const RECENT_EVERY: Duration = Duration::from_millis(500);

/// Asks for as much work as there are free slots, and no more.
#[derive(Debug)]
pub struct Claimer {
    queue: Queue,
    daemon: Daemon,
    registry: ReplicaRegistry,
    runner: Arc<Runner>,
    slots: Slots,
    suspects: CrashSuspects,
    /// The objects under way.
    running: TaskTracker,
    wakeups: ClaimWakeups,
    idle: IdleRegistration,
    marks: HashMap<ReplicaName, LowWaterMark>,
    lost_claims: LostClaims,
    /// Where it looks for objects with a source while the primary is none.
    scans: HashMap<ReplicaName, SourcelessScan>,
    /// When it may look for fresh objects again.
    recent_at: Instant,
    /// Take on nothing new.
    drain: CancellationToken,
    /// The leases of claims whose answers came after that.
    late: Vec<Lease>,
}

/// What ends a claimer's rest before its time.
#[derive(Debug)]
pub struct ClaimWakeups {
    /// This process has made something claimable, or has seen that it is.
    pub own: WakeReceiver,
    /// All daemons are told so.
    pub notifications: WakeReceiver,
}

/// What came of asking every lane once.
enum PassResult {
    /// Rows were found.
    Claimed(usize),
    /// None was, but some lanes were not asked from their beginning; they may be after this time.
    Partial(Duration),
    /// None had a source among those that were looked at; the next may be looked at after this time.
    Scanning(Duration),
    /// There is none.
    Empty,
    /// No slot is free, or some target has no permit left and the others have no work: something must end first,
    /// or this time come.
    Full(Instant),
}

/// Why a rest has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WakeReason {
    Notification,
    OwnOrTimeout,
}

/// How much of what there may be is asked for.
///
/// At ten objects a second eight idle daemons sent 44 statements per object, one alone 9, and taking turns alone changed nothing
/// about that (43). With those who do not come first asking one lane it is 29.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LanesToAsk {
    All,
    /// Of what was just announced. A daemon that comes first asks for all of it, and most objects lack copies in most lanes; what
    /// lacks one in another lane only, while that daemon is hung or has died, waits for the poll.
    One,
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
        let (queue, registry) = (runner.queue.clone(), runner.registry.clone());
        let (marks, scans) = (HashMap::new(), HashMap::new());
        let runner = Arc::new(runner);
        let (suspects, lost_claims, recent_at) = (CrashSuspects::new(), LostClaims::default(), Instant::now());
        Self {
            queue,
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
        let _ = self.free_unanswered().await;
    }

    async fn claim_until_drained(&mut self) {
        let drain = self.drain.clone();
        let mut passes = 0;
        let mut away = false;
        let mut lanes_to_ask = LanesToAsk::All;
        // Until when there is no reason to look without a notice.
        let mut rest_until = Instant::now();
        while !drain.is_cancelled() {
            self.wakeups.own.arm();
            self.wakeups.notifications.arm();
            // Not in a `select!`: a claim that is cut off has leased rows to nobody.
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
                    // Still on the list of sleepers, it would be woken by inserts that it is going to find anyway; but
                    // taking it off and on for every single object costs more than that.
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
                    metrics::database_error("queue::claim");
                    if !std::mem::replace(&mut away, true) {
                        warn!(error = %error, "Could not look for work, trying again every second");
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
                // What this process knows itself is not waited for, and is asked for everywhere.
                match drain.run_until_cancelled(rest).await {
                    Some(false) => lanes_to_ask = LanesToAsk::One,
                    Some(true) => {}
                    None => return,
                }
            }
        }
    }

    /// Asks each lane once, beginning with another one each time; none that comes after `drain`.
    async fn pass(&mut self, turn: usize, lanes_to_ask: LanesToAsk) -> Result<PassResult, QueueError> {
        self.free_unanswered().await?;
        let sourceless = !self.registry.primary_is_readable();
        let tried = if sourceless { 0 } else { self.pass_probe_copies().await? };
        if tried > 0 {
            return Ok(PassResult::Claimed(tried));
        }
        let open = self.registry.writable().len();
        if open == 0 {
            return Ok(PassResult::Empty);
        }
        let lanes = match self.registry.choose(SlotPool::General) {
            LaneChoice::Ask { lanes, .. } if self.slots.free(SlotPool::General) > 0 => lanes,
            LaneChoice::Ask { .. } | LaneChoice::Wait => {
                if sourceless {
                    return Ok(PassResult::Full(Instant::now() + RECENT_EVERY));
                }
                let found = self.pass_recent().await?;
                return Ok(if found == 0 { PassResult::Full(self.recent_at) } else { PassResult::Claimed(found) });
            }
        };
        if sourceless {
            return self.pass_sourceless(&lanes).await;
        }
        self.scans.clear();
        let mut found = 0;
        let mut partial = None;
        let asked_for = if lanes_to_ask == LanesToAsk::One { 1 } else { lanes.len() };
        for i in 0..asked_for {
            let lane = &lanes[(turn + i) % lanes.len()];
            if self.drain.is_cancelled() {
                return Ok(PassResult::Claimed(found));
            }
            // The lanes before this one have taken permits.
            let LaneChoice::Ask { rows, .. } = self.registry.choose(SlotPool::General) else {
                return Ok(PassResult::Claimed(found));
            };
            let slots = self.slots.take(SlotPool::General, rows.min(BATCH));
            if slots.is_empty() {
                return Ok(PassResult::Claimed(found));
            }
            let mark = self.marks.entry(lane.clone()).or_default();
            let asked = Instant::now();
            let query = mark.query(asked);
            let claimed = self.queue.claim(&self.daemon, lane, slots.len(), query.from).await;
            let claimed = Self::answered(&mut self.lost_claims, claimed)?;
            let answered = Instant::now();
            let filled = claimed.leases.len() == slots.len();
            mark.record_answer(query, claimed.last, filled, answered);
            if query.from != Position::BEGINNING {
                partial = partial.max(Some(mark.until_beginning(answered)));
            }
            metrics::claimed(claimed.leases.len(), answered - asked);
            found += claimed.leases.len();
            self.start(claimed.leases, slots, SlotPool::General);
        }
        Ok(match (found, partial) {
            // A lane that was not asked may be full of work, for as soon as it has a permit again.
            (0, _) if lanes.len() < open => PassResult::Full(Instant::now() + RECENT_EVERY),
            (0, None) => PassResult::Empty,
            (0, Some(pause)) => PassResult::Partial(pause),
            (found, _) => PassResult::Claimed(found),
        })
    }

    /// Looks on in each lane for objects that can be read although the primary cannot, and takes those.
    async fn pass_sourceless(&mut self, lanes: &[ReplicaName]) -> Result<PassResult, QueueError> {
        let holders = self.registry.readable();
        let (mut found, mut rest) = (0, None);
        for lane in lanes {
            let LaneChoice::Ask { rows, .. } = self.registry.choose(SlotPool::General) else { break };
            let slots = self.slots.take(SlotPool::General, rows.min(BATCH));
            if slots.is_empty() || holders.is_empty() {
                break;
            }
            let scan = self.scans.entry(lane.clone()).or_insert_with(SourcelessScan::new);
            let asked = Instant::now();
            let sought = self.queue.seek(lane, scan.from(asked), &holders, slots.len()).await?;
            let answered = Instant::now();
            scan.advance(&sought, answered);
            rest = rest.max(scan.rest(answered - asked));
            if !sought.keys.is_empty() {
                let leases = self.queue.claim_these(&self.daemon, &sought.keys).await;
                let leases = Self::answered(&mut self.lost_claims, leases)?;
                metrics::claimed(leases.len(), answered.elapsed());
                found += leases.len();
                self.start(leases, slots, SlotPool::General);
            }
        }
        Ok(match (found, rest) {
            (0, None) => PassResult::Empty,
            (0, Some(rest)) => PassResult::Scanning(rest),
            (found, _) => PassResult::Claimed(found),
        })
    }

    /// Takes the objects that are to be tried at replicas whose stores may be at fault; returns how many were found. They
    /// need no slots: those may all be taken by objects whose failures wait for this.
    async fn pass_probe_copies(&mut self) -> Result<usize, QueueError> {
        let mut found = 0;
        while let Some(order) = self.registry.take_probe_copy_order() {
            let ProbeCopyRequest { pick, tried, .. } = &order.request;
            let most = if *pick == Pick::Smallest { 1 } else { TRIAL_OBJECTS };
            let keys = self.queue.trial_keys(&order.replica, *pick, most, None, &tried.keys()).await?;
            tried.add(&keys);
            if keys.is_empty() {
                order.nothing_due();
                continue;
            }
            let asked = Instant::now();
            let leases = self.queue.claim_these(&self.daemon, &keys).await;
            let leases = Self::answered(&mut self.lost_claims, leases)?;
            metrics::claimed(leases.len(), asked.elapsed());
            found += leases.len();
            for lease in leases {
                self.start_one(lease, None, SlotPool::General, Some(order.of_one()));
            }
        }
        Ok(found)
    }

    /// Asks for fresh objects while everything else is busy.
    async fn pass_recent(&mut self) -> Result<usize, QueueError> {
        let mut found = 0;
        if Instant::now() < self.recent_at {
            return Ok(found);
        }
        self.recent_at = Instant::now() + RECENT_EVERY;
        let LaneChoice::Ask { lanes, .. } = self.registry.choose(SlotPool::Recent) else { return Ok(found) };
        for lane in &lanes {
            let LaneChoice::Ask { rows, .. } = self.registry.choose(SlotPool::Recent) else { break };
            let slots = self.slots.take(SlotPool::Recent, rows.min(BATCH));
            if slots.is_empty() {
                break;
            }
            let asked = Instant::now();
            let claimed = self.queue.claim_fresh(&self.daemon, lane, slots.len()).await;
            let claimed = Self::answered(&mut self.lost_claims, claimed)?;
            metrics::claimed(claimed.leases.len(), asked.elapsed());
            found += claimed.leases.len();
            self.start(claimed.leases, slots, SlotPool::Recent);
        }
        Ok(found)
    }

    /// What the claim has got, or a note that it may have got something.
    fn answered<T>(unanswered: &mut LostClaims, claimed: Result<T, ClaimError>) -> Result<T, QueueError> {
        claimed.map_err(|error| {
            if let Some(fence) = error.unanswered {
                unanswered.remember(fence, Instant::now());
            }
            error.cause
        })
    }

    /// Frees what was leased to nobody, before more is asked for.
    async fn free_unanswered(&mut self) -> Result<(), QueueError> {
        let now = Instant::now();
        for fence in self.lost_claims.due(now) {
            let rows = self.queue.unclaim(fence).await?;
            self.lost_claims.asked(fence, now);
            if rows > 0 {
                metrics::claims_unanswered(rows);
                info!(rows, "Freed {rows} rows of a claim whose answer was lost");
            }
        }
        Ok(())
    }

    fn start(&mut self, leases: Vec<Lease>, slots: Vec<Slot>, pool: SlotPool) {
        for (lease, slot) in leases.into_iter().zip(slots) {
            self.start_one(lease, Some(slot), pool, None);
        }
    }

    /// The object keeps its slot until its result is written, or it only waits for a slow target.
    fn start_one(&mut self, lease: Lease, slot: Option<Slot>, pool: SlotPool, probe_copy: Option<ProbeCopy>) {
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

    /// How long to wait for a notice before the next pass.
    async fn idle_pause(&mut self) -> Duration {
        match self.idle.register().await {
            WaitFor::Exactly(rest) => rest,
            WaitFor::AtMost(bound) => self.until_due().await.clamp(AT_LEAST, bound),
        }
    }

    /// How long until the next retry; whatever else comes is announced, or found by the poll.
    async fn until_due(&self) -> Duration {
        match self.queue.next_due(&self.registry.writable()).await {
            Ok(due) => due.unwrap_or(POLL),
            // The next claim will say it.
            Err(_) => POLL,
        }
    }
}

impl ClaimWakeups {
    /// Ends with the first call since both were armed, or after `pause` ± 20 %.
    async fn wait(&mut self, pause: Duration) -> WakeReason {
        tokio::select! {
            () = self.notifications.notified() => WakeReason::Notification,
            _ = self.own.wait(pause) => WakeReason::OwnOrTimeout,
        }
    }
}
