//! Which replicas may be read and written to, as one value that is replaced as a whole. Pure.

use std::collections::BTreeMap;

use copyhold_core::domain::{BreakerScope, RegistrationOrder, ReplicaName};
use copyhold_db::replica::FormerPrimary;
use copyhold_s3::copy::OnExisting;

/// What is known of the replicas at the moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaSnapshot {
    /// The primary in force.
    pub primary: Option<ReplicaName>,
    pub access: BTreeMap<ReplicaName, ReplicaAccess>,
    /// The former primaries, and what is known of their contents for that reason.
    pub former: BTreeMap<ReplicaName, FormerPrimary>,
}

/// What this daemon may do with a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaAccess {
    /// Nothing: its bucket is not the one that holds the recorded copies, or that is not known yet.
    Blocked { why: String },
    /// Nothing for now: its store is unhealthy.
    Unavailable { why: String },
    /// The daemon may read it but not write to it.
    ReadOnly { why: String },
    /// The daemon may read it and write to it.
    Writable(OnExisting),
}

impl ReplicaSnapshot {
    pub(super) fn is_readable(&self, replica: &ReplicaName) -> bool {
        self.access.get(replica).is_some_and(ReplicaAccess::is_readable)
    }

    /// Takes away the access that an open breaker forbids.
    pub(super) fn mark_unhealthy(&mut self, replica: &ReplicaName, blocks: BreakerScope, why: &str) {
        let Some(access) = self.access.get_mut(replica) else { return };
        let why = why.to_owned();
        match (blocks, &access) {
            (BreakerScope::All, ReplicaAccess::ReadOnly { .. } | ReplicaAccess::Writable(_)) => {
                *access = ReplicaAccess::Unavailable { why };
            }
            (BreakerScope::Writing, ReplicaAccess::Writable(_)) => *access = ReplicaAccess::ReadOnly { why },
            _ => {}
        }
    }

    /// Returns what is known of the contents of a former primary, if the object was registered while the replica was
    /// the primary, or before.
    fn was_primary_for(&self, replica: &ReplicaName, arrival: RegistrationOrder) -> Option<&FormerPrimary> {
        self.former.get(replica).filter(|former| arrival <= former.through && self.primary.as_ref() != Some(replica))
    }

    /// Returns what to do where the key exists already.
    ///
    /// If the object was registered while the replica was the primary, the key holds an earlier content of the same
    /// object. When the object is registered anew at today's primary, that content is overwritten. What the bucket held
    /// before Copyhold was set up is never overwritten.
    pub(super) fn on_existing(
        &self,
        existing: OnExisting,
        replica: &ReplicaName,
        arrival: RegistrationOrder,
    ) -> OnExisting {
        match (existing, self.was_primary_for(replica, arrival)) {
            (OnExisting::Adopt { .. }, Some(former)) => {
                let foreign = |before| OnExisting::Adopt { older_than: Some(before) };
                former.foreign_before.map_or(OnExisting::PutOver, foreign)
            }
            (existing, _) => existing,
        }
    }
}

impl ReplicaAccess {
    pub(in crate::worker) fn is_readable(&self) -> bool {
        match self {
            Self::Blocked { .. } | Self::Unavailable { .. } => false,
            Self::ReadOnly { .. } | Self::Writable(_) => true,
        }
    }
}
