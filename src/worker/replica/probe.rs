//! Probes the stores whose breakers are open, each at its time and one daemon at a time.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use copyhold_core::domain::{BreakerScope, FailureClass, PingResult, ReplicaName, TrialCount, charges_probed};
use copyhold_db::{
    Breakers, DatabaseError,
    replica::{Breaker, ProbeKeyChoice, ProbeResult},
};
use copyhold_s3::copy::OnExisting;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tracing::warn;

use super::{
    health::HealthMonitor,
    probe_copy::{ProbeCopyRequest, TriedKeys},
};
use crate::metrics;

/// For how long no other daemon probes a store that we probe: longer than its answers may take; or an object, on a slow
/// line.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);
const OBJECT_WITHIN: Duration = Duration::from_secs(90);
/// How long that object is waited for.
const TRIAL_WITHIN: Duration = Duration::from_secs(80);

/// A breaker that is open, and what its replica's first write was admitted on.
#[derive(Debug, Clone)]
pub(super) struct UnhealthyReplica {
    pub replica: ReplicaName,
    pub breaker: Breaker,
    pub existing: Option<OnExisting>,
}

/// The probes that are under way.
///
/// A store that is blocked altogether is asked something simple. One that is only not written to would answer that: it
/// is tried with objects that it lacks, since nothing else is ever written to a bucket.
pub(super) struct Prober {
    breakers: Breakers,
    health: HealthMonitor,
    under_way: FuturesUnordered<BoxFuture<'static, ReplicaName>>,
    replicas: HashSet<ReplicaName>,
    /// What was tried in vain at each since its breaker is open.
    tried: HashMap<ReplicaName, TriedKeys>,
}

impl Prober {
    pub(super) fn new(breakers: Breakers, health: HealthMonitor) -> Self {
        Self { breakers, health, under_way: FuturesUnordered::new(), replicas: HashSet::new(), tried: HashMap::new() }
    }

    /// Begins the probes that are due.
    pub(super) fn begin(&mut self, unhealthy: Vec<UnhealthyReplica>) {
        self.tried.retain(|replica, _| unhealthy.iter().any(|unhealthy| unhealthy.replica == *replica));
        for unhealthy in unhealthy.into_iter().filter(|unhealthy| unhealthy.breaker.probe_in.is_zero()) {
            if self.replicas.insert(unhealthy.replica.clone()) {
                let (breakers, health) = (self.breakers.clone(), self.health.clone());
                let tried = self.tried.entry(unhealthy.replica.clone()).or_default().clone();
                let probe = async move {
                    if let Err(error) = probe(&breakers, &health, &unhealthy, &tried).await {
                        metrics::database_error("replica::claim_probe");
                        warn!(replica.id = %unhealthy.replica, error = %error, "Could not ask whether {} may be probed", unhealthy.replica);
                    }
                    unhealthy.replica
                };
                self.under_way.push(probe.boxed());
            }
        }
    }

    /// Waits until one has ended; for ever, if none is under way.
    pub(super) async fn ended(&mut self) {
        match self.under_way.next().await {
            Some(replica) => {
                self.replicas.remove(&replica);
            }
            None => std::future::pending().await,
        }
    }
}

async fn probe(
    breakers: &Breakers,
    health: &HealthMonitor,
    unhealthy: &UnhealthyReplica,
    tried: &TriedKeys,
) -> Result<(), DatabaseError> {
    let UnhealthyReplica { replica, breaker, existing } = unhealthy;
    let within = match breaker.blocks {
        BreakerScope::All => ANSWERS_WITHIN,
        BreakerScope::Writing => OBJECT_WITHIN,
    };
    if !breakers.claim_probe(replica, breaker.opened_at, within).await? {
        return Ok(());
    }
    let is_well = match (breaker.blocks, existing) {
        _ if !answers(health.ping(replica).await, breaker) => false,
        (BreakerScope::All, _) => !breaker.is_of_reading() || reads(health, replica, tried).await,
        (BreakerScope::Writing, Some(existing)) => takes_objects(health, unhealthy, *existing, tried).await,
        // Nothing may be written to it in any case.
        (BreakerScope::Writing, None) => true,
    };
    health.end_probe(replica, breaker, if is_well { ProbeResult::Healthy } else { ProbeResult::Unhealthy }).await;
    Ok(())
}

/// A store that throttles is available, unless that was the reason.
fn answers(canary: PingResult, breaker: &Breaker) -> bool {
    match canary {
        PingResult::Answers => true,
        PingResult::Fails(class) => class == FailureClass::Throttled && breaker.class != Some(FailureClass::Throttled),
        PingResult::Unreachable => false,
    }
}

async fn reads(health: &HealthMonitor, replica: &ReplicaName, tried: &TriedKeys) -> bool {
    let TrialCount { succeeded, failed } = health.try_reading(replica, ProbeKeyChoice::Any, tried).await;
    succeeded > 0 || failed == 0
}

/// The first object that is taken shows it. Where there is none to try, an open lane does no harm.
async fn takes_objects(
    health: &HealthMonitor,
    UnhealthyReplica { replica, breaker, .. }: &UnhealthyReplica,
    existing: OnExisting,
    tried: &TriedKeys,
) -> bool {
    let pick = if breaker.class == Some(FailureClass::Full) { ProbeKeyChoice::Smallest } else { ProbeKeyChoice::Any };
    let charges = charges_probed(breaker.probes_failed);
    let request = ProbeCopyRequest { pick, existing: Some(existing), charges, tried: tried.clone() };
    let outcome = health.try_writing(replica, request, TRIAL_WITHIN).await;
    outcome.count.succeeded > 0 || !outcome.any_due
}
