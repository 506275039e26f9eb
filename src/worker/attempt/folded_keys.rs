//! Keeps objects apart whose keys a store folds into one: none of them is copied there.

use std::time::Duration;

use copyhold_core::domain::{Failure, FailureClass, Folds, Lease, NextAttempt, ObjectKey, Outcome, ReplicaName};
use copyhold_db::{
    DatabaseError, Leases,
    lease::FencedWrite,
    object::{FalseRecord, KeyTwin, Revocation},
};
use copyhold_s3::{
    copy::{Job, Target, kept_as_another},
    store::{KeptAs, Store},
};
use tracing::{info, warn};

use crate::{metrics, worker::replica::ReplicaRegistry};

/// How long a copy is deferred while its twin's record cannot be revoked.
pub(super) const REST: Duration = Duration::from_secs(5);
/// Of a key in a message.
const SHOWN_CHARS: usize = 100;

/// Revokes the records of other objects whose keys a store folds into this one's.
pub(super) struct FoldedKeys<'r> {
    pub leases: &'r Leases,
    pub registry: &'r ReplicaRegistry,
}

impl FoldedKeys<'_> {
    /// Takes off the job those targets where another registered object has the key, and returns their outcomes. The
    /// copies of the others there may hold this object's bytes: their records are revoked first.
    pub(super) async fn keep_apart(&self, lease: &Lease, job: &mut Job) -> Vec<(ReplicaName, Outcome)> {
        let mut outcomes = Vec::new();
        for target in std::mem::take(&mut job.targets) {
            let outcome = match target.store.kept_as(&lease.key) {
                Some(kept_as) => Some(self.judge_kept_as(lease, &target.store, &kept_as).await),
                None if target.folds == Folds::NONE => None,
                None => self.judge_twins(lease, &target).await,
            };
            match outcome {
                None => job.targets.push(target),
                Some(outcome) => outcomes.push((target.store.name().clone(), outcome)),
            }
        }
        outcomes
    }

    /// `None`: no twin is registered.
    async fn judge_twins(&self, lease: &Lease, target: &Target) -> Option<Outcome> {
        let (key, replica) = (&lease.key, target.store.name());
        let parted = async {
            let twins = self.leases.key_twins(key, replica, target.folds).await?;
            let mut all_parted = true;
            for twin in &twins {
                all_parted &= self.take_back_twin(key, replica, twin).await?;
            }
            Ok::<_, DatabaseError>((twins, all_parted))
        };
        match parted.await {
            Ok((twins, _)) if twins.is_empty() => None,
            Ok((twins, true)) => {
                let others: Vec<_> = twins.iter().map(|twin| &twin.key).collect();
                Some(Outcome::Failed { next: NextAttempt::Parked, why: is_one(replica, key, &others) })
            }
            Ok((_, false)) => Some(Outcome::Deferred { delay: REST }),
            Err(error) => {
                metrics::database_error("object::key_twins");
                warn!(object.key = %key, error = %error, "Could not query whether {replica}, which folds keys, keeps another object as {key}; not copying it there for now");
                Some(Outcome::Deferred { delay: REST })
            }
        }
    }

    /// The store keeps this object under another name: what is on record of the object of that name, if there is one,
    /// may be this object's bytes.
    async fn judge_kept_as(&self, lease: &Lease, store: &Store, kept_as: &KeptAs) -> Outcome {
        if self.is_parted(&lease.key, store, kept_as).await {
            Outcome::Failed { next: NextAttempt::Parked, why: kept_as_another(store, &lease.key, &kept_as.other) }
        } else {
            Outcome::Deferred { delay: REST }
        }
    }

    /// Revokes the record of the object that a copy of this one has just overwritten there, if it has.
    /// `false`: that could not be done yet.
    pub(super) async fn part_from_other(&self, lease: &Lease, replica: &ReplicaName) -> bool {
        let replicas = self.registry.replicas();
        let Some(store) = replicas.iter().find(|r| r.name == *replica).map(|r| &r.store) else { return true };
        match store.kept_as(&lease.key) {
            Some(kept_as) => self.is_parted(&lease.key, store, &kept_as).await,
            None => true,
        }
    }

    async fn is_parted(&self, key: &ObjectKey, store: &Store, kept_as: &KeptAs) -> bool {
        if kept_as.is_taken_back {
            return true;
        }
        let (replica, other) = (store.name(), &kept_as.other);
        let parted = async {
            match self.leases.key_twin(key, replica, other).await? {
                Some(twin) => self.take_back_twin(key, replica, &twin).await,
                None => Ok(true),
            }
        };
        let is_parted = parted.await.unwrap_or_else(|error: DatabaseError| {
            metrics::database_error("object::key_twins");
            warn!(object.key = %key, error = %error, "Could not revoke the record of {other} at {replica}, under whose name {key} is kept there; trying again");
            false
        });
        if is_parted {
            store.note_taken_back(key);
        }
        is_parted
    }

    /// `true`: its record is gone.
    async fn take_back_twin(
        &self,
        key: &ObjectKey,
        replica: &ReplicaName,
        twin: &KeyTwin,
    ) -> Result<bool, DatabaseError> {
        let Some(recorded_at) = twin.recorded_at else { return Ok(true) };
        let why = is_one(replica, &twin.key, &[key]);
        let what = Revocation {
            key: twin.key.clone(),
            generation: twin.generation,
            refuted: vec![FalseRecord { replica: replica.clone(), recorded_at, park: true, why }],
            park_the_rest: false,
        };
        match self.leases.revoke(&what).await? {
            FencedWrite::Applied => {
                warn!(object.key = %twin.key, replica.id = %replica, "{replica} folds {} and {key} into one key: revoked the record of {} there; neither is copied there", twin.key, twin.key);
                Ok(true)
            }
            // Registered or revoked meanwhile, it is read again.
            FencedWrite::RowLocked | FencedWrite::Superseded | FencedWrite::FailureWritten => {
                info!(object.key = %twin.key, replica.id = %replica, "The record of {} at {replica} is to be revoked, but another transaction has locked its row", twin.key);
                Ok(false)
            }
        }
    }
}

/// Why neither is copied.
fn is_one(replica: &ReplicaName, key: &ObjectKey, others: &[&ObjectKey]) -> Failure {
    let first = others.first().map(|other| shown(other)).unwrap_or_default();
    let more = match others.len() {
        0 | 1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    let what = format!(
        "this store takes the keys {} and {first}{more} for one: each copy would overwrite the other, so none of them is made \
         there. Forget one of the objects (`copyhold forget`) or give it another key, and retry the other; or use a store that \
         keeps such keys apart",
        shown(key)
    );
    Failure::new(FailureClass::Refused, format!("target {replica}: {what}"))
}

/// In ASCII, since twins may look alike.
fn shown(key: &ObjectKey) -> String {
    let mut shown: String = key.as_str().escape_default().take(SHOWN_CHARS).collect();
    if key.as_str().escape_default().count() > SHOWN_CHARS {
        shown.push_str("...");
    }
    format!("\"{shown}\"")
}
