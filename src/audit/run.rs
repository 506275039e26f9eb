//! The run of `copyhold verify`: objects in the order of keys, many copies at the same time.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use copyhold_core::domain::{ObjectKey, ReplicaName};
use copyhold_db::{
    Database, DatabaseError,
    object::{ChangedObject, FalseRecord, Revocation},
    replica::{ChangeAdmission, changes_are_parked, too_many_changes},
    retry_while_down::retry_while_down,
    walk::{ObjectRange, RecordedObject},
};
use futures::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    audited_replica::AuditedReplica,
    counts::{Action, Finding, Findings, UnreadableCopy},
    in_order::ConcludedPrefix,
    inspect::{Depth, Inspection, Observation},
    metadata::Metadata,
    verdict::{Verdict, judge, what},
};
use crate::config::UnregisteredChanges;

/// Keys of one statement.
const KEYS: usize = 256;

/// Which objects are verified.
#[derive(Debug, Clone)]
pub enum Objects {
    /// Each of them once.
    These(Vec<ObjectKey>),
    /// Those that come after this key.
    Range { range: ObjectRange, after: Option<ObjectKey> },
}

/// What is to be done, and what has come of it so far.
#[derive(Debug)]
pub struct Audit {
    pub(super) database: Database,
    /// The one in force.
    pub(super) primary: ReplicaName,
    replicas: Vec<AuditedReplica>,
    /// How much of each copy is read.
    pub(super) depth: Depth,
    /// Nothing is written.
    pub(super) dry_run: bool,
    workers: usize,
    /// What becomes of an unregistered content at the primary.
    unregistered_changes: UnregisteredChanges,
    /// Copies that may be read at once.
    reading: Semaphore,
    /// Objects that were concluded.
    objects: AtomicU64,
    findings: Mutex<Findings>,
}

/// How far it came.
#[derive(Debug, Default)]
pub struct AuditResult {
    /// Everything up to and with this key is concluded; `None`: nothing is, or keys were named.
    pub up_to: Option<ObjectKey>,
    /// All of it is.
    pub complete: bool,
    /// Of keys that were named, those that are not registered.
    pub unregistered: Vec<ObjectKey>,
    /// Why it ended early, unless it was stopped.
    pub error: Option<DatabaseError>,
}

/// What the reader of the table passes on.
enum FeedItem {
    Object(RecordedObject),
    /// Nothing else is there up to this key.
    Passed(ObjectKey),
}

impl Audit {
    /// `workers`: objects, and copies, that are read at once.
    #[must_use]
    pub fn new(database: Database, primary: ReplicaName, replicas: Vec<AuditedReplica>, workers: usize) -> Self {
        Self {
            database,
            primary,
            replicas,
            depth: Depth::Bytes,
            dry_run: false,
            unregistered_changes: UnregisteredChanges::Copy,
            workers,
            reading: Semaphore::new(workers),
            objects: AtomicU64::new(0),
            findings: Mutex::default(),
        }
    }

    /// How much of each copy is read.
    #[must_use]
    pub fn depth(self, depth: Depth) -> Self {
        Self { depth, ..self }
    }

    /// What becomes of an unregistered content at the primary.
    #[must_use]
    pub fn unregistered_changes(self, unregistered_changes: UnregisteredChanges) -> Self {
        Self { unregistered_changes, ..self }
    }

    /// Writes nothing.
    #[must_use]
    pub fn dry_run(self, dry_run: bool) -> Self {
        Self { dry_run, ..self }
    }

    #[must_use]
    pub fn replicas(&self) -> &[AuditedReplica] {
        &self.replicas
    }

    /// Objects that are concluded by now.
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.objects.load(Ordering::Relaxed)
    }

    /// What was found by now, in the order of keys.
    #[must_use]
    pub fn findings(&self) -> Findings {
        let mut findings = self.lock().clone();
        findings.sort();
        findings
    }

    /// Verifies all of them, until `stop`: then it aborts what is being read, and concludes nothing from it.
    pub async fn run(&self, objects: Objects, stop: &CancellationToken) -> AuditResult {
        let mut ended = AuditResult::default();
        let named = matches!(objects, Objects::These(_));
        let (sender, receiver) = mpsc::channel(KEYS);
        let feed = async {
            // Dropped with it, which ends the work.
            let sender = sender;
            stop.run_until_cancelled(Box::pin(self.feed(objects, &sender, &mut ended))).await
        };
        let (result, in_order) = tokio::join!(feed, self.work(receiver, stop));
        let all_fed = match result {
            None => false,
            Some(Ok(())) => true,
            Some(Err(error)) => {
                ended.error = Some(error);
                false
            }
        };
        ended.complete = all_fed && in_order.is_complete();
        ended.up_to = in_order.up_to.filter(|_| !named);
        ended
    }

    async fn feed(
        &self,
        objects: Objects,
        to: &mpsc::Sender<FeedItem>,
        ended: &mut AuditResult,
    ) -> Result<(), DatabaseError> {
        // A closed channel means that the audit was stopped.
        match objects {
            Objects::These(keys) => {
                for some in keys.chunks(KEYS) {
                    let found = retry_while_down(async || self.database.recorded_of(some).await).await?;
                    let missing = some.iter().filter(|key| !found.iter().any(|object| object.key == **key));
                    ended.unregistered.extend(missing.cloned());
                    for object in found {
                        let _ = to.send(FeedItem::Object(object)).await;
                    }
                }
            }
            Objects::Range { range, mut after } => loop {
                let page = retry_while_down(async || self.database.recorded_page(&range, after.as_ref()).await).await?;
                for object in page.objects {
                    let _ = to.send(FeedItem::Object(object)).await;
                }
                let Some(last) = page.last else { break };
                let _ = to.send(FeedItem::Passed(last.clone())).await;
                after = Some(last);
            },
        }
        Ok(())
    }

    /// Audits several objects at once, in order as far as possible.
    async fn work(&self, mut from: mpsc::Receiver<FeedItem>, stop: &CancellationToken) -> ConcludedPrefix {
        let mut in_order = ConcludedPrefix::default();
        let mut under_way = FuturesUnordered::new();
        let mut all_fed = false;
        while !(all_fed && under_way.is_empty()) {
            let room = under_way.len() < self.workers && in_order.has_room();
            tokio::select! {
                biased;
                Some(concluded) = under_way.next() => match concluded {
                    Some(key) => in_order.concluded(&key),
                    // Stopped: of the others nothing is concluded either.
                    None => all_fed = true,
                },
                fed = from.recv(), if room && !all_fed => match fed {
                    Some(FeedItem::Object(object)) => {
                        in_order.begun(object.key.clone());
                        under_way.push(self.object(object, stop));
                    }
                    Some(FeedItem::Passed(key)) => {
                        in_order.passed(key);
                    }
                    None => all_fed = true,
                },
            }
        }
        in_order
    }

    /// `None`: it was stopped before the state of the object was known.
    async fn object(&self, object: RecordedObject, stop: &CancellationToken) -> Option<ObjectKey> {
        let replicas: Vec<_> = self
            .replicas
            .iter()
            .filter_map(|audited| {
                let (_, at) = object.recorded.iter().find(|(replica, _)| replica == audited.name())?;
                Some((audited, *at))
            })
            .collect();
        let Some(content) = object.content else {
            for (audited, _) in &replicas {
                audited.count(|counts| {
                    (counts.copies, counts.not_known_yet) = (counts.copies + 1, counts.not_known_yet + 1);
                });
            }
            return Some(self.concluded(object.key));
        };
        let recorded = stop.run_until_cancelled(self.reference(&object)).await?;
        let metadata = Metadata { recorded, primary: self.primary_subject() };
        let inspections = replicas.iter().map(async |(audited, recorded_at)| {
            // Cannot fail: it is never closed.
            let _permit = self.reading.acquire().await.expect("an open semaphore");
            let inspection = Inspection {
                audited,
                key: &object.key,
                content,
                recorded_at: *recorded_at,
                source: object.source.as_ref(),
                metadata,
                primary: self.primary == *audited.name(),
                depth: self.depth,
            };
            (audited.name().clone(), *recorded_at, inspection.inspect().await)
        });
        let seen = stop.run_until_cancelled(join_all(inspections)).await?;
        let verdict = match judge(&object, &self.primary, &seen) {
            Verdict::Again(again) if !self.dry_run => self.apply_change_policy(again, &seen).await,
            verdict => verdict,
        };
        let then = match verdict {
            Verdict::Nothing => Vec::new(),
            Verdict::TakeBack(take_back) => {
                let write = async || self.database.revoke(&take_back).await;
                let written = self.write(stop, &object, &seen, write).await;
                let done = |park| if park { Action::Parked } else { Action::Requeued };
                let each = take_back.refuted.iter();
                let each =
                    each.filter_map(|r| Some((r.replica.clone(), written.of(done(r.park))?, r.why.message.clone())));
                let each: Vec<_> = each.collect();
                if take_back.park_the_rest && !each.is_empty() {
                    self.lock().lost(object.key.clone());
                }
                each
            }
            Verdict::Again(again) => {
                let write = async || self.database.register_changed(&again).await;
                let written = self.write(stop, &object, &seen, write).await;
                let then = written.of(Action::RegisteredAgain);
                let each = seen.iter().filter_map(|(of, _, seen)| {
                    let (_, why) = what(seen, self.primary == *of)?;
                    Some((of.clone(), then.clone()?, why.message.clone()))
                });
                each.collect()
            }
        };
        for ((audited, _), (replica, _, seen)) in replicas.iter().zip(seen) {
            let then = then.iter().find(|(of, ..)| *of == replica).map(|(_, then, why)| (then, why.as_str()));
            if recorded.is_none()
                && self.primary != *audited.name()
                && matches!(seen, Observation::Right(_) | Observation::NotCompared)
            {
                audited.count(|counts| counts.metadata_not_compared += 1);
            }
            self.note(audited, &object.key, &seen, then);
        }
        Some(self.concluded(object.key))
    }

    /// Parks an unregistered change if it may not begin a generation.
    async fn apply_change_policy(&self, again: ChangedObject, seen: &[(ReplicaName, i64, Observation)]) -> Verdict {
        let why = match self.unregistered_changes {
            UnregisteredChanges::CopyAll => None,
            UnregisteredChanges::Park => Some(changes_are_parked(&again.primary)),
            UnregisteredChanges::Copy => {
                match retry_while_down(async || self.database.admit_change(&again.primary).await).await {
                    Ok(ChangeAdmission::Refused { .. }) => Some(too_many_changes(&again.primary)),
                    // An obstacle to this query is one to the next statement too, which reports it.
                    Ok(ChangeAdmission::Admitted) | Err(_) => None,
                }
            }
        };
        let recorded = seen.iter().find(|(replica, ..)| *replica == again.primary);
        let Some((why, (replica, recorded_at, _))) = why.zip(recorded) else { return Verdict::Again(again) };
        let refuted = vec![FalseRecord { replica: replica.clone(), recorded_at: *recorded_at, park: true, why }];
        let (key, generation) = (again.key, again.generation);
        Verdict::TakeBack(Revocation { key, generation, refuted, park_the_rest: false })
    }

    /// `then`: what became of the replica's record, and why; `None` of one that is false: the row has changed
    /// meanwhile, so what was seen of it does not count.
    fn note(&self, audited: &AuditedReplica, key: &ObjectKey, seen: &Observation, then: Option<(&Action, &str)>) {
        audited.count(|counts| counts.copies += 1);
        let is_primary = self.primary == *audited.name();
        match (seen, what(seen, is_primary)) {
            (Observation::Right(grade), _) => audited.count(|counts| counts.right(*grade)),
            (Observation::NotCompared, _) => {}
            (Observation::Unknown(why), _) => {
                audited.count(|counts| counts.unreadable += 1);
                // After that it would be the same for every copy.
                if audited.gave_up().is_none() {
                    let why = why.message.clone();
                    self.lock().unread(UnreadableCopy { key: key.clone(), replica: audited.name().clone(), why });
                }
            }
            (Observation::Missing(_) | Observation::Wrong { .. } | Observation::OtherMetadata { .. }, found) => {
                match (found, then) {
                    (Some((what, _)), Some((then, why))) => {
                        audited.count(|counts| counts.found(what, then));
                        let (key, replica) = (key.clone(), audited.name().clone());
                        self.lock().found(Finding { key, replica, what, why: why.to_owned(), then: then.clone() });
                    }
                    _ => audited.count(|counts| counts.changed_meanwhile += 1),
                }
            }
        }
    }

    fn concluded(&self, key: ObjectKey) -> ObjectKey {
        self.objects.fetch_add(1, Ordering::Relaxed);
        key
    }

    /// A poisoned lock only means that a task panicked between two of these short steps.
    fn lock(&self) -> MutexGuard<'_, Findings> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
