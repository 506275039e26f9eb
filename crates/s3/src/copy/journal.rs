//! The record of uploads in parts, from which the next attempt resumes them.

use std::fmt;

use copyhold_core::domain::ReplicaName;
use futures::future::BoxFuture;

use crate::store::{ETag, Md5, UploadId};

/// Records the unfinished uploads of one object.
///
/// An implementation keeps trying until an entry is written. A future of this trait ends when that is done; a caller
/// that cannot wait longer drops it.
pub trait Journal: fmt::Debug + Send + Sync {
    /// Returns the open uploads of this generation, whichever daemon began them. At most one per replica.
    fn unfinished(&self) -> BoxFuture<'_, Vec<ResumableUpload>>;

    /// Returns the open uploads of earlier generations of this object, whichever daemon began them.
    fn older(&self) -> BoxFuture<'_, Vec<OlderUpload>>;

    /// Records that an upload is about to begin, before the store is asked. An upload whose daemon died before it
    /// received the id can be found again.
    fn intend<'a>(&'a self, replica: &'a ReplicaName, shape: &'a UploadShape) -> BoxFuture<'a, UploadEntry>;

    /// Records the id under which the store began it.
    fn began<'a>(&'a self, entry: UploadEntry, upload: &'a UploadId) -> BoxFuture<'a, ()>;

    /// Records a part that the store accepted. Written soon, together with others.
    fn part(&self, entry: UploadEntry, part: UploadedPart);

    /// Ends when all parts that were passed before are written.
    fn settle(&self) -> BoxFuture<'_, ()>;

    /// Records that the uploaded parts are useless and must not be resumed. Written soon.
    fn spoil(&self, entry: UploadEntry);

    /// Records that the upload was completed or aborted, or that the store no longer knows it. Written soon.
    fn over(&self, entry: UploadEntry);
}

/// One upload, by its number in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UploadEntry(pub i64);

/// What an upload is made of. An upload that differs in anything cannot be resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadShape {
    pub size_bytes: u64,
    /// The size of each part but the last, which may be shorter.
    pub part_bytes: u64,
    /// Identifies the content and the replica that its parts were read from; compared for equality only.
    pub origin: String,
}

/// A part that the store has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadedPart {
    /// From 1.
    pub number: u32,
    /// The ETag as the store returned it.
    pub etag: ETag,
    pub md5: Md5,
    /// CRC-64/NVME of its bytes.
    pub crc: u64,
}

/// An upload of an older content, which must not be completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OlderUpload {
    pub entry: UploadEntry,
    pub replica: ReplicaName,
    pub upload: UploadId,
}

/// An upload that can be resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumableUpload {
    pub entry: UploadEntry,
    pub replica: ReplicaName,
    pub shape: UploadShape,
    pub upload: UploadId,
    /// Sorted by number; there may be gaps.
    pub parts: Vec<UploadedPart>,
}
