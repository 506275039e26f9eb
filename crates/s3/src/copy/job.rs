//! The input of a copy: the object, its sources and its targets.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use copyhold_core::domain::{Content, Folds, MetadataHash, ObjectKey, RecordedSource};

use super::Journal;
use crate::store::Store;

/// One object to copy.
#[derive(Debug)]
pub struct Job {
    pub key: ObjectKey,
    /// What the first complete read of this generation found. Other content is not recorded.
    pub content: Option<Content>,
    /// The hash of the metadata on record; `None`: not known.
    pub metadata: Option<MetadataHash>,
    /// The primary, if it may be read, whether it is a source or not.
    pub primary: Option<Arc<Store>>,
    /// What is on record of that reading. The primary is judged by it if it has other content.
    pub kept: RecordedSource,
    /// The size that the registration stated or that was found. A source with another size holds an older content, or
    /// its upload has not ended.
    pub stated_bytes: Option<u64>,
    /// In order of preference.
    pub sources: Vec<Source>,
    /// None of them is a source.
    pub targets: Vec<Target>,
    /// A target that falls further behind the first than this is dropped from the copy.
    pub lag: Duration,
    /// Records the uploads in parts.
    pub journal: Arc<dyn Journal>,
}

/// A replica from which the object may be read.
#[derive(Debug, Clone)]
pub struct Source {
    pub store: Arc<Store>,
    /// Its copy is on record, so it should have the object.
    pub recorded: bool,
    /// It is the primary: what it holds is the object. Other replicas hold copies.
    pub primary: bool,
}

/// A replica to which the object is to be written.
#[derive(Debug, Clone)]
pub struct Target {
    pub store: Arc<Store>,
    pub existing: OnExisting,
    /// It is known to be much slower than others. Bytes that wait for it alone get a limited share of the memory.
    pub slow: bool,
    /// An earlier attempt was made, and its outcome is unknown.
    pub again: bool,
    /// Its copy was found damaged: what its store returns about that copy is not taken as proof of its bytes.
    pub damaged: bool,
    /// The folds that the store is known to apply. No key that it folds with this one is registered.
    pub folds: Folds,
}

/// What to do if the target already holds an object of the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExisting {
    /// Overwrite: the bucket was empty when it was first used, or may be overwritten.
    PutOver,
    /// An object last modified before this time, by the store's clock, was not written by Copyhold. If it is equal it
    /// counts as the copy; otherwise it is left alone. `None`: no object there was written by Copyhold.
    Adopt { older_than: Option<SystemTime> },
}
