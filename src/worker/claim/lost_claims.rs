//! Claims whose answer was lost, and when to free their rows. Pure.

use std::time::{Duration, Instant};

use copyhold_core::domain::Fence;
use copyhold_db::connections::STATEMENT_TIMEOUT;

/// Past a statement's time, on its way to the server and back.
const CERTAINLY_OVER: Duration = STATEMENT_TIMEOUT.saturating_add(Duration::from_secs(5));

/// Claims whose answer was lost. The rows that they leased have no worker, so the claimer frees them before it claims
/// more. It does so once more when the statement has certainly ended, since that may still run during the first time.
#[derive(Debug, Default)]
pub(super) struct LostClaims(Vec<LostClaim>);

#[derive(Debug)]
struct LostClaim {
    fence: Fence,
    since: Instant,
    asked: bool,
}

impl LostClaims {
    pub(super) fn remember(&mut self, fence: Fence, now: Instant) {
        self.0.push(LostClaim { fence, since: now, asked: false });
    }

    /// Those to ask for now.
    pub(super) fn due(&self, now: Instant) -> Vec<Fence> {
        let due = |claim: &&LostClaim| !claim.asked || claim.is_over(now);
        self.0.iter().filter(due).map(|claim| claim.fence).collect()
    }

    /// It was asked for at `now`, and PostgreSQL has answered.
    pub(super) fn asked(&mut self, fence: Fence, now: Instant) {
        self.0.retain(|claim| claim.fence != fence || !claim.is_over(now));
        for claim in self.0.iter_mut().filter(|claim| claim.fence == fence) {
            claim.asked = true;
        }
    }
}

impl LostClaim {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= CERTAINLY_OVER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_claim_is_asked_for_at_once_and_again_when_it_has_certainly_ended() {
        let (fence, start) = (Fence(7), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let mut lost = LostClaims::default();
        lost.remember(fence, start);
        assert_eq!(lost.due(start), [fence]);
        // PostgreSQL is still unavailable: nothing is removed.
        assert_eq!(lost.due(at(1)), [fence]);
        lost.asked(fence, at(2));
        assert!(lost.due(at(3)).is_empty() && lost.due(at(30)).is_empty());
        assert_eq!(lost.due(at(36)), [fence]);
        lost.asked(fence, at(36));
        assert!(lost.due(at(100)).is_empty());
    }

    #[test]
    fn a_lost_claim_is_asked_for_once_if_that_is_late_enough() {
        let (fence, start) = (Fence(7), Instant::now());
        let mut lost = LostClaims::default();
        lost.remember(fence, start);
        lost.asked(fence, start + Duration::from_mins(1));
        assert!(lost.due(start + Duration::from_mins(2)).is_empty());
    }
}
