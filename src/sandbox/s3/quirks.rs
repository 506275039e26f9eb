//! How a bucket differs from the usual one: what it keeps, what it permits, and
//! the habits by which real stores differ from AWS.

use std::collections::BTreeSet;

use s3s::S3Result;
use s3s::s3_error;

use super::bucket::Part;

/// What becomes of the bytes that are uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    #[default]
    Bytes,
    /// Length and hashes alone, so that tests of many GiB fit in memory. A GET
    /// is answered with the code `SandboxBytesNotKept`.
    Digest,
}

/// A habit that some store was seen to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quirk {
    /// A wrong Content-MD5 or checksum is accepted, and the object stored (moto).
    IgnoresHashes,
    /// A wrong hash is refused with `BadDigest`, and the object stored all the same (s3s-fs).
    KeepsWhatItRefuses,
    /// `If-Match`, `If-None-Match` and their like are not heeded, on reads or writes (Garage, s3s-fs).
    IgnoresConditions,
    /// An ETag is no MD5, as under encryption with a key service (AWS).
    OpaqueEtags,
    /// `x-amz-checksum-crc64nvme` is refused with `InvalidArgument` (Garage, B2).
    RefusesCrc64,
    /// No `x-amz-checksum-*` is ever given back.
    ForgetsChecksums,
    /// All parts but the last must have one size (R2).
    EqualParts,
}

/// How a bucket differs from the usual one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketOptions {
    pub keep: Keep,
    /// Smallest size of a part that is not the last; S3 says 5 MiB.
    pub min_part_bytes: u64,
    /// Largest number of a part; S3 says 10,000, Scaleway 1,000.
    pub max_part_number: i32,
    pub quirks: BTreeSet<Quirk>,
}

impl BucketOptions {
    /// A bucket that forgets bytes and remembers hashes.
    #[must_use]
    pub fn digest_only() -> Self {
        Self { keep: Keep::Digest, ..Self::default() }
    }

    #[must_use]
    pub fn with(mut self, quirk: Quirk) -> Self {
        self.quirks.insert(quirk);
        self
    }

    pub(super) fn has(&self, quirk: Quirk) -> bool {
        self.quirks.contains(&quirk)
    }

    /// Whether these may become one object, in this order. Errors: `EntityTooSmall`, `InvalidPart`.
    pub(super) fn allow_parts(&self, parts: &[Part]) -> S3Result<()> {
        let Some((last, others)) = parts.split_last() else { return Ok(()) };
        let size = |part: &Part| part.content.size_bytes;
        if others.iter().any(|part| size(part) < self.min_part_bytes) {
            return Err(s3_error!(EntityTooSmall, "Your proposed upload is smaller than the minimum allowed size"));
        }
        if self.has(Quirk::EqualParts)
            && let Some(first) = others.first()
            && (others.iter().any(|part| size(part) != size(first)) || size(last) > size(first))
        {
            return Err(s3_error!(InvalidPart, "All non-trailing parts must have the same length."));
        }
        Ok(())
    }

    /// Error: `InvalidArgument`.
    pub(super) fn allow_part_number(&self, number: i32) -> S3Result<()> {
        if (1..=self.max_part_number).contains(&number) {
            return Ok(());
        }
        let most = self.max_part_number;
        Err(s3_error!(InvalidArgument, "Part number must be an integer between 1 and {most}, inclusive"))
    }
}

impl Default for BucketOptions {
    fn default() -> Self {
        Self { keep: Keep::Bytes, min_part_bytes: 5 * 1024 * 1024, max_part_number: 10_000, quirks: BTreeSet::new() }
    }
}
