//! The facts that a copy reports while it runs.

use copyhold_core::domain::{Content, Failure, MetadataHash, NotCarried, ReplicaName, SourceReading, Verified};

/// One fact about a copy, sent as soon as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyStep {
    /// A source has this size, which the job did not state.
    Opened { size_bytes: u64 },
    /// The object was read to its end: its size and hash, and the proof of the source's own copy. Sent before any
    /// target's success.
    Read {
        from: ReplicaName,
        content: Content,
        /// What the primary returned about the object; `None`: another source was read.
        said: Option<SourceReading>,
    },
    /// The copy lacks this property, which was sent with it or which its store is known to refuse. Sent before the
    /// target's end.
    Lacks { replica: ReplicaName, property: NotCarried },
    /// The object has this metadata, and these properties, which no copy gets. Sent just before `Read`, unless a copy
    /// of an object with known content was read, which may have lost some of it.
    Described { metadata: MetadataHash, not_carried: Vec<NotCarried> },
    /// A source could not be read; the next one is tried.
    SourceFailed { replica: ReplicaName, why: Failure },
    /// A source's copy is damaged or stale: its bytes are not this generation's content, or not what was written there.
    /// The next source is tried.
    Stale {
        replica: ReplicaName,
        why: Failure,
        /// It is the primary, which is never overwritten: an operator has to decide.
        park: bool,
    },
    /// The primary was read to its end and holds other content than this generation's. Damage on the way and an earlier
    /// state are ruled out: the object was changed without being registered. Nothing is written; the targets' results
    /// follow.
    Changed { from: ReplicaName, content: Content, said: SourceReading },
    /// A target without the object has some of its parts, from which the next attempt resumes. Sent before the target's
    /// result.
    Kept { replica: ReplicaName, parts: u32 },
    /// A request that makes the object appear at a target is about to be sent: a PUT, or the completion of an upload.
    WriteBegun {
        replica: ReplicaName,
        content: Content,
        metadata: Option<MetadataHash>,
        /// The request completes an upload in parts.
        completes: bool,
    },
    /// That request got a complete answer, or none of it was sent. Without this step, also after a cancellation, the
    /// store may still execute it.
    WriteEnded { replica: ReplicaName },
    /// The result at one target: exactly one for each, unless the copy is cancelled.
    Target { replica: ReplicaName, result: Result<Verified, Failure> },
}
