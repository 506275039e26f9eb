//! What a copy tells of itself, fact by fact.

use copyhold_core::domain::{Content, Failure, MetadataHash, NotCarried, ReplicaName, SourceReading, Verified};

/// One fact about a copy, sent as soon as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A source was found to hold this many bytes, which is news: the job did not state it.
    Opened { size_bytes: u64 },
    /// The object was read to its end: its size and hash, and the proof of the source's
    /// own copy. Sent before any target's success.
    Read {
        from: ReplicaName,
        content: Content,
        /// What the primary said of the object; `None`: another source was read.
        said: Option<SourceReading>,
    },
    /// A copy lacks this, which was sent with it or which its store was seen to refuse. Sent before the target's end.
    Lacks { replica: ReplicaName, property: NotCarried },
    /// What was read has this metadata, and this besides, which no copy of it gets. Sent just before `Read`, unless a copy
    /// was read of an object whose content is known: it may have lost some of that.
    Described { metadata: MetadataHash, not_carried: Vec<NotCarried> },
    /// A source could not be read; another one may still do.
    SourceFailed { replica: ReplicaName, why: Failure },
    /// What a source holds is not this generation's content, or not what was written there: its copy is damaged or stale.
    /// Another one may still do.
    Stale {
        replica: ReplicaName,
        why: Failure,
        /// It is the primary, which is never written over: somebody has to decide.
        park: bool,
    },
    /// The primary was read to its end and holds another content than this generation's, which is surely no damage on
    /// the way, nor an earlier state: it was changed without being registered. Nothing is written; the targets' answers
    /// follow.
    Changed { from: ReplicaName, content: Content, said: SourceReading },
    /// A target that has not got the object has got some parts of it, which whoever comes next goes on from. Sent before
    /// how it ended there.
    Kept { replica: ReplicaName, parts: u32 },
    /// A request is about to be sent that makes the object appear at a target: a PUT, or the completion of an upload.
    WriteBegun {
        replica: ReplicaName,
        content: Content,
        metadata: Option<MetadataHash>,
        /// It completes an upload in parts.
        completes: bool,
    },
    /// That request has got a complete answer, or none of it was sent. Without this step, also when the copy is
    /// cancelled, the store may still carry it out.
    WriteEnded { replica: ReplicaName },
    /// How it ended at one target: exactly one for each, unless the copy is cancelled.
    Target { replica: ReplicaName, result: Result<Verified, Failure> },
}
