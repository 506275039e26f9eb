//! A lease and what the claim returned with it: the row of one object and the state of each of its replicas.

use std::time::{Duration, Instant};

use super::{Content, FailureClass, MetadataHash, ObjectKey, ReplicaName, SourceReading};

/// The number that guards every write of a claim. Random, and compared for
/// equality only, so that a number lost in a crash is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fence(pub i64);

/// One content of a key; registering the key again begins the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub i64);

/// The position of an object in the order of first registration. Registering a key again does not change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistrationOrder(pub i64);

/// The state of one replica in the row when it was claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    pub replica: ReplicaName,
    /// A copy of this generation is on record there.
    pub recorded: bool,
    /// The copy is wanted, not recorded, and due.
    pub due: bool,
    pub prior: Option<PriorFailure>,
}

/// The entry of one replica in `copy_failures` when the row was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriorFailure {
    /// `None`: a class that only another version of this program knows.
    pub class: Option<FailureClass>,
    /// Attempts that were counted.
    pub attempts: u32,
}

/// The right to copy one object until [`Lease::until`]. Not `Clone`: it is finished once.
#[derive(Debug)]
pub struct Lease {
    pub key: ObjectKey,
    pub registration_order: RegistrationOrder,
    pub generation: Generation,
    pub fence: Fence,
    /// When the lease ends by our own monotonic clock, read before the claim was sent:
    /// never later than by the database's clock.
    pub until: Instant,
    /// When the claim was sent, by the same clock.
    pub claimed: Instant,
    /// The size that the registration stated, or that the first read found.
    pub size_bytes: Option<u64>,
    /// What the first complete read of this generation found.
    pub content: Option<Content>,
    /// The metadata that came with it; `None`: it was not compared.
    pub metadata: Option<MetadataHash>,
    /// Last-Modified and ETag of that read; `None`: they were not recorded.
    pub source: Option<SourceReading>,
    /// Time since this generation was registered, by the database's clock.
    pub age: Duration,
    /// How many leases of this generation expired in a row. The last request of such a holder may still reach a store.
    /// `None`: none is on record.
    pub swept: Option<u32>,
    /// The replicas, in the order of the configuration.
    pub replicas: Vec<ReplicaState>,
}

impl Lease {
    /// Returns the replicas to write: wanted, missing and due.
    pub fn targets(&self) -> impl Iterator<Item = &ReplicaState> {
        self.replicas.iter().filter(|r| r.due)
    }
}
