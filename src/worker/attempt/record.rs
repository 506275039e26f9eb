//! Collects what an attempt has found out, and turns it into outcomes. Pure, but for the jitter of the back-off.

use std::{collections::HashMap, time::Duration};

use copyhold_core::domain::{
    AttemptContext, Content, Failure, FailureClass, FailureScope, Lease, MetadataHash, NextAttempt, NotCarried,
    ObjectKey, Outcome, PriorFailure, ReplicaName, SourceReading, Verified, next_attempt,
};
use copyhold_db::lease::{Report, UnsettledWrite};
use copyhold_s3::copy::CopyStep;
use rand::RngExt as _;

use crate::worker::replica::Diagnosis;

/// How long a copy is deferred that was aborted because slow ones held too much.
const CROWDED_OUT_FOR: Duration = Duration::from_secs(30);

/// An object that fails where another one succeeded within this time is at fault itself.
const OTHERS_SUCCEED_WITHIN: Duration = Duration::from_mins(1);

/// What the copy has reported so far and is not written yet.
#[derive(Debug)]
pub(super) struct AttemptRecord {
    key: ObjectKey,
    age: Duration,
    priors: HashMap<ReplicaName, PriorFailure>,
    recorded: Vec<ReplicaName>,
    due: Vec<ReplicaName>,
    content: Option<Content>,
    metadata: Option<MetadataHash>,
    /// Properties of the object that some copy of it lacks; `None`: it was not read yet.
    not_carried: Option<Vec<NotCarried>>,
    /// The primary has another content by now.
    pub(super) changed: Option<(ReplicaName, Content, SourceReading)>,
    /// How the primary described the object, to be stored with the content.
    source_reading: Option<SourceReading>,
    /// The replica whose description is stored.
    source_replica: Option<ReplicaName>,
    /// Replicas that are on record and turned out not to have the object, or not this content of it.
    /// `true`: the copy is parked, since an operator has to decide.
    missing: Vec<(ReplicaName, Failure, bool)>,
    outcomes: Vec<(ReplicaName, Outcome)>,
    /// Replicas whose result is outstanding.
    pending: Vec<ReplicaName>,
    /// Replicas that have got some of it in this attempt, though not all.
    advanced: Vec<ReplicaName>,
    /// Whether some source had it.
    was_read: bool,
    /// Holders of the object have died before this one.
    swept: bool,
    /// Whether any copy was proven.
    proven: bool,
    /// Requests that may make an object appear, by target, the last of each.
    writes: HashMap<ReplicaName, TargetWrite>,
}

/// A request that may make the object appear at a target.
#[derive(Debug)]
struct TargetWrite {
    content: Content,
    metadata: Option<MetadataHash>,
    /// It completes an upload, which may take a store long.
    completes: bool,
    /// A complete answer to it has come, or none of it was sent.
    ended: bool,
}

/// A store may assemble terabytes before it answers; the daemon waits for so long.
const COMPLETE_MAY_TAKE: Duration = Duration::from_mins(10);

impl AttemptRecord {
    pub(super) fn new(lease: &Lease) -> Self {
        Self {
            key: lease.key.clone(),
            age: lease.age,
            priors: lease.replicas.iter().filter_map(|r| Some((r.replica.clone(), r.prior?))).collect(),
            recorded: lease.replicas.iter().filter(|r| r.recorded).map(|r| r.replica.clone()).collect(),
            due: lease.targets().map(|r| r.replica.clone()).collect(),
            content: None,
            metadata: None,
            not_carried: None,
            changed: None,
            source_reading: None,
            source_replica: lease.source.as_ref().map(|source| source.replica.clone()),
            missing: Vec::new(),
            outcomes: Vec::new(),
            pending: Vec::new(),
            advanced: Vec::new(),
            was_read: false,
            swept: lease.swept.is_some(),
            proven: false,
            writes: HashMap::new(),
        }
    }

    /// Expects a result of each target, and of each due source that it was read.
    pub(super) fn expect<'n>(
        &mut self,
        targets: impl Iterator<Item = &'n ReplicaName>,
        sources: impl Iterator<Item = &'n ReplicaName>,
    ) {
        let due_sources = sources.filter(|name| self.due.contains(name));
        self.pending = targets.chain(due_sources).cloned().collect();
    }

    /// Adds the outcomes of targets that are not part of the copy.
    pub(super) fn add_outcomes(&mut self, outcomes: Vec<(ReplicaName, Outcome)>) {
        self.outcomes.extend(outcomes);
    }

    /// Returns whether nothing is left to be tried.
    pub(super) fn is_done(&self) -> bool {
        self.pending.is_empty() && !self.outcomes.is_empty()
    }

    /// Nothing was tried; the due copies are deferred for so long.
    pub(super) fn defer_all(&mut self, delay: Duration) {
        self.outcomes = self.due.iter().map(|replica| (replica.clone(), Outcome::Deferred { delay })).collect();
    }

    /// It took too long, and was stopped.
    pub(super) fn exceed_time_limit(&mut self, limit: Duration, size_bytes: Option<u64>) {
        let size = size_bytes.map_or_else(|| "an object of unknown size".to_owned(), |size| format!("{size} bytes"));
        let message = format!("stopped after {limit:.0?}, which is all that {size} may take");
        let why = Failure::new(FailureClass::Transient, message);
        for replica in std::mem::take(&mut self.pending) {
            let outcome = Outcome::Failed { next: self.next(&replica, &why, false), why: why.clone() };
            self.outcomes.push((replica, outcome));
        }
    }

    /// Records at once what needs no diagnosis.
    pub(super) fn observe(&mut self, step: &CopyStep) {
        match step {
            CopyStep::WriteBegun { replica, content, metadata, completes } => {
                let write = TargetWrite { content: *content, metadata: *metadata, completes: *completes, ended: false };
                self.writes.insert(replica.clone(), write);
            }
            CopyStep::Described { metadata, not_carried } => {
                self.metadata = Some(*metadata);
                self.not_carried = Some(not_carried.clone());
            }
            CopyStep::Lacks { property, .. } => {
                let lacking = self.not_carried.get_or_insert_default();
                if !lacking.contains(property) {
                    lacking.push(*property);
                }
            }
            CopyStep::WriteEnded { replica } => {
                if let Some(write) = self.writes.get_mut(replica) {
                    write.ended = true;
                }
            }
            _ => {}
        }
    }

    /// The writes of this attempt whose end was not seen; or all, where the lease was lost meanwhile: then another
    /// holder's record may be older than a write of ours that was answered. `settle`: as for a holder that has died.
    pub(super) fn unsettled(&self, lease: &Lease, all: bool, settle: Duration) -> Vec<UnsettledWrite> {
        let open = self.writes.iter().filter(|(_, write)| all || !write.ended);
        let unsettled = open.map(|(replica, write)| UnsettledWrite {
            key: lease.key.clone(),
            replica: replica.clone(),
            content: write.content,
            metadata: write.metadata,
            settle: if write.completes { settle.max(COMPLETE_MAY_TAKE) } else { settle },
        });
        unsettled.collect()
    }

    pub(super) fn apply(&mut self, step: CopyStep, diagnosis: Diagnosis) {
        if let CopyStep::Read { from: of, .. }
        | CopyStep::SourceFailed { replica: of, .. }
        | CopyStep::Target { replica: of, .. } = &step
        {
            self.pending.retain(|replica| replica != of);
        }
        match step {
            CopyStep::Opened { .. }
            | CopyStep::Described { .. }
            | CopyStep::Lacks { .. }
            | CopyStep::WriteBegun { .. }
            | CopyStep::WriteEnded { .. } => {}
            CopyStep::Kept { replica, .. } => self.advanced.push(replica),
            CopyStep::Read { from, content, said } => {
                self.content = Some(content);
                self.source_reading = said.or_else(|| self.source_reading.take());
                self.was_read = true;
                if !self.recorded.contains(&from) {
                    self.outcomes.push((from, Outcome::recorded(Verified::Source)));
                }
            }
            CopyStep::Changed { from, content, said } => self.changed = Some((from, content, said)),
            CopyStep::Stale { replica, why, park } => self.missing.push((replica, why, park)),
            CopyStep::SourceFailed { replica, why } => {
                if why.class == FailureClass::Gone && self.recorded.contains(&replica) {
                    self.missing.push((replica, why, false));
                } else if self.due.contains(&replica) {
                    // It was to be proven by reading it, and is no target.
                    let outcome = self.failed(&replica, why, diagnosis);
                    self.outcomes.push((replica, outcome));
                }
            }
            CopyStep::Target { replica, result } => {
                let outcome = match result {
                    Ok(proof) => {
                        // Written by us, it has another Last-Modified and ETag than are kept, and no daemon has read
                        // them.
                        if self.source_replica.as_ref() == Some(&replica) {
                            self.source_reading =
                                Some(SourceReading { replica: replica.clone(), modified_us: None, tag: None });
                        }
                        Outcome::recorded(proof)
                    }
                    Err(why) => self.failed(&replica, why, diagnosis),
                };
                self.outcomes.push((replica, outcome));
            }
        }
    }

    /// Its slow targets held too much of the memory, which is not this copy's fault.
    pub(super) fn crowded_out(&mut self) {
        let rests = |replica| (replica, Outcome::Deferred { delay: CROWDED_OUT_FOR });
        self.outcomes.extend(std::mem::take(&mut self.pending).into_iter().map(rests));
    }

    /// A store's fault is charged to no copy, nor explained by it: its breaker has the reason.
    fn failed(&self, replica: &ReplicaName, why: Failure, diagnosis: Diagnosis) -> Outcome {
        let (others, failing_for) = match diagnosis {
            Diagnosis::Store { rest } => return Outcome::Deferred { delay: rest },
            Diagnosis::Object { others, failing_for } => (others, failing_for),
        };
        let succeed = others.is_some_and(|ago| ago < OTHERS_SUCCEED_WITHIN + failing_for);
        let next = self.next(replica, &why, succeed);
        // A transient failure may happen while others succeed.
        let passing = match why.class {
            FailureClass::Throttled => true,
            FailureClass::Transient => !self.priors.contains_key(replica),
            _ => false,
        };
        let named = succeed && !passing && why.scope != FailureScope::Object;
        Outcome::Failed { next, why: if named { why.of_the_object(&self.key) } else { why } }
    }

    /// A recorded time that is known to be false is revoked. If another source had the object, the gap is to be
    /// filled at once; if none had, all wait alike for the upload to end.
    pub(super) fn conclude(&mut self) {
        for (replica, why, park) in std::mem::take(&mut self.missing) {
            if park {
                let next = NextAttempt::Parked;
                if self.recorded.contains(&replica) {
                    self.outcomes.push((replica, Outcome::Cleared { next, why }));
                } else if self.due.contains(&replica) {
                    self.outcomes.push((replica, Outcome::Failed { next, why }));
                }
                // Else that was said before.
                continue;
            }
            let next = if self.was_read && why.class == FailureClass::Gone {
                NextAttempt::After { delay: Duration::ZERO, counted: true }
            } else {
                self.next(&replica, &why, false)
            };
            self.outcomes.push((replica, Outcome::Cleared { next, why }));
        }
    }

    /// The content at a replica is not copied, although it may be a new one.
    pub(super) fn park(&mut self, replica: ReplicaName, why: Failure) {
        self.missing.push((replica, why, true));
    }

    /// An attempt that has brought a large object on is no failed one.
    fn next(&self, replica: &ReplicaName, why: &Failure, others_succeed: bool) -> NextAttempt {
        let advanced = why.class == FailureClass::Transient && self.advanced.contains(replica);
        let prior = self.priors.get(replica).filter(|p| p.class == Some(why.class) && !advanced);
        let before = prior.map_or(0, |p| p.attempts);
        let attempt = AttemptContext { before, age: self.age, others_succeed, jitter: rand::rng().random() };
        match next_attempt(why, attempt) {
            NextAttempt::After { delay, .. } if advanced => NextAttempt::After { delay, counted: false },
            next => next,
        }
    }

    pub(super) fn has_proof(&self) -> bool {
        self.outcomes.iter().any(|(_, o)| matches!(o, Outcome::Recorded { .. }))
    }

    /// What is not written yet. The report that releases the lease has the writes whose end was not seen: until then
    /// they may be under way.
    pub(super) fn report(&mut self, lease: &Lease, release: bool, settle: Duration) -> Report {
        self.proven |= self.has_proof();
        Report {
            key: lease.key.clone(),
            generation: lease.generation,
            fence: lease.fence,
            content: self.content,
            outcomes: std::mem::take(&mut self.outcomes),
            release,
            metadata: self.metadata,
            not_carried: self.not_carried.clone(),
            source: self.source_reading.clone(),
            survived: self.swept && self.proven,
            unsettled: if release { self.unsettled(lease, false, settle) } else { Vec::new() },
        }
    }
}
