use std::time::{Duration, Instant};

use super::{Class, Content, MetadataHash, ObjectKey, ReplicaName, SourceReading};

/// The number that guards every write of a claim. Random, and compared for
/// equality only, so that one lost in a crash is a number nobody will have again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fence(pub i64);

/// One content of a key; registering the key again begins the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub i64);

/// A place in the order in which objects were first registered: registering a key again leaves it where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arrival(pub i64);

/// What the row said of one replica when it was claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    pub replica: ReplicaName,
    /// A copy of this generation is on record there.
    pub recorded: bool,
    /// It is wanted, not recorded, and its time has come.
    pub due: bool,
    pub prior: Option<PriorFailure>,
}

/// What `copy_failures` knew of one replica when the row was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriorFailure {
    /// `None`: a class of another version of this program.
    pub class: Option<Class>,
    /// Attempts that counted, at least 0.
    pub attempts: u32,
}

/// The right to copy one object until [`Lease::until`]. Not `Clone`: it is finished once.
#[derive(Debug)]
pub struct Lease {
    pub key: ObjectKey,
    pub arrival: Arrival,
    pub generation: Generation,
    pub fence: Fence,
    /// By our own monotonic clock, taken before the claim was sent, so that we
    /// always think we have less time than the database gives us.
    pub until: Instant,
    /// When the claim was sent, by the same clock.
    pub claimed: Instant,
    /// The size that whoever registered the object stated, or the first read found.
    pub size_bytes: Option<u64>,
    /// What the first complete read of this generation found.
    pub content: Option<Content>,
    /// The metadata that came with it; `None`: it was not compared.
    pub metadata: Option<MetadataHash>,
    /// What the source said of the object in that read; `None`: nothing is kept of it.
    pub source: Option<SourceReading>,
    /// How long this generation is registered, by the database's clock.
    pub age: Duration,
    /// A lease of this object ran out without its holder, whose last request may still arrive at a store; how often in
    /// a row within this generation. `None`: none did, as far as it is remembered.
    pub swept: Option<u32>,
    /// In the order of the configuration.
    pub replicas: Vec<ReplicaState>,
}

impl Lease {
    /// The replicas that are to be written: wanted, missing and due.
    pub fn targets(&self) -> impl Iterator<Item = &ReplicaState> {
        self.replicas.iter().filter(|r| r.due)
    }
}
