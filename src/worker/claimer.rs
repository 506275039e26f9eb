//! Claims as many rows as there are free slots, and waits when there are none.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use copyhold_core::domain::{Lease, ReplicaName, TRIAL_OBJECTS};
use copyhold_db::{
    Database, DatabaseError,
    daemon::Daemon,
    lease::{ClaimError, LanePosition},
    replica::ProbeKeyChoice,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    floor::Floor,
    lanes::{Choice, Lanes},
    run::{Claim, Runner},
    slots::{Room, Slot, Slots},
    suspects::{Admitted, Suspects},
    trial::{Trial, Wanted},
    unanswered::Unanswered,
    walk::Walk,
};
use crate::{
    metrics,
    sleeper::{AWAY, POLL, Rest, Sleeper},
    wake::Wake,
};

/// Rows of one claim at most.
const BATCH: usize = 64;
/// Retries that are due within this time of one another are found together.
const AT_LEAST: Duration = Duration::from_millis(50);
/// How often it looks for fresh objects while all other slots are taken.
const FRESH_EVERY: Duration = Duration::from_millis(500);

/// Asks for as much work as there are free slots, and no more.
#[derive(Debug)]
pub struct Claimer {
    queue: Database,
    daemon: Daemon,
    lanes: Lanes,
    runner: Arc<Runner>,
    slots: Slots,
    suspects: Suspects,
    /// The objects under way.
    running: TaskTracker,
    calls: Calls,
    sleeper: Sleeper,
    floors: HashMap<ReplicaName, Floor>,
    unanswered: Unanswered,
    /// Where it looks for objects with a source while the primary is none.
    walks: HashMap<ReplicaName, Walk>,
    /// When it may look for fresh objects again.
    fresh_at: Instant,
}

/// What ends a claimer's rest before its time.
#[derive(Debug)]
pub struct Calls {
    /// This process has made something claimable, or has seen that it is.
    pub own: Wake,
    /// All daemons are told so.
    pub notices: Wake,
}

/// What came of asking every lane once.
enum Pass {
    /// Rows were found.
    Found(usize),
    /// None was, but some lanes were not asked from their beginning; they may be after this time.
    NotWholly(Duration),
    /// None had a source among those that were looked at; the next may be looked at after this time.
    Walking(Duration),
    /// There is none.
    Nothing,
    /// No slot is free, or some target has no permit left and the others have no work: something must end first,
    /// or this time come.
    Full(Instant),
}

/// Why a rest has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    ByNotice,
    Otherwise,
}

/// How much of what there may be is asked for.
///
/// At ten objects a second eight idle daemons sent 44 statements per object, one alone 9, and taking turns alone changed nothing
/// about that (43). With those who do not come first asking one lane it is 29.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    AllLanes,
    /// Of what was just announced. A daemon that comes first asks for all of it, and most objects lack copies in most lanes; what
    /// lacks one in another lane only, while that daemon is hung or has died, waits for the poll.
    OneLane,
}

impl Claimer {
    #[must_use]
    pub fn new(
        daemon: Daemon,
        runner: Runner,
        slots: Slots,
        running: TaskTracker,
        calls: Calls,
        sleeper: Sleeper,
    ) -> Self {
        let (queue, lanes) = (runner.queue.clone(), runner.lanes.clone());
        let (floors, walks) = (HashMap::new(), HashMap::new());
        let runner = Arc::new(runner);
        let (suspects, unanswered, fresh_at) = (Suspects::new(), Unanswered::default(), Instant::now());
        Self {
            queue,
            daemon,
            lanes,
            runner,
            slots,
            suspects,
            running,
            calls,
            sleeper,
            floors,
            unanswered,
            walks,
            fresh_at,
        }
    }

    /// Claims until `drain`.
    pub async fn run(mut self, drain: CancellationToken) {
        self.claim_until(drain).await;
        // What this cannot free any more is swept.
        let _ = self.free_unanswered().await;
    }

    async fn claim_until(&mut self, drain: CancellationToken) {
        let mut passes = 0;
        let mut away = false;
        let mut look = Look::AllLanes;
        // Until when there is no reason to look without a notice.
        let mut rest_until = Instant::now();
        while !drain.is_cancelled() {
            self.calls.own.arm();
            self.calls.notices.arm();
            // Not in a `select!`: a claim that is cut off has leased rows to nobody.
            let pass = self.pass(passes, look, &drain).await;
            passes += 1;
            if pass.is_ok() && std::mem::take(&mut away) {
                info!("PostgreSQL is back");
            }
            let looked = std::mem::replace(&mut look, Look::AllLanes);
            let pause = match pass {
                Ok(Pass::Nothing | Pass::NotWholly(_)) if looked == Look::OneLane => {
                    self.sleeper.turn.found(false);
                    rest_until.saturating_duration_since(Instant::now())
                }
                Ok(Pass::Nothing) => self.nothing().await,
                Ok(Pass::Walking(pause)) => pause,
                Ok(Pass::NotWholly(pause)) => self.nothing().await.min(pause),
                Ok(Pass::Found(rows)) => {
                    self.sleeper.turn.found(true);
                    // Still on the list of sleepers, it would be woken by inserts that it is going to find anyway; but
                    // taking it off and on for every single object costs more than that.
                    if rows >= BATCH {
                        self.sleeper.rouse().await;
                    }
                    continue;
                }
                Ok(Pass::Full(until)) => {
                    let pause = until.saturating_duration_since(Instant::now());
                    let runner = Arc::clone(&self.runner);
                    tokio::select! {
                        () = drain.cancelled() => return,
                        () = runner.freed.notified() => {}
                        _ = self.calls.wait(pause) => {}
                    }
                    continue;
                }
                Err(error) => {
                    metrics::database_error("lease::claim");
                    if !std::mem::replace(&mut away, true) {
                        warn!(error = %error, "Could not look for work, trying again every second");
                    }
                    self.sleeper.forget();
                    AWAY
                }
            };
            rest_until = Instant::now() + pause;
            let Some(woken) = drain.run_until_cancelled(self.calls.wait(pause)).await else { return };
            if woken == Woken::ByNotice {
                debug!("Woken by a notification");
            }
            if woken == Woken::ByNotice && self.sleeper.is_asleep() && !self.sleeper.turn.is_first() {
                let rest = self.calls.own.wait(self.sleeper.turn.wait());
                // What this process knows itself is not waited for, and is asked for everywhere.
                match drain.run_until_cancelled(rest).await {
                    Some(false) => look = Look::OneLane,
                    Some(true) => {}
                    None => return,
                }
            }
        }
    }

    /// Asks each lane once, beginning with another one each time; none that comes after `drain`.
    async fn pass(&mut self, turn: usize, look: Look, drain: &CancellationToken) -> Result<Pass, DatabaseError> {
        self.free_unanswered().await?;
        let sourceless = !self.lanes.primary_is_readable();
        let tried = if sourceless { 0 } else { self.pass_trials().await? };
        if tried > 0 {
            return Ok(Pass::Found(tried));
        }
        let open = self.lanes.open().len();
        if open == 0 {
            return Ok(Pass::Nothing);
        }
        let lanes = match self.lanes.choose(Room::Any) {
            Choice::Ask { lanes, .. } if self.slots.free(Room::Any) > 0 => lanes,
            Choice::Ask { .. } | Choice::Wait => {
                if sourceless {
                    return Ok(Pass::Full(Instant::now() + FRESH_EVERY));
                }
                let found = self.pass_fresh().await?;
                return Ok(if found == 0 { Pass::Full(self.fresh_at) } else { Pass::Found(found) });
            }
        };
        if sourceless {
            return self.pass_walking(&lanes).await;
        }
        self.walks.clear();
        let mut found = 0;
        let mut not_wholly = None;
        let asked_for = if look == Look::OneLane { 1 } else { lanes.len() };
        for i in 0..asked_for {
            let lane = &lanes[(turn + i) % lanes.len()];
            if drain.is_cancelled() {
                return Ok(Pass::Found(found));
            }
            // The lanes before this one have taken permits.
            let Choice::Ask { rows, .. } = self.lanes.choose(Room::Any) else { return Ok(Pass::Found(found)) };
            let slots = self.slots.take(Room::Any, rows.min(BATCH));
            if slots.is_empty() {
                return Ok(Pass::Found(found));
            }
            let floor = self.floors.entry(lane.clone()).or_default();
            let asked = Instant::now();
            let question = floor.question(asked);
            let claimed = self.queue.claim(&self.daemon, lane, slots.len(), question.from).await;
            let claimed = Self::answered(&mut self.unanswered, claimed)?;
            let answered = Instant::now();
            let filled = claimed.leases.len() == slots.len();
            floor.answered(question, claimed.last_position, filled, answered);
            if question.from != LanePosition::BEGINNING {
                not_wholly = not_wholly.max(Some(floor.until_beginning(answered)));
            }
            metrics::claimed(claimed.leases.len(), answered - asked);
            found += claimed.leases.len();
            self.start(claimed.leases, slots, Room::Any);
        }
        Ok(match (found, not_wholly) {
            // A lane that was not asked may be full of work, for as soon as it has a permit again.
            (0, _) if lanes.len() < open => Pass::Full(Instant::now() + FRESH_EVERY),
            (0, None) => Pass::Nothing,
            (0, Some(pause)) => Pass::NotWholly(pause),
            (found, _) => Pass::Found(found),
        })
    }

    /// Looks on in each lane for objects that can be read although the primary cannot, and takes those.
    async fn pass_walking(&mut self, lanes: &[ReplicaName]) -> Result<Pass, DatabaseError> {
        let holders = self.lanes.readable();
        let (mut found, mut rest) = (0, None);
        for lane in lanes {
            let Choice::Ask { rows, .. } = self.lanes.choose(Room::Any) else { break };
            let slots = self.slots.take(Room::Any, rows.min(BATCH));
            if slots.is_empty() || holders.is_empty() {
                break;
            }
            let walk = self.walks.entry(lane.clone()).or_insert_with(Walk::new);
            let asked = Instant::now();
            let sought = self.queue.peek(lane, walk.from(asked), &holders, slots.len()).await?;
            let answered = Instant::now();
            walk.went(&sought, answered);
            rest = rest.max(walk.rest(answered - asked));
            if !sought.keys.is_empty() {
                let leases = self.queue.claim_these(&self.daemon, &sought.keys).await;
                let leases = Self::answered(&mut self.unanswered, leases)?;
                metrics::claimed(leases.len(), answered.elapsed());
                found += leases.len();
                self.start(leases, slots, Room::Any);
            }
        }
        Ok(match (found, rest) {
            (0, None) => Pass::Nothing,
            (0, Some(rest)) => Pass::Walking(rest),
            (found, _) => Pass::Found(found),
        })
    }

    /// Takes the objects that are to be tried at replicas whose stores may be at fault; returns how many were found. They
    /// need no slots: those may all be taken by objects whose failures wait for this.
    async fn pass_trials(&mut self) -> Result<usize, DatabaseError> {
        let mut found = 0;
        while let Some(order) = self.lanes.take_trial() {
            let Wanted { pick, tried, .. } = &order.wanted;
            let most = if *pick == ProbeKeyChoice::Smallest { 1 } else { TRIAL_OBJECTS };
            let keys = self.queue.probe_keys(&order.replica, *pick, most, None, &tried.keys()).await?;
            tried.add(&keys);
            if keys.is_empty() {
                order.nothing_due();
                continue;
            }
            let asked = Instant::now();
            let leases = self.queue.claim_these(&self.daemon, &keys).await;
            let leases = Self::answered(&mut self.unanswered, leases)?;
            metrics::claimed(leases.len(), asked.elapsed());
            found += leases.len();
            for lease in leases {
                self.start_one(lease, None, Room::Any, Some(order.of_one()));
            }
        }
        Ok(found)
    }

    /// Asks for fresh objects while everything else is busy.
    async fn pass_fresh(&mut self) -> Result<usize, DatabaseError> {
        let mut found = 0;
        if Instant::now() < self.fresh_at {
            return Ok(found);
        }
        self.fresh_at = Instant::now() + FRESH_EVERY;
        let Choice::Ask { lanes, .. } = self.lanes.choose(Room::Fresh) else { return Ok(found) };
        for lane in &lanes {
            let Choice::Ask { rows, .. } = self.lanes.choose(Room::Fresh) else { break };
            let slots = self.slots.take(Room::Fresh, rows.min(BATCH));
            if slots.is_empty() {
                break;
            }
            let asked = Instant::now();
            let claimed = self.queue.claim_fresh(&self.daemon, lane, slots.len()).await;
            let claimed = Self::answered(&mut self.unanswered, claimed)?;
            metrics::claimed(claimed.leases.len(), asked.elapsed());
            found += claimed.leases.len();
            self.start(claimed.leases, slots, Room::Fresh);
        }
        Ok(found)
    }

    /// What the claim has got, or a note that it may have got something.
    fn answered<T>(unanswered: &mut Unanswered, claimed: Result<T, ClaimError>) -> Result<T, DatabaseError> {
        claimed.map_err(|error| {
            if let Some(fence) = error.unanswered {
                unanswered.remember(fence, Instant::now());
            }
            error.cause
        })
    }

    /// Frees what was leased to nobody, before more is asked for.
    async fn free_unanswered(&mut self) -> Result<(), DatabaseError> {
        let now = Instant::now();
        for fence in self.unanswered.due(now) {
            let rows = self.queue.unclaim(fence).await?;
            self.unanswered.asked(fence, now);
            if rows > 0 {
                metrics::claims_unanswered(rows);
                info!(rows, "Freed {rows} rows of a claim whose answer was lost");
            }
        }
        Ok(())
    }

    fn start(&self, leases: Vec<Lease>, slots: Vec<Slot>, room: Room) {
        for (lease, slot) in leases.into_iter().zip(slots) {
            self.start_one(lease, Some(slot), room, None);
        }
    }

    /// The object keeps its slot until its result is written, or it only waits for a slow target.
    fn start_one(&self, lease: Lease, slot: Option<Slot>, room: Room, trial: Option<Trial>) {
        let runner = Arc::clone(&self.runner);
        let alone = match self.suspects.admit(&lease) {
            Admitted::Yes(alone) => alone,
            Admitted::NotBefore(rest) => return self.put_off(lease, slot, rest),
        };
        // Here and not in the task: what is asked for next must see which permits are taken.
        let journal = runner.journals.of(&lease);
        let (mut job, permits, reading) = self.lanes.job(&lease, room, trial.as_ref(), journal);
        if job.sources.is_empty() {
            return self.put_off(lease, slot, self.runner.health.without_source());
        }
        self.running.spawn(async move {
            runner.recall(&lease, &mut job).await;
            runner.run(lease, job, permits, Claim { slot, reading, trial }).await;
            drop(alone);
            runner.freed.notify_one();
        });
    }

    fn put_off(&self, lease: Lease, slot: Option<Slot>, rest: Duration) {
        let runner = Arc::clone(&self.runner);
        self.running.spawn(async move {
            runner.put_off(&lease, rest).await;
            drop(slot);
            runner.freed.notify_one();
        });
    }

    /// How long to wait for a notice before the next pass.
    async fn nothing(&mut self) -> Duration {
        match self.sleeper.nothing().await {
            Rest::For(rest) => rest,
            Rest::AtMost(bound) => self.until_due().await.clamp(AT_LEAST, bound),
        }
    }

    /// How long until the next retry; whatever else comes is announced, or found by the poll.
    async fn until_due(&self) -> Duration {
        match self.queue.next_due(&self.lanes.open()).await {
            Ok(due) => due.unwrap_or(POLL),
            // The next claim will say it.
            Err(_) => POLL,
        }
    }
}

impl Calls {
    /// Ends with the first call since both were armed, or after `pause` ± 20 %.
    async fn wait(&mut self, pause: Duration) -> Woken {
        tokio::select! {
            () = self.notices.heard() => Woken::ByNotice,
            _ = self.own.wait(pause) => Woken::Otherwise,
        }
    }
}
