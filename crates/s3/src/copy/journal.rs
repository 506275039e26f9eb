//! What is remembered of uploads in parts, so that whoever comes next goes on with them.

use std::fmt;

use copyhold_core::domain::ReplicaName;
use futures::future::BoxFuture;

use crate::store::{ETag, Md5, UploadId};

/// The memory of one object's unfinished uploads.
///
/// What it is told it keeps trying to write down: a future of it ends when that is done, and is dropped by whoever
/// cannot wait any longer.
pub trait Journal: fmt::Debug + Send + Sync {
    /// The uploads of this generation that were begun and are not over, whoever began them. At most one per replica.
    fn unfinished(&self) -> BoxFuture<'_, Vec<Unfinished>>;

    /// The uploads of earlier generations of this object that are not known to be over, whoever began them.
    fn older(&self) -> BoxFuture<'_, Vec<Older>>;

    /// An upload is about to be begun. Written down before the store is asked: what it began for somebody who died
    /// before he heard its name can be found again.
    fn intend<'a>(&'a self, replica: &'a ReplicaName, shape: &'a Shape) -> BoxFuture<'a, Entry>;

    /// The store has begun it under this name.
    fn began<'a>(&'a self, entry: Entry, upload: &'a UploadId) -> BoxFuture<'a, ()>;

    /// The store has taken a part. Written down soon, together with others.
    fn part(&self, entry: Entry, part: Part);

    /// Ends when all parts told before are written down.
    fn settle(&self) -> BoxFuture<'_, ()>;

    /// What the store has taken is of no use, and must not be gone on with. Written down soon.
    fn spoil(&self, entry: Entry);

    /// The upload was completed or aborted, or the store knows it no more. Written down soon.
    fn over(&self, entry: Entry);
}

/// One upload, by the journal's own number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry(pub i64);

/// What an upload is made of. One that differs in anything cannot be gone on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    pub size_bytes: u64,
    /// Of each part but the last, which may be shorter.
    pub part_bytes: u64,
    /// Which content of which replica its parts were read from; compared for equality only.
    pub origin: String,
}

/// A part that the store has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 1.
    pub number: u32,
    /// As the store answered it.
    pub etag: ETag,
    pub md5: Md5,
    /// CRC-64/NVME of its bytes.
    pub crc: u64,
}

/// An upload of an older content, which must not be completed any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Older {
    pub entry: Entry,
    pub replica: ReplicaName,
    pub upload: UploadId,
}

/// An upload to go on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    pub entry: Entry,
    pub replica: ReplicaName,
    pub shape: Shape,
    pub upload: UploadId,
    /// In the order of their numbers, which may have gaps.
    pub parts: Vec<Part>,
}
