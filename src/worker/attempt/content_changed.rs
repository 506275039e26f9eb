//! Decides what becomes of a content at the primary that no program registered.

use copyhold_core::domain::{
    AttemptContext, Content, Failure, FailureClass, Lease, NextAttempt, RecordedSource, ReplicaName, SourceReading,
    next_attempt,
};
use copyhold_db::{
    Leases,
    lease::{FencedWrite, UnregisteredChange},
    replica::{ChangeAdmission, changes_are_parked, too_many_changes},
};
use rand::RngExt as _;
use tracing::{info, warn};

use crate::{config::UnregisteredChanges, metrics, wakeup::wake_channel::WakeSender};

/// What is to become of an unregistered change.
pub(super) enum ChangeDecision {
    /// It begins a generation.
    Begin,
    /// Nothing is copied because of it.
    Park(Failure),
    /// PostgreSQL did not answer; the next holder finds the change again.
    Unknown,
}

/// Decides about unregistered contents at the primary, for attempts and the rechecker.
#[derive(Debug, Clone)]
pub struct ContentChanges {
    pub leases: Leases,
    /// What the configuration wants done with them.
    pub policy: UnregisteredChanges,
    /// Woken when a generation begins.
    pub wake_claimer: WakeSender,
}

impl ContentChanges {
    /// Whether a change at a replica may begin a generation.
    pub(super) async fn decide(&self, lease: &Lease, from: &ReplicaName) -> ChangeDecision {
        match self.policy {
            UnregisteredChanges::CopyAll => ChangeDecision::Begin,
            UnregisteredChanges::Park => {
                metrics::change_parked(from);
                ChangeDecision::Park(changes_are_parked(from))
            }
            UnregisteredChanges::Copy => match self.leases.admit_change(from).await {
                Ok(ChangeAdmission::Admitted) => ChangeDecision::Begin,
                Ok(ChangeAdmission::Refused { first }) => {
                    metrics::change_parked(from);
                    let why = too_many_changes(from);
                    if first {
                        warn!(replica.id = %from, "Unregistered changes at {from} are parked from here on: {}", why.message);
                    }
                    ChangeDecision::Park(why)
                }
                Err(error) => {
                    metrics::database_error("replica::admit_change");
                    warn!(object.key = %lease.key, error = %error, "{} was changed at {from}, but PostgreSQL did not answer whether that may be copied; it will be found again", lease.key);
                    ChangeDecision::Unknown
                }
            },
        }
    }

    /// Begins a new generation with what was read at the primary, where no program registered the change. Nothing
    /// of it was written anywhere; the next claim, at once, copies it to all replicas. `true`: the lease is released.
    pub(super) async fn begin_generation(
        &self,
        lease: &Lease,
        from: &ReplicaName,
        content: Content,
        said: SourceReading,
    ) -> bool {
        let with = unregistered(lease, from, content, said);
        let key = &lease.key;
        match self.leases.begin_generation(lease, &with).await {
            Ok(FencedWrite::Applied) => {}
            Ok(FencedWrite::RowLocked | FencedWrite::Superseded | FencedWrite::FailureWritten) => {
                info!(object.key = %key, "{key} was changed at {from}; meanwhile it was registered, its row is locked, or its lease is lost");
                return false;
            }
            Err(error) => {
                metrics::database_error("lease::begin_generation");
                warn!(object.key = %key, error = %error, "Could not record that {key} was changed at {from}; it will be found again");
                return false;
            }
        }
        let next =
            if with.park { "its copies are parked, because it changes all the time" } else { "it is copied anew" };
        warn!(object.key = %key, replica.id = %from, in_a_row = with.in_a_row, "{key} was changed at {from} without being registered: a new generation begins, {next}");
        for target in lease.targets().filter(|r| r.replica != *from) {
            metrics::failed(&target.replica, FailureClass::Changed);
        }
        self.wake_claimer.wake();
        true
    }

    /// What is on record of the reading that fixed the object's content, for one that has its copy at the primary.
    ///
    /// Where nothing is kept of that reading, in rows from before that was kept, or because a daemon has written the
    /// object there, the time of the record is asked for.
    /// Without an answer another content there is judged as if nothing were known.
    pub(super) async fn kept(&self, lease: &Lease, primary: &ReplicaName) -> RecordedSource {
        let mut kept = RecordedSource { reading: lease.source.clone(), recorded_us: None };
        let is_dated = |reading: &SourceReading| reading.replica != *primary || reading.modified_us.is_some();
        if lease.content.is_some()
            && !kept.reading.as_ref().is_some_and(is_dated)
            && let Ok(rows) = self.leases.recorded_of(std::slice::from_ref(&lease.key)).await
        {
            let mut recorded = rows.iter().flat_map(|row| &row.recorded);
            kept.recorded_us = recorded.find(|(replica, _)| replica == primary).map(|(_, at)| *at);
        }
        kept
    }
}

/// How often in a row decides, as for every other failure, whether it is tried again.
fn unregistered(lease: &Lease, from: &ReplicaName, content: Content, said: SourceReading) -> UnregisteredChange {
    let message = format!("it was changed at {from} without being registered");
    let why = Failure::new(FailureClass::Changed, message.clone());
    let priors = lease.replicas.iter().filter_map(|r| r.prior);
    let before = priors.filter(|p| p.class == Some(FailureClass::Changed)).map(|p| p.attempts).max().unwrap_or(0);
    let attempt = AttemptContext { before, age: lease.age, others_succeed: false, jitter: rand::rng().random() };
    let park = next_attempt(&why, attempt) == NextAttempt::Parked;
    UnregisteredChange { from: from.clone(), content, said, in_a_row: before + 1, park, message }
}
