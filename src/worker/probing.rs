use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tracing::warn;

use super::{
    health::Health,
    lanes::{Lanes, Trial},
};
use crate::{
    copy::OnExisting,
    domain::{Blocks, ReplicaName},
    metrics,
    queue::{Breaker, Probed, Queue, QueueError},
    wake::Waker,
};

/// How long nobody else probes a store that we probe: longer than its answer may take; or one object, on a slow line.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
const OBJECT_WITHIN: Duration = Duration::from_secs(90);

/// A breaker that is open, and what its replica's first write was admitted on.
#[derive(Debug, Clone)]
pub(super) struct Sick {
    pub replica: ReplicaName,
    pub breaker: Breaker,
    pub existing: Option<OnExisting>,
}

/// Tries the stores whose breakers are open, each at its time and one daemon at a time.
///
/// A store that is blocked altogether is asked for a listing. One that is only not written to would answer that: it
/// is tried with one object that it lacks, since nothing else is ever written to a bucket.
pub(super) struct Probing {
    queue: Queue,
    lanes: Lanes,
    health: Health,
    waker: Waker,
    under_way: FuturesUnordered<BoxFuture<'static, ReplicaName>>,
    replicas: HashSet<ReplicaName>,
}

impl Probing {
    /// `waker`: told when an object may be tried.
    pub(super) fn new(queue: Queue, lanes: Lanes, health: Health, waker: Waker) -> Self {
        Self { queue, lanes, health, waker, under_way: FuturesUnordered::new(), replicas: HashSet::new() }
    }

    /// Begins what is due.
    pub(super) fn begin(&mut self, sick: Vec<Sick>) {
        for sick in sick.into_iter().filter(|sick| sick.breaker.probe_in.is_zero()) {
            if self.replicas.insert(sick.replica.clone()) {
                let (queue, lanes, health) = (self.queue.clone(), self.lanes.clone(), self.health.clone());
                let waker = self.waker.clone();
                let probe = async move {
                    if let Err(error) = probe(&queue, &lanes, &health, &waker, &sick).await {
                        metrics::database_error("queue::take_probe");
                        warn!(replica.id = %sick.replica, error = %error, "Could not ask whether {} may be probed", sick.replica);
                    }
                    sick.replica
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
    queue: &Queue,
    lanes: &Lanes,
    health: &Health,
    waker: &Waker,
    Sick { replica, breaker, existing }: &Sick,
) -> Result<(), QueueError> {
    let within = match breaker.blocks {
        Blocks::All => ANSWERS_WITHIN,
        Blocks::Writing => OBJECT_WITHIN,
    };
    let until = Instant::now() + within;
    if !queue.take_probe(replica, breaker.opened_at, within).await? {
        return Ok(());
    }
    match (breaker.blocks, existing) {
        (Blocks::All, _) => {
            let ended = if health.ask(replica).await.is_ok() { Probed::Well } else { Probed::Sick };
            health.end_probe(replica, breaker, ended).await;
        }
        (Blocks::Writing, Some(existing)) => {
            lanes.offer(Trial { replica: replica.clone(), breaker: breaker.clone(), existing: *existing, until });
            waker.wake();
        }
        // Nothing may be written to it in any case.
        (Blocks::Writing, None) => health.end_probe(replica, breaker, Probed::Well).await,
    }
    Ok(())
}
