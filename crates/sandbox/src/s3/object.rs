//! One stored object and its bytes.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use copyhold_core::domain::Content;
use futures::Stream;
use s3s::dto::Checksum;
use s3s::stream::{ByteStream, RemainingLength};

use super::metadata::Metadata;
use super::synthetic::Synthetic;

#[derive(Debug, Clone)]
pub(super) struct Object {
    pub body: Body,
    /// Size and hash of the stored bytes.
    pub content: Content,
    /// The ETag, without quotes.
    pub etag: String,
    pub modified: SystemTime,
    pub metadata: Metadata,
    /// The checksums that the writer declared.
    pub checksums: Checksum,
}

/// The storage of an object's bytes.
#[derive(Debug, Clone)]
pub(super) enum Body {
    /// In memory; a multipart object keeps its parts apart, so that completing copies nothing.
    Held(Vec<Bytes>),
    Made(Synthetic),
    /// Not stored: only length and hashes are kept.
    Forgotten,
}

impl Body {
    /// Returns the bytes of `range`, which lies within the object; `None` if they were not kept.
    pub fn pieces(&self, range: Range<u64>) -> Option<Pieces> {
        let left = range.end - range.start;
        let source = match self {
            Self::Held(parts) => Source::Held(cut(parts, range)),
            Self::Made(synthetic) => Source::Made(Box::new(synthetic.pieces(range))),
            Self::Forgotten => return None,
        };
        Some(Pieces { source, left })
    }

    /// Returns all bytes in one buffer; for objects that fit.
    pub fn whole(&self, size_bytes: u64) -> Option<Bytes> {
        if let Self::Held(parts) = self
            && let [only] = parts.as_slice()
        {
            return Some(only.clone());
        }
        let mut all = BytesMut::new();
        self.pieces(0..size_bytes)?.for_each(|piece| all.extend_from_slice(&piece));
        Some(all.freeze())
    }
}

fn cut(parts: &[Bytes], range: Range<u64>) -> VecDeque<Bytes> {
    let mut start = 0;
    let mut pieces = VecDeque::new();
    for part in parts {
        let len = part.len() as u64;
        let from = range.start.clamp(start, start + len) - start;
        let to = range.end.clamp(start, start + len) - start;
        if from < to {
            // Cannot fail: both are at most `part.len()`.
            let at = |n: u64| usize::try_from(n).expect("within a buffer");
            pieces.push_back(part.slice(at(from)..at(to)));
        }
        start += len;
    }
    pieces
}

/// Iterates over the bytes of an object or a range of it, one shared buffer after the other.
pub struct Pieces {
    source: Source,
    left: u64,
}

enum Source {
    Held(VecDeque<Bytes>),
    Made(Box<dyn Iterator<Item = Bytes> + Send + Sync>),
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let piece = match &mut self.source {
            Source::Held(pieces) => pieces.pop_front(),
            Source::Made(pieces) => pieces.next(),
        }?;
        self.left -= piece.len() as u64;
        Some(piece)
    }
}

impl Stream for Pieces {
    type Item = Result<Bytes, s3s::StdError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.next().map(Ok))
    }
}

impl ByteStream for Pieces {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(usize::try_from(self.left).unwrap_or(usize::MAX))
    }
}

impl std::fmt::Debug for Pieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pieces").field("left", &self.left).finish_non_exhaustive()
    }
}
