//! The leases of this process in memory, and the tokens that stop their copies.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use copyhold_core::domain::{Fence, Generation, Lease, ObjectKey};
use tokio_util::sync::CancellationToken;

use crate::metrics;

/// The leases that this process holds: what the heartbeat renews, and how a copy learns that it must stop.
#[derive(Debug, Clone, Default)]
pub struct HeldLeases(Arc<Mutex<HashMap<ObjectKey, HeldLease>>>);

#[derive(Debug)]
struct HeldLease {
    fence: Fence,
    generation: Generation,
    until: Instant,
    lost: CancellationToken,
    /// Its last report is being written: the row may be free already, and then the lease is not lost.
    ending: bool,
}

impl HeldLeases {
    /// Registers a lease; the token is cancelled when it is lost, or when `stop` is.
    ///
    /// An older lease of the same row is over, or we could not have claimed it again. If its copy does not know that
    /// yet, only this method can stop it: the heartbeat renews the new lease.
    pub fn register(&self, lease: &Lease, stop: &CancellationToken) -> CancellationToken {
        let lost = stop.child_token();
        let holding = HeldLease {
            fence: lease.fence,
            generation: lease.generation,
            until: lease.until,
            lost: lost.clone(),
            ending: false,
        };
        let mut held = self.lock();
        let older = held.insert(lease.key.clone(), holding);
        if let Some(older) = older.filter(|older| !older.ending && !older.lost.is_cancelled()) {
            older.lost.cancel();
            metrics::leases_lost(1);
        }
        metrics::leases_held(held.len());
        lost
    }

    /// Removes the lease with this fence.
    pub fn remove(&self, key: &ObjectKey, fence: Fence) {
        let mut held = self.lock();
        if held.get(key).is_some_and(|h| h.fence == fence) {
            held.remove(key);
        }
        metrics::leases_held(held.len());
    }

    /// Returns the leases that the heartbeat renews.
    pub fn to_renew(&self) -> Vec<(ObjectKey, Fence, Generation)> {
        self.lock().iter().map(|(k, h)| (k.clone(), h.fence, h.generation)).collect()
    }

    /// Until when the lease lasts; `None`: it is not held any more.
    pub fn until(&self, key: &ObjectKey, fence: Fence) -> Option<Instant> {
        self.lock().get(key).filter(|h| h.fence == fence).map(|h| h.until)
    }

    /// The lease now lasts until `until`.
    pub fn extend(&self, key: &ObjectKey, fence: Fence, until: Instant) {
        if let Some(holding) = self.lock().get_mut(key).filter(|h| h.fence == fence) {
            holding.until = until;
        }
    }

    /// The copy has ended, and what ends the lease is about to be written.
    pub fn mark_ending(&self, key: &ObjectKey, fence: Fence) {
        if let Some(holding) = self.lock().get_mut(key).filter(|h| h.fence == fence) {
            holding.ending = true;
        }
    }

    /// The lease is not ours any more: its copy is to stop. `false` if it had ended, and nothing is lost.
    pub fn mark_lost(&self, key: &ObjectKey, fence: Fence) -> bool {
        let held = self.lock();
        let under_way = held.get(key).filter(|h| h.fence == fence && !h.ending);
        under_way.inspect(|holding| holding.lost.cancel()).is_some()
    }

    /// Stops the copies whose lease ends within `margin`, and returns their keys.
    pub fn mark_expiring_lost(&self, margin: Duration) -> Vec<ObjectKey> {
        let limit = Instant::now() + margin;
        let held = self.lock();
        let expiring = held.iter().filter(|(_, h)| h.until < limit && !h.lost.is_cancelled());
        expiring
            .map(|(key, holding)| {
                holding.lost.cancel();
                key.clone()
            })
            .collect()
    }

    /// A poisoned lock only means that some task panicked between two of these short steps; the map is whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, HeldLease>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use copyhold_core::domain::RegistrationOrder;

    const FENCE: Fence = Fence(7);

    fn lease() -> Lease {
        Lease {
            registration_order: RegistrationOrder(1),
            key: ObjectKey::new("a").unwrap(),
            generation: Generation(1),
            fence: FENCE,
            until: Instant::now() + Duration::from_mins(1),
            claimed: Instant::now(),
            size_bytes: None,
            content: None,
            metadata: None,
            source: None,
            age: Duration::ZERO,
            swept: None,
            replicas: Vec::new(),
        }
    }

    #[test]
    fn a_lost_lease_stops_its_copy_but_not_that_of_another_claim() {
        let (held, lease) = (HeldLeases::default(), lease());
        let lost = held.register(&lease, &CancellationToken::new());
        assert!(!held.mark_lost(&lease.key, Fence(8)) && !lost.is_cancelled());
        assert!(held.mark_lost(&lease.key, FENCE) && lost.is_cancelled());
    }

    #[test]
    fn a_row_that_is_claimed_again_stops_the_copy_of_the_lease_before() {
        let (held, lease) = (HeldLeases::default(), lease());
        let lost = held.register(&lease, &CancellationToken::new());
        let again = held.register(&Lease { fence: Fence(8), ..self::lease() }, &CancellationToken::new());
        assert!(lost.is_cancelled() && !again.is_cancelled());
        // What the copy before still does concerns the new lease no more.
        held.remove(&lease.key, FENCE);
        assert!(held.until(&lease.key, Fence(8)).is_some());
    }

    #[test]
    fn a_lease_that_its_own_copy_has_ended_is_not_lost() {
        let (held, lease) = (HeldLeases::default(), lease());
        held.register(&lease, &CancellationToken::new());
        assert_eq!(held.to_renew().len(), 1);
        // While the heartbeat renews it, the copy ends and frees its row.
        held.mark_ending(&lease.key, FENCE);
        assert!(!held.mark_lost(&lease.key, FENCE));
        held.remove(&lease.key, FENCE);
        assert!(!held.mark_lost(&lease.key, FENCE));
    }
}
