//! One pass over the lanes: how many rows to ask each for, and which claim statement to use.

use std::time::{Duration, Instant};

use copyhold_core::domain::{ReplicaName, TRIAL_OBJECTS};
use copyhold_db::{
    DatabaseError,
    lease::{ClaimError, LanePosition},
    replica::ProbeKeyChoice,
};
use tracing::info;

use super::{claimer::Claimer, lane_scan::SourcelessScan, lost_claims::LostClaims};
use crate::{
    metrics,
    worker::{
        replica::{LaneChoice, ProbeCopyRequest},
        slots::SlotPool,
    },
};

/// Rows of one claim at most.
pub(super) const BATCH: usize = 64;
/// How often the claimer asks for recently registered objects while all other slots are taken.
const RECENT_EVERY: Duration = Duration::from_millis(500);

/// The result of asking every lane once.
#[derive(Debug)]
pub(super) enum PassResult {
    /// So many rows were claimed.
    Claimed(usize),
    /// None was, but some lanes were not asked from their beginning. They may be after this time.
    Partial(Duration),
    /// None had a source among those that were read; the scan may continue after this time.
    Scanning(Duration),
    /// There is no work.
    Empty,
    /// No slot is free, or some target has no permit left and the others have no work: something must end first,
    /// or this time come.
    Full(Instant),
}

/// How many lanes a pass asks.
///
/// At ten objects a second eight idle daemons sent 44 statements per object, one alone 9. Staggered looks alone changed
/// nothing about that (43). If only the first daemon asks all lanes and the others ask one, it is 29.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LanesToAsk {
    All,
    /// After a notification, if another daemon looks first: that one asks all lanes, and most objects lack copies in
    /// most lanes. An object that is due in another lane only, while that daemon hangs or has died, waits for the poll.
    One,
}

impl Claimer {
    /// Asks each lane once, beginning with another one each time; none after `drain`.
    pub(super) async fn pass(&mut self, turn: usize, lanes_to_ask: LanesToAsk) -> Result<PassResult, DatabaseError> {
        self.free_lost_claims().await?;
        let sourceless = !self.registry.primary_is_readable();
        let probed = if sourceless { 0 } else { self.pass_probe_copies().await? };
        if probed > 0 {
            return Ok(PassResult::Claimed(probed));
        }
        let writable = self.registry.writable().len();
        if writable == 0 {
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
            let claimed = self.leases.claim(&self.daemon, lane, slots.len(), query.from).await;
            let claimed = Self::check_answer(&mut self.lost_claims, claimed)?;
            let answered = Instant::now();
            let filled = claimed.leases.len() == slots.len();
            mark.record_answer(query, claimed.last_position, filled, answered);
            if query.from != LanePosition::BEGINNING {
                partial = partial.max(Some(mark.until_beginning(answered)));
            }
            metrics::claimed(claimed.leases.len(), answered - asked);
            found += claimed.leases.len();
            self.start(claimed.leases, slots, SlotPool::General);
        }
        Ok(match (found, partial) {
            // A lane that was not asked may be full of work, for as soon as it has a permit again.
            (0, _) if lanes.len() < writable => PassResult::Full(Instant::now() + RECENT_EVERY),
            (0, None) => PassResult::Empty,
            (0, Some(pause)) => PassResult::Partial(pause),
            (found, _) => PassResult::Claimed(found),
        })
    }

    /// Continues the scan of each lane for objects that can be read although the primary cannot, and claims those.
    async fn pass_sourceless(&mut self, lanes: &[ReplicaName]) -> Result<PassResult, DatabaseError> {
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
            let sought = self.leases.peek(lane, scan.from(asked), &holders, slots.len()).await?;
            let answered = Instant::now();
            scan.advance(&sought, answered);
            rest = rest.max(scan.rest(answered - asked));
            if !sought.keys.is_empty() {
                let leases = self.leases.claim_these(&self.daemon, &sought.keys).await;
                let leases = Self::check_answer(&mut self.lost_claims, leases)?;
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

    /// Claims the objects that are to be tried at replicas whose stores may be at fault; returns how many were found.
    /// They need no slots: those may all be taken by objects whose failures wait for this result.
    async fn pass_probe_copies(&mut self) -> Result<usize, DatabaseError> {
        let mut found = 0;
        while let Some(order) = self.registry.take_probe_copy_order() {
            let ProbeCopyRequest { pick, tried, .. } = &order.request;
            let most = if *pick == ProbeKeyChoice::Smallest { 1 } else { TRIAL_OBJECTS };
            let keys = self.leases.probe_keys(&order.replica, *pick, most, None, &tried.keys()).await?;
            tried.add(&keys);
            if keys.is_empty() {
                order.nothing_due();
                continue;
            }
            let asked = Instant::now();
            let leases = self.leases.claim_these(&self.daemon, &keys).await;
            let leases = Self::check_answer(&mut self.lost_claims, leases)?;
            metrics::claimed(leases.len(), asked.elapsed());
            found += leases.len();
            for lease in leases {
                self.start_one(lease, None, SlotPool::General, Some(order.of_one()));
            }
        }
        Ok(found)
    }

    /// Asks for recently registered objects while all other slots are taken.
    async fn pass_recent(&mut self) -> Result<usize, DatabaseError> {
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
            let claimed = self.leases.claim_fresh(&self.daemon, lane, slots.len()).await;
            let claimed = Self::check_answer(&mut self.lost_claims, claimed)?;
            metrics::claimed(claimed.leases.len(), asked.elapsed());
            found += claimed.leases.len();
            self.start(claimed.leases, slots, SlotPool::Recent);
        }
        Ok(found)
    }

    /// Returns what the claim has got, or remembers that it may have got something.
    fn check_answer<T>(unanswered: &mut LostClaims, claimed: Result<T, ClaimError>) -> Result<T, DatabaseError> {
        claimed.map_err(|error| {
            if let Some(fence) = error.unanswered {
                unanswered.remember(fence, Instant::now());
            }
            error.cause
        })
    }

    /// Frees the rows of claims whose answer was lost, before more are claimed.
    pub(super) async fn free_lost_claims(&mut self) -> Result<(), DatabaseError> {
        let now = Instant::now();
        for fence in self.lost_claims.due(now) {
            let rows = self.leases.unclaim(fence).await?;
            self.lost_claims.asked(fence, now);
            if rows > 0 {
                metrics::claims_unanswered(rows);
                info!(rows, "Freed {rows} rows of a claim whose answer was lost");
            }
        }
        Ok(())
    }
}
