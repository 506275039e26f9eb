//! Reads recorded copies again as long as a late write may still change them.

use std::{fmt, time::Duration};

use copyhold_core::domain::{
    Content, EtagMatch, Failure, FailureClass, Lease, MetadataHash, NextAttempt, ObjectKey, Outcome, ReplicaName,
    SourceReading, SourceVerdict,
};
use copyhold_db::{
    DatabaseError, Leases,
    connections::LogThrottle,
    daemon::Daemon,
    lease::{FencedWrite, Report, UnsettledCopy},
};
use copyhold_s3::copy::{self, ObjectReading};
use futures::future::join_all;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    completer::Completer,
    content_changed::{ChangeDecision, ContentChanges},
    held_leases::HeldLeases,
    time_limit::TimeLimit,
};
use crate::{
    metrics,
    wakeup::{jitter::jittered, wake_channel::WakeSender},
    worker::{
        replica::{Replica, ReplicaAccess, ReplicaRegistry},
        slots::{SlotPool, Slots},
    },
};

/// How often it queries copies to read again, ± 20 %.
const EVERY: Duration = Duration::from_secs(5);
/// Copies that one statement claims; they are read one object after the other.
const BATCH: usize = 16;

/// Reads copies again if a write was sent to them whose end no daemon has seen, until nothing of it can arrive any
/// more.
///
/// Every daemon reads the replicas that its configuration lets it read. An object is read by the daemon that leases it,
/// and the time of its next reading is moved on before that: whatever happens here, it is read again until it was seen
/// to be right.
#[derive(Debug)]
pub struct Rechecker {
    pub leases: Leases,
    pub daemon: Daemon,
    pub held: HeldLeases,
    pub completer: Completer,
    pub registry: ReplicaRegistry,
    pub slots: Slots,
    pub time_limit: TimeLimit,
    pub changes: ContentChanges,
    /// After this time what could not be read is tried again.
    pub settle: Duration,
    /// Cancelled when everything under way is to stop.
    pub stop: CancellationToken,
    pub waker: WakeSender,
}

/// What reading one copy has shown.
enum ReadResult {
    Equal,
    /// The recorded time is false.
    Different(Failure),
    /// It is the primary, and the application has written another content there.
    Changed {
        content: Content,
        said: SourceReading,
    },
    /// Nothing: it could not be read.
    Unread(UnreadReason),
}

enum UnreadReason {
    Failed(Failure),
    NotUsable,
    TooSlow(Duration),
}

impl Rechecker {
    /// Runs until `drain`.
    pub async fn run(self, drain: CancellationToken) {
        let mut tidied = None;
        let throttle = LogThrottle::new();
        loop {
            let ended = drain.run_until_cancelled(tokio::time::sleep(jittered(EVERY)));
            if ended.await.is_none() {
                return;
            }
            // Before the gate has inspected the replicas it is not known which may be read.
            if self.registry.snapshot().primary.is_none() {
                continue;
            }
            match self.recheck_due(&mut tidied, &drain).await {
                Ok(()) => throttle.is_over(),
                Err(error) => {
                    metrics::database_error("lease::claim_unsettled");
                    throttle.fails(|times| {
                        warn!(error = %error, times, "Could not query copies to read again; trying again");
                    });
                }
            }
        }
    }

    async fn recheck_due(
        &self,
        tidied: &mut Option<ObjectKey>,
        drain: &CancellationToken,
    ) -> Result<(), DatabaseError> {
        *tidied = self.leases.tidy_swept(tidied.as_ref()).await?;
        loop {
            let readable = self.readable();
            let taken = self.leases.claim_unsettled(&readable, BATCH, self.settle).await?;
            for (key, copies) in taken.to_read {
                let Some(slot) = drain.run_until_cancelled(self.slots.one(SlotPool::General)).await else {
                    return Ok(());
                };
                for lease in self.leases.claim_these(&self.daemon, std::slice::from_ref(&key)).await? {
                    self.recheck(&lease, &copies, drain).await?;
                }
                drop(slot);
            }
            if !taken.more || drain.is_cancelled() {
                return Ok(());
            }
        }
    }

    /// The replicas that this daemon may read at the moment.
    fn readable(&self) -> Vec<ReplicaName> {
        let snapshot = self.registry.snapshot();
        let replicas = self.registry.replicas().iter().map(|replica| replica.name.clone());
        replicas.filter(|name| snapshot.access.get(name).is_some_and(ReplicaAccess::is_readable)).collect()
    }

    /// Reads some recorded copies of a leased object, and releases the lease.
    async fn recheck(
        &self,
        lease: &Lease,
        copies: &[UnsettledCopy],
        drain: &CancellationToken,
    ) -> Result<(), DatabaseError> {
        let lost = self.held.register(lease, &self.stop);
        let read = async { lost.run_until_cancelled(self.read(lease, copies)).await };
        let results = drain.run_until_cancelled(read).await.flatten();
        self.held.mark_ending(&lease.key, lease.fence);
        let concluded = match results {
            Some(results) => self.conclude(lease, results).await,
            None => Ok(FencedWrite::Superseded),
        };
        let freed = match concluded {
            Ok(FencedWrite::Applied) => Ok(()),
            // Ours or not any more: what is not ours is not freed by this.
            _ => self.leases.release(&[(lease.key.clone(), lease.fence)]).await.map(|_| ()),
        };
        // Also where it could not be freed: a lease that no task works under must expire, and not be renewed for ever.
        self.held.remove(&lease.key, lease.fence);
        concluded.and(freed)
    }

    /// Those of them that are recorded, all at once.
    async fn read<'u>(&self, lease: &Lease, copies: &'u [UnsettledCopy]) -> Vec<(&'u UnsettledCopy, ReadResult)> {
        let snapshot = self.registry.snapshot();
        let replica = |name: &ReplicaName| {
            let recorded = lease.replicas.iter().any(|state| state.replica == *name && state.recorded);
            self.registry.replicas().iter().find(|r| r.name == *name).filter(|_| recorded)
        };
        let recorded = copies.iter().filter_map(|copy| Some((copy, replica(&copy.replica)?)));
        let all = recorded.map(|(copy, replica)| {
            let readable = snapshot.access.get(&replica.name).is_some_and(ReplicaAccess::is_readable);
            let is_primary = snapshot.primary.as_ref() == Some(&replica.name);
            async move {
                if !readable {
                    return (copy, ReadResult::Unread(UnreadReason::NotUsable));
                }
                let result = match &lease.content {
                    Some(content) => self.read_one(lease, replica, copy, content, is_primary).await,
                    None => never_read(copy, is_primary),
                };
                (copy, result)
            }
        });
        join_all(all).await
    }

    async fn read_one(
        &self,
        lease: &Lease,
        replica: &Replica,
        copy: &UnsettledCopy,
        content: &Content,
        is_primary: bool,
    ) -> ReadResult {
        // Other bytes at the primary are read three times.
        let limit = self.time_limit.for_size(content.size_bytes) * if is_primary { 3 } else { 1 };
        let read = async {
            match copy::read(&replica.store, &lease.key, |_| {}).await {
                // The bytes are the object's; what was sent with them may have been an earlier state of its metadata.
                Ok(ObjectReading { content: found, metadata, .. }) if found == *content => {
                    // Where it is not known what was sent, any other metadata may be. The primary's is the
                    // application's, and a store that alters it always shows another.
                    let may_be_late = match copy.sent_metadata {
                        Some(sent) => sent == metadata,
                        None => !is_primary && !replica.store.profile().accepts_altered_metadata,
                    };
                    let Some(known) = lease.metadata.filter(|known| *known != metadata) else {
                        return ReadResult::Equal;
                    };
                    if !may_be_late {
                        // Where it is not known what was sent, newer metadata may be a late write of ours.
                        let may_be_new = is_primary && copy.sent_metadata.is_some();
                        return if may_be_new {
                            self.judge_metadata(lease, replica, found, known).await
                        } else {
                            ReadResult::Equal
                        };
                    }
                    let what = "its copy has the metadata of an earlier write";
                    ReadResult::Different(Failure::new(
                        FailureClass::Corrupt,
                        format!("replica {}: {what}", replica.name),
                    ))
                }
                Ok(reading) if is_primary && copy.sent != Some(reading.content) => {
                    self.judge_primary(lease, replica, copy, content).await
                }
                Ok(reading) => {
                    if reading.etag != EtagMatch::Confirms
                        && let Err(why) = copy::is_as_stored(&replica.store, &lease.key, &reading).await
                    {
                        return ReadResult::Unread(UnreadReason::Failed(why));
                    }
                    let found = reading.content;
                    let what = format!("its copy has other bytes than were recorded ({found} instead of {content})");
                    ReadResult::Different(Failure::new(
                        FailureClass::Corrupt,
                        format!("replica {}: {what}", replica.name),
                    ))
                }
                Err(why) if why.class == FailureClass::Gone => ReadResult::Different(why),
                Err(why) => ReadResult::Unread(UnreadReason::Failed(why)),
            }
        };
        tokio::time::timeout(limit, read).await.unwrap_or(ReadResult::Unread(UnreadReason::TooSlow(limit)))
    }

    /// The primary has the object's bytes with other metadata, which none of our writes had.
    async fn judge_metadata(
        &self,
        lease: &Lease,
        replica: &Replica,
        content: Content,
        known: MetadataHash,
    ) -> ReadResult {
        let kept = self.changes.kept(lease, &replica.name).await;
        match copy::metadata_change(&replica.store, &lease.key, known, &kept).await {
            Ok(Some(said)) => ReadResult::Changed { content, said },
            Ok(None) => ReadResult::Equal,
            Err(why) => ReadResult::Unread(UnreadReason::Failed(why)),
        }
    }

    /// The content at the primary is judged as a copy from there would judge it. Where it is not known what was sent, a
    /// newer content may be a late write of ours just as well, and does not count as the application's.
    async fn judge_primary(
        &self,
        lease: &Lease,
        replica: &Replica,
        copy: &UnsettledCopy,
        content: &Content,
    ) -> ReadResult {
        let kept = self.changes.kept(lease, &replica.name).await;
        match copy::judge_primary(&replica.store, &lease.key, content, &kept).await {
            Ok(None) => ReadResult::Equal,
            Ok(Some(other)) if other.verdict != SourceVerdict::Changed => ReadResult::Different(other.why),
            Ok(Some(other)) if copy.sent.is_some() => ReadResult::Changed { content: other.content, said: other.said },
            Ok(Some(other)) => {
                let what = format!(
                    "its object has other bytes than were recorded ({} instead of {content}): a new content, or an earlier \
                     one that a write of which the end was not seen has brought back",
                    other.content
                );
                ReadResult::Different(Failure::new(FailureClass::Corrupt, format!("replica {}: {what}", replica.name)))
            }
            Err(why) => ReadResult::Unread(UnreadReason::Failed(why)),
        }
    }

    /// A record that was found to be wrong is revoked. The copy stays to be read until it is settled, also after it was
    /// copied again; what is right and settled is forgotten.
    async fn conclude(
        &self,
        lease: &Lease,
        results: Vec<(&UnsettledCopy, ReadResult)>,
    ) -> Result<FencedWrite, DatabaseError> {
        let key = &lease.key;
        let primary = self.registry.snapshot().primary;
        let (mut wrong, mut settled) = (Vec::new(), Vec::new());
        let mut changed = None;
        for (copy, result) in results {
            let replica = &copy.replica;
            metrics::rechecked(replica, result.word());
            match result {
                ReadResult::Equal if copy.settled => settled.push(copy),
                ReadResult::Equal => {}
                ReadResult::Changed { content, said } => changed = Some((replica, content, said)),
                ReadResult::Different(why) => {
                    let next = if primary.as_ref() == Some(replica) && why.class != FailureClass::Gone {
                        NextAttempt::Parked
                    } else {
                        NextAttempt::After { delay: Duration::ZERO, counted: true }
                    };
                    warn!(object.key = %key, replica.id = %replica, class = %why.class, "What {replica} has of {key} is not what was recorded: a write whose end was not seen may have arrived. {}: {}", next_step(next), why.message);
                    wrong.push((replica.clone(), Outcome::Cleared { next, why: explained(why, next) }));
                }
                ReadResult::Unread(why) => {
                    debug!(object.key = %key, replica.id = %replica, "{key} at {replica} is to be read again and cannot be: {why}");
                }
            }
        }
        if let Some((from, content, said)) = changed {
            match self.changes.decide(lease, from).await {
                // Whatever was found to be wrong elsewhere is a copy of the old content.
                ChangeDecision::Begin if self.changes.begin_generation(lease, from, content, said).await => {
                    return Ok(FencedWrite::Applied);
                }
                ChangeDecision::Begin | ChangeDecision::Unknown => return Ok(FencedWrite::Superseded),
                ChangeDecision::Park(why) => {
                    wrong.push((from.clone(), Outcome::Cleared { next: NextAttempt::Parked, why }));
                }
            }
        }
        if !wrong.is_empty() {
            return Ok(self.take_back(lease, wrong).await);
        }
        if !settled.is_empty() {
            self.leases.settle(key, &settled).await?;
            debug!(object.key = %key, "Copies of {key} were read again and are what was recorded");
        }
        Ok(FencedWrite::Superseded)
    }

    async fn take_back(&self, lease: &Lease, outcomes: Vec<(ReplicaName, Outcome)>) -> FencedWrite {
        let Some(until) = self.held.until(&lease.key, lease.fence) else { return FencedWrite::Superseded };
        let report = Report {
            key: lease.key.clone(),
            generation: lease.generation,
            fence: lease.fence,
            content: None,
            metadata: None,
            not_carried: None,
            source: None,
            outcomes,
            release: true,
            survived: false,
            unsettled: Vec::new(),
        };
        let answer = self.completer.write(report, until).await;
        self.waker.wake();
        answer
    }
}

/// No daemon has read the object in this generation, so there is nothing to compare with. Of the primary the
/// application's word counts until then; a copy that was taken over from a listing is made again.
fn never_read(copy: &UnsettledCopy, is_primary: bool) -> ReadResult {
    if is_primary {
        return ReadResult::Equal;
    }
    let what = "its copy was recorded without being read, and a write to it may have arrived since";
    ReadResult::Different(Failure::new(FailureClass::Corrupt, format!("replica {}: {what}", copy.replica)))
}

fn next_step(next: NextAttempt) -> &'static str {
    match next {
        NextAttempt::Parked => "It is the primary, which is not written over, so this copy is parked",
        NextAttempt::After { .. } => "It is copied again",
    }
}

/// At the primary an operator has to decide which content is the object's.
fn explained(mut why: Failure, next: NextAttempt) -> Failure {
    if next == NextAttempt::Parked && !why.message.contains("register the key again") {
        why.message.push_str(
            ". It is the primary, which is never written over. If this is the content that is wanted, register the key \
             again; if not, put the right object there and retry",
        );
    }
    why
}

impl ReadResult {
    /// The name of it in metrics.
    fn word(&self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Different(_) => "wrong",
            Self::Changed { .. } => "changed",
            Self::Unread(_) => "unknown",
        }
    }
}

impl fmt::Display for UnreadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) => f.write_str(&why.message),
            Self::NotUsable => f.write_str("this daemon does not use that replica at the moment"),
            Self::TooSlow(limit) => write!(f, "it took more than {limit:?}"),
        }
    }
}
