//! What a copy is told to do: the object, where it may be read, and where it is to be written.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use copyhold_core::domain::{Content, Folds, MetadataHash, ObjectKey, RecordedSource};

use super::Journal;
use crate::store::Store;

/// One object to be copied.
#[derive(Debug)]
pub struct Job {
    pub key: ObjectKey,
    /// What the first complete read of this generation found: another content is not recorded.
    pub content: Option<Content>,
    /// The hash of the metadata on record; `None`: not known.
    pub metadata: Option<MetadataHash>,
    /// The primary, if it may be asked, whether it is a source or not.
    pub primary: Option<Arc<Store>>,
    /// What is on record of that reading: by it the primary is judged if it has another content.
    pub kept: RecordedSource,
    /// Its size as the registrar stated it, or as it was found. A source that has another is not where the object
    /// as it was registered is: an older content, or an upload that has not ended.
    pub stated_bytes: Option<u64>,
    /// In order of preference.
    pub sources: Vec<Source>,
    /// None of them is a source.
    pub targets: Vec<Target>,
    /// A target that falls further behind the first than this is let go.
    pub lag: Duration,
    /// Where uploads in parts are written down.
    pub journal: Arc<dyn Journal>,
}

/// Where the object may be read.
#[derive(Debug, Clone)]
pub struct Source {
    pub store: Arc<Store>,
    /// Its copy is on record, so it should have the object.
    pub recorded: bool,
    /// What it holds is the object, whatever is known of it; what any other holds is a copy.
    pub primary: bool,
}

/// Where the object is to be written.
#[derive(Debug, Clone)]
pub struct Target {
    pub store: Arc<Store>,
    pub existing: OnExisting,
    /// It is known to be much slower than others: what only waits for it gets its share of the memory and no more.
    pub slow: bool,
    /// It was tried before, and nobody knows for certain how that ended.
    pub again: bool,
    /// What it held was found to be damaged: what its store says of that is not taken for its bytes.
    pub damaged: bool,
    /// The ways in which it is known to take different keys for one: none of the object's twins is registered.
    pub folds: Folds,
}

/// What to do where an object of the same key already is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExisting {
    /// The bucket was empty when it was taken into use, or may be overwritten.
    PutOver,
    /// What was last modified before this time, by the store's clock, is not ours: if
    /// it is equal it counts as the copy, else it is left alone. `None`: nothing that stands there is.
    Adopt { older_than: Option<SystemTime> },
}
