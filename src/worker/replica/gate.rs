//! Decides for each replica what access this daemon has, from the shared state and from its bucket.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use copyhold_core::domain::{self, BreakerScope, ReplicaName};
use copyhold_db::pin::Pin;
use copyhold_db::{
    Bindings, DatabaseError,
    connections::LogThrottle,
    replica::{Admission, DrainState, FormerPrimary, Pause, ReplicaRow, WRITE_DELAY},
};
use copyhold_s3::{copy::OnExisting, store::shown};
use futures::future::try_join_all;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    access::{ReplicaAccess, ReplicaSnapshot},
    adoption_clock::{AdoptionClock, adopts},
    canary::ANSWER_WITHIN,
    health::HealthMonitor,
    probe::{Prober, UnhealthyReplica},
    registry::{Replica, ReplicaRegistry},
    store_health::OpenBreaker,
};
use crate::{
    config::{Config, Existing},
    wakeup::wake_channel::{WakeReceiver, WakeSender},
};

/// How often the shared state is read, ± 20 %, without a notification: another daemon, or an operator, may have
/// changed it. Operators are promised 5 s.
const LOOK_EVERY: Duration = Duration::from_secs(4);
/// The same while some replica is not writable, which may change soon.
const LOOK_EVERY_WHILE_CLOSED: Duration = Duration::from_secs(3);

/// Decides for each replica whether this daemon may read it and write to it, before it does.
///
/// The first to use a replica pins its bucket; the first to write to it sees that the bucket is empty, or that the
/// operator has decided what to do with its objects. Both are decided once, for all daemons.
/// It also learns from the other daemons which stores are unhealthy, and has these probed.
#[derive(Debug)]
pub struct ReplicaGate {
    pub config: Config,
    pub bindings: Bindings,
    pub registry: ReplicaRegistry,
    pub health: HealthMonitor,
    pub waker: WakeSender,
    /// Woken when the table `replicas` was changed.
    pub wake: WakeReceiver,
}

impl ReplicaGate {
    /// Keeps the registry's snapshot up to date until `drain`.
    pub async fn run(mut self, drain: CancellationToken) {
        let mut last = ReplicaSnapshot::default();
        let mut prober = Prober::new(self.bindings.breakers(), self.health.clone());
        let throttle = LogThrottle::new();
        loop {
            self.wake.arm();
            let all_open = |snapshot: &ReplicaSnapshot| {
                !snapshot.access.is_empty() && snapshot.access.values().all(|s| matches!(s, ReplicaAccess::Writable(_)))
            };
            let mut pause = if all_open(&last) { LOOK_EVERY } else { LOOK_EVERY_WHILE_CLOSED };
            match self.refresh().await {
                Ok((snapshot, unhealthy)) => {
                    throttle.is_over();
                    self.log_changes(&last, &snapshot);
                    // Not with `last`: a failure may have taken a replica out of use since.
                    if snapshot != self.registry.snapshot() {
                        self.registry.set(snapshot.clone());
                        self.waker.wake();
                    }
                    last = snapshot;
                    let until_a_probe =
                        unhealthy.iter().map(|s| s.breaker.probe_in).filter(|wait| !wait.is_zero()).min();
                    pause = until_a_probe.map_or(pause, |wait| wait.min(pause));
                    prober.begin(unhealthy);
                }
                Err(error) => throttle.fails(|times| {
                    warn!(error = %error, times, "Could not read which replicas may be used; trying again");
                }),
            }
            tokio::select! {
                () = drain.cancelled() => return,
                () = prober.ended() => {}
                _ = self.wake.wait(pause) => {}
            }
        }
    }

    /// Returns what may be done with each replica, and which of them are unhealthy.
    async fn refresh(&self) -> Result<(ReplicaSnapshot, Vec<UnhealthyReplica>), DatabaseError> {
        let mut asked = Instant::now();
        let mut rows = self.rows().await?;
        for replica in self.registry.replicas() {
            if rows.get(&replica.name).is_some_and(|row| row.pin.is_none()) {
                self.bindings.pin(&replica.name, &self.pin_of(&replica.name)).await?;
                asked = Instant::now();
                rows = self.rows().await?;
            }
        }
        let primary = rows.values().find(|r| r.primary).map(|r| r.name.clone());
        let unhealthy = self.set_known(primary.as_ref(), &rows, asked);
        // All at once: a store that does not answer keeps no other waiting.
        let access = self.registry.replicas().iter().map(|replica| {
            let row = rows.get(&replica.name);
            async move {
                let access = match row {
                    None => not_migrated(),
                    Some(row) => self.access(replica, row, asked).await?,
                };
                Ok::<_, DatabaseError>((replica.name.clone(), access))
            }
        });
        let access = try_join_all(access).await?.into_iter().collect();
        Ok((ReplicaSnapshot { primary, access, former: former(&rows) }, unhealthy))
    }

    async fn rows(&self) -> Result<BTreeMap<ReplicaName, ReplicaRow>, DatabaseError> {
        Ok(self.bindings.replica_rows().await?.into_iter().map(|row| (row.name.clone(), row)).collect())
    }

    fn pin_of(&self, name: &ReplicaName) -> Pin {
        // Cannot fail: the registry is made from this configuration.
        let replica = self.config.replica(name).expect("a lane's replica is in the configuration");
        Pin::from(replica)
    }

    /// Takes over at once what needs no answer of a store: a pause must not wait until some other replica answers.
    /// Returns which replicas are unhealthy.
    fn set_known(
        &self,
        primary: Option<&ReplicaName>,
        rows: &BTreeMap<ReplicaName, ReplicaRow>,
        asked: Instant,
    ) -> Vec<UnhealthyReplica> {
        let before = self.registry.snapshot();
        let mut snapshot = ReplicaSnapshot { primary: primary.cloned(), former: former(rows), ..before.clone() };
        let mut unhealthy = Vec::new();
        for replica in self.registry.replicas() {
            let row = rows.get(&replica.name);
            unhealthy.extend(row.and_then(|row| self.unhealthy(replica, row)));
            let known = row.map_or_else(|| Some(not_migrated()), |row| self.known(replica, row, asked));
            // At the first refresh, and after a breaker has closed: a target that is open already must find its sources
            // readable as well.
            let looked_at = || ReplicaAccess::ReadOnly { why: "its bucket is being looked at".into() };
            match (known, snapshot.access.get(&replica.name)) {
                (Some(known), _) => snapshot.access.insert(replica.name.clone(), known),
                (None, None | Some(ReplicaAccess::Unavailable { .. })) => {
                    snapshot.access.insert(replica.name.clone(), looked_at())
                }
                (None, Some(_)) => None,
            };
        }
        if snapshot != before {
            self.registry.set(snapshot);
            self.waker.wake();
        }
        unhealthy
    }

    /// Returns what the shared state alone decides; `None`: the bucket has to be inspected first.
    fn known(&self, replica: &Replica, row: &ReplicaRow, asked: Instant) -> Option<ReplicaAccess> {
        if row.admission.is_some() {
            self.health.note_listable(&replica.name);
        }
        let breaker = self.health.sync_breaker(&replica.name, row.breaker.as_ref(), asked);
        if let Some(why) = self.forbidden(replica, row) {
            return Some(ReplicaAccess::Blocked { why });
        }
        let operator_hold = row.draining.as_ref().map(draining).or_else(|| row.pause.as_ref().map(paused));
        match (breaker, operator_hold) {
            (Some(OpenBreaker { blocks: BreakerScope::All, why, .. }), _) => Some(ReplicaAccess::Unavailable { why }),
            (_, Some(why)) | (Some(OpenBreaker { blocks: BreakerScope::Writing, why, .. }), None) => {
                Some(ReplicaAccess::ReadOnly { why })
            }
            (None, None) => self.on_existing(replica, row).map(ReplicaAccess::Writable),
        }
    }

    /// What becomes of an object that is in the bucket already; `None`: it is not decided yet whether anything is
    /// written there.
    ///
    /// The primary in force is the application's, whatever was decided while it was not: an object there may be a
    /// content that was uploaded this moment and is about to be registered. So it is read first, however new it is, and
    /// not overwritten if it is not equal. Between our read and our write the application may still upload to the key,
    /// and not every store has a write that is refused then: the operator who fills a primary again must not let
    /// contents be replaced meanwhile (docs/replicas.md). An object that is registered once and never changed has no
    /// such moment: its uploader always puts the same bytes.
    fn on_existing(&self, replica: &Replica, row: &ReplicaRow) -> Option<OnExisting> {
        let (admission, since) = row.admission?;
        let asked_for = self.config.replica(&replica.name).and_then(|r| r.existing);
        Some(match (asked_for, admission) {
            // The operator's decision of today counts as much as that on the day of the first write.
            (Some(Existing::Overwrite), _) | (None, Admission::Overwrite) => OnExisting::PutOver,
            _ if row.primary => OnExisting::Adopt { older_than: None },
            (_, Admission::Empty) => OnExisting::PutOver,
            (_, Admission::Adopt | Admission::Overwrite) => OnExisting::Adopt { older_than: Some(since) },
        })
    }

    /// Returns why this daemon must not use the replica.
    fn forbidden(&self, replica: &Replica, row: &ReplicaRow) -> Option<String> {
        let ours = self.pin_of(&replica.name);
        row.pin.as_ref().and_then(|pin| pin.forbids(&ours, &replica.name))
    }

    /// What this daemon may probe. Nothing is written to a replica that is paused or about to leave, not even to try
    /// it.
    fn unhealthy(&self, replica: &Replica, row: &ReplicaRow) -> Option<UnhealthyReplica> {
        let breaker = row.breaker.clone()?;
        let may_write = row.pause.is_none() && row.draining.is_none();
        let may = self.forbidden(replica, row).is_none() && (breaker.blocks == BreakerScope::All || may_write);
        may.then(|| UnhealthyReplica {
            replica: replica.name.clone(),
            breaker,
            existing: self.on_existing(replica, row),
        })
    }

    async fn access(
        &self,
        replica: &Replica,
        row: &ReplicaRow,
        asked: Instant,
    ) -> Result<ReplicaAccess, DatabaseError> {
        if let Some(known) = self.known(replica, row, asked) {
            return Ok(known);
        }
        self.health.first_contact(&replica.name).await;
        // The primary is only read, until something is missing there.
        if row.primary && !self.bindings.has_copyable_objects(&replica.name).await? {
            return Ok(ReplicaAccess::ReadOnly { why: "nothing is missing at the primary".into() });
        }
        match self.decide(replica, row).await? {
            Ok((admission, looked_at)) => {
                self.bindings.admit(&replica.name, admission, looked_at).await?;
                info!(replica.id = %replica.name, "Replica {} is open for writing: {}", replica.name, admission.words());
                // The next refresh reads the decision; another daemon may have been first.
                Box::pin(self.access_again(replica, asked)).await
            }
            Err(why) => Ok(ReplicaAccess::ReadOnly { why }),
        }
    }

    async fn access_again(&self, replica: &Replica, asked: Instant) -> Result<ReplicaAccess, DatabaseError> {
        match self.rows().await?.get(&replica.name) {
            Some(row) if row.admission.is_some() => self.access(replica, row, asked).await,
            _ => Ok(ReplicaAccess::ReadOnly { why: "its entry in the table replicas has just vanished".into() }),
        }
    }

    /// Returns how it is written to, and when its bucket was inspected by its store's clock; or why it is not writable
    /// yet.
    async fn decide(
        &self,
        replica: &Replica,
        row: &ReplicaRow,
    ) -> Result<Result<(Admission, Option<SystemTime>), String>, DatabaseError> {
        let existing = self.config.replica(&replica.name).and_then(|r| r.existing);
        let existing = existing.or(row.adopts.then_some(Existing::Adopt));
        let looked = tokio::time::timeout(ANSWER_WITHIN, replica.store.bucket_contents()).await;
        let Ok(looked) = looked else {
            return Ok(Err(format!("its bucket could not be listed: no answer within {ANSWER_WITHIN:?}")));
        };
        let looked = match looked {
            Err(error) => return Ok(Err(format!("its bucket could not be listed: {error}"))),
            Ok(looked) => looked,
        };
        let Some(key) = &looked.key else { return Ok(Ok((Admission::Empty, None))) };
        match existing {
            Some(Existing::Adopt) => match adopts(&looked, row.looked_at) {
                AdoptionClock::Ready(at) => Ok(Ok((Admission::Adopt, Some(at)))),
                AdoptionClock::NotYet(date) => {
                    self.bindings.note_look(&replica.name, date).await?;
                    Ok(Err(format!(
                        "its bucket holds data that is to be adopted: nothing is written there until its clock has gone on by {WRITE_DELAY:?}, \
                         so that what is there is told from copies"
                    )))
                }
                AdoptionClock::Unusable(why) => Ok(Err(why)),
            },
            Some(Existing::Overwrite) => Ok(Ok((Admission::Overwrite, None))),
            None => Ok(Err(format!(
                "its bucket already holds data (\"{}\", for one): say existing = \"adopt\" or \"overwrite\" in \
                 [replicas.{}]",
                shown(key.as_bytes()),
                replica.name
            ))),
        }
    }

    /// Logs each change once.
    fn log_changes(&self, last: &ReplicaSnapshot, snapshot: &ReplicaSnapshot) {
        for (name, access) in &snapshot.access {
            if last.access.get(name) == Some(access) {
                continue;
            }
            match access {
                ReplicaAccess::Writable(_) => info!(replica.id = %name, "Copying to {name}"),
                ReplicaAccess::ReadOnly { why } if snapshot.primary.as_ref() == Some(name) => {
                    info!(replica.id = %name, "Reading from {name}: {why}");
                }
                ReplicaAccess::ReadOnly { why } => warn!(replica.id = %name, "Not copying to {name}: {why}"),
                ReplicaAccess::Blocked { why } | ReplicaAccess::Unavailable { why } => {
                    warn!(replica.id = %name, "Not using {name}: {why}");
                }
            }
        }
        if snapshot.primary != last.primary
            && let Some(primary) = &snapshot.primary
            && *primary != self.config.primary
        {
            warn!(
                "The primary in force is {primary}; the configuration says {}, which is ignored",
                self.config.primary
            );
        }
    }
}

/// Returns the former primaries.
fn former(rows: &BTreeMap<ReplicaName, ReplicaRow>) -> BTreeMap<ReplicaName, FormerPrimary> {
    rows.iter().filter_map(|(name, row)| Some((name.clone(), row.former?))).collect()
}

fn not_migrated() -> ReplicaAccess {
    ReplicaAccess::Blocked { why: "it has no columns yet: run `copyhold migrate`".into() }
}

/// Why nothing is copied to a replica that an operator has paused.
fn paused(pause: &Pause) -> String {
    let why = match pause.until {
        None => "it is paused until it is resumed".to_owned(),
        Some(until) => format!("it is paused until {}", domain::utc(until)),
    };
    with_reason(why, pause.because.as_deref())
}

/// Why nothing is copied to a replica that is about to leave.
fn draining(draining: &DrainState) -> String {
    with_reason(format!("it is draining since {}", domain::utc(draining.since)), draining.because.as_deref())
}

fn with_reason(mut why: String, because: Option<&str>) -> String {
    if let Some(because) = because {
        why.push_str(": ");
        // Cannot fail: a String takes all that is written to it.
        let _ = domain::escape(because, &mut why);
    }
    why
}
