use std::{fmt, time::Duration};

use futures::future::join_all;
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    allowance::Allowance,
    completer::Completer,
    held::Held,
    lanes::{Lanes, Replica, Standing},
    slots::{Room, Slots},
};
use crate::{
    copy,
    domain::{Class, Content, Failure, Lease, Next, ObjectKey, Outcome, ReplicaName},
    metrics,
    queue::{Answer, Daemon, Queue, QueueError, Report, Unverified},
    wake::Waker,
};

/// How often it looks whether something is to be read once more, ± 20 %.
const EVERY: Duration = Duration::from_secs(10);
/// Objects that are taken at once, and read one after the other.
const BATCH: usize = 16;

/// Reads copies once more that were recorded after a holder of their object had died.
///
/// That holder's last request may have arrived at the store after the record was made, with an older content. Every
/// daemon looks, each object is read by the one that leases it, and the time at which it is to be read is moved on
/// before that: whatever happens here, it is read again until all of it was seen to be right.
#[derive(Debug)]
pub struct Rechecker {
    pub queue: Queue,
    pub daemon: Daemon,
    pub held: Held,
    pub completer: Completer,
    pub lanes: Lanes,
    pub slots: Slots,
    pub allowance: Allowance,
    /// After this time what could not be read is tried again.
    pub settle: Duration,
    /// Cancelled when everything under way is to be let go.
    pub stop: CancellationToken,
    pub waker: Waker,
}

/// What reading one copy has shown.
enum Shown {
    Equal,
    /// The recorded time is false.
    Wrong(Failure),
    /// Nothing: it could not be read.
    Unknown(Unread),
}

enum Unread {
    Failed(Failure),
    NotUsable,
    TooSlow(Duration),
}

impl Rechecker {
    /// Looks until `drain`.
    pub async fn run(self, drain: CancellationToken) {
        let mut tidied = None;
        loop {
            let ended =
                drain.run_until_cancelled(tokio::time::sleep(EVERY.mul_f64(rand::rng().random_range(0.8..1.2))));
            if ended.await.is_none() {
                return;
            }
            // Before the first look at the replicas nobody knows which may be read.
            if self.lanes.view().primary.is_none() {
                continue;
            }
            if let Err(error) = self.look(&mut tidied, &drain).await {
                metrics::database_error("queue::take_unverified");
                warn!(error = %error, "Could not look for copies that are to be read once more, trying again");
            }
        }
    }

    async fn look(&self, tidied: &mut Option<ObjectKey>, drain: &CancellationToken) -> Result<(), QueueError> {
        *tidied = self.queue.tidy_swept(tidied.as_ref()).await?;
        loop {
            let keys = self.queue.take_unverified(BATCH, self.settle).await?;
            let full = keys.len() == BATCH;
            for Unverified { key, primary_too } in keys {
                let Some(slot) = drain.run_until_cancelled(self.slots.one(Room::Any)).await else { return Ok(()) };
                for lease in self.queue.claim_these(&self.daemon, &[key]).await? {
                    self.recheck(&lease, primary_too, drain).await?;
                }
                drop(slot);
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// Reads every recorded copy of a leased object, and gives the lease back.
    async fn recheck(&self, lease: &Lease, primary_too: bool, drain: &CancellationToken) -> Result<(), QueueError> {
        let lost = self.held.enter(lease, &self.stop);
        let read = async { lost.run_until_cancelled(self.read(lease, primary_too)).await };
        let shown = drain.run_until_cancelled(read).await.flatten();
        self.held.end(&lease.key, lease.fence);
        let concluded = match shown {
            Some(shown) => self.conclude(lease, shown).await,
            None => Ok(Answer::Changed),
        };
        if !matches!(concluded, Ok(Answer::Recorded)) {
            // Ours or not any more: what is not ours is not freed by this.
            self.queue.release(&[(lease.key.clone(), lease.fence)]).await?;
        }
        self.held.strike(&lease.key, lease.fence);
        concluded.map(|_| ())
    }

    /// All copies at once. The primary in force is left out: what stands there is the application's, and if it is
    /// another content than ours, then that is no damage. Only where its bucket was lost it is looked at as well, for
    /// what is not there at all.
    async fn read(&self, lease: &Lease, primary_too: bool) -> Vec<(ReplicaName, Shown)> {
        // Of another daemon's conclusion since it was taken, or of copies that no daemon has recorded in this
        // generation, there is nothing to be compared with.
        let Some(content) = lease.content.filter(|_| lease.swept.is_some()) else { return Vec::new() };
        let view = self.lanes.view();
        let recorded = self.lanes.replicas().iter().zip(&lease.replicas);
        let is_primary = |r: &Replica| view.primary.as_ref() == Some(&r.name);
        let recorded = recorded.filter(|(r, state)| state.recorded && (primary_too || !is_primary(r)));
        let all = recorded.map(|(replica, _)| {
            let readable = view.standings.get(&replica.name).is_some_and(Standing::is_readable);
            let is_primary = is_primary(replica);
            async move {
                if !readable {
                    return (replica.name.clone(), Shown::Unknown(Unread::NotUsable));
                }
                let shown = match self.read_one(lease, replica, &content).await {
                    Shown::Wrong(why) if is_primary && why.class != Class::Gone => Shown::Equal,
                    shown => shown,
                };
                (replica.name.clone(), shown)
            }
        });
        join_all(all).await
    }

    async fn read_one(&self, lease: &Lease, replica: &Replica, content: &Content) -> Shown {
        let limit = self.allowance.of(content.size_bytes);
        match tokio::time::timeout(limit, copy::still_there(&replica.store, &lease.key, content)).await {
            Ok(Ok(())) => Shown::Equal,
            Ok(Err(why)) if matches!(why.class, Class::Gone | Class::Corrupt) => Shown::Wrong(why),
            Ok(Err(why)) => Shown::Unknown(Unread::Failed(why)),
            Err(_) => Shown::Unknown(Unread::TooSlow(limit)),
        }
    }

    /// What was found to be wrong is taken back, and stays to be read once more when it was copied again.
    async fn conclude(&self, lease: &Lease, shown: Vec<(ReplicaName, Shown)>) -> Result<Answer, QueueError> {
        let key = &lease.key;
        let (mut wrong, mut all_read) = (Vec::new(), true);
        for (replica, shown) in shown {
            metrics::rechecked(&replica, shown.word());
            match shown {
                Shown::Equal => {}
                Shown::Wrong(why) => {
                    warn!(object.key = %key, replica.id = %replica, class = %why.class, "What {replica} has of {key} is not what was recorded, perhaps by a holder that had died before; it is copied again: {}", why.message);
                    let next = Next::After { delay: Duration::ZERO, counted: true };
                    wrong.push((replica, Outcome::Cleared { next, why }));
                }
                Shown::Unknown(why) => {
                    debug!(object.key = %key, replica.id = %replica, "{key} at {replica} is to be read once more, because a holder of it has died, and cannot be; in {:?} again: {why}", self.settle);
                    all_read = false;
                }
            }
        }
        if !wrong.is_empty() {
            return Ok(self.take_back(lease, wrong).await);
        }
        if !all_read {
            return Ok(Answer::Changed);
        }
        let answer = self.queue.conclude(lease).await?;
        if answer == Answer::Recorded {
            debug!(object.key = %key, "The copies of {key} were read once more and are what was recorded");
        }
        Ok(answer)
    }

    async fn take_back(&self, lease: &Lease, outcomes: Vec<(ReplicaName, Outcome)>) -> Answer {
        let Some(until) = self.held.until(&lease.key, lease.fence) else { return Answer::Changed };
        let report = Report {
            key: lease.key.clone(),
            generation: lease.generation,
            fence: lease.fence,
            content: None,
            outcomes,
            release: true,
            settle: None,
        };
        let answer = self.completer.write(report, until).await;
        self.waker.wake();
        answer
    }
}

impl Shown {
    /// The word for it in metrics.
    fn word(&self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Wrong(_) => "wrong",
            Self::Unknown(_) => "unknown",
        }
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) => f.write_str(&why.message),
            Self::NotUsable => f.write_str("this daemon does not use that replica at the moment"),
            Self::TooSlow(limit) => write!(f, "it took more than {limit:?}"),
        }
    }
}
