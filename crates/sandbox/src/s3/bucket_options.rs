//! How a bucket differs from the default: what it keeps, what it permits, and the quirks by which real stores differ
//! from AWS.

use std::collections::BTreeSet;

use s3s::S3Result;
use s3s::s3_error;
use unicode_normalization::UnicodeNormalization as _;

use super::generated_listing::GeneratedListing;
use super::metadata::Metadata;
use super::part::Part;
use super::payload_headers::custom;

/// How uploaded bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyStorage {
    #[default]
    Bytes,
    /// Length and hashes alone, so that tests of many GiB fit in memory. A GET
    /// is answered with the code `SandboxBytesNotKept`.
    Digest,
}

/// A deviation that some store was seen to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quirk {
    /// A wrong Content-MD5 or checksum is accepted, and the object stored (moto).
    IgnoresHashes,
    /// A wrong hash is refused with `BadDigest`, and the object stored all the same (s3s-fs).
    KeepsWhatItRefuses,
    /// `If-Match`, `If-None-Match` and the like are ignored, on reads or writes (Garage, s3s-fs).
    IgnoresConditions,
    /// An ETag is no MD5, as under encryption with a key service (AWS).
    OpaqueEtags,
    /// `x-amz-checksum-crc64nvme` is refused with `InvalidArgument` (Garage, B2).
    RefusesCrc64,
    /// No `x-amz-checksum-*` is ever returned.
    ForgetsChecksums,
    /// All parts but the last must have one size (R2).
    EqualParts,
    /// `a//b` and `a/./b` are kept as `a/b`, as in a file system.
    TidiesKeys,
    /// Capitals make no difference in a key, as in some file systems.
    FoldsCapitals,
    /// Keys are kept in Unicode's composed form, as in some file systems.
    ComposesKeys,
    /// Blanks and dots at the end of a key's segments are dropped, as in some file systems.
    TrimsKeys,
    /// Keys are decoded once more than they were encoded.
    DecodesTwice,
    /// Keys are kept under names that a limited file system accepts: compatibility composition, `?` for characters
    /// outside the basic plane, `_` for `:`, no white space at either end of the key, and 200 characters.
    SimplifiesKeys,
    /// The answer of CompleteMultipartUpload has an empty ETag; HEAD and listings show it (Ceph).
    CompletesWithoutEtag,
    /// Only the bytes are kept.
    ForgetsMetadata,
    /// `_` in the names of user metadata becomes `-`, silently (Ceph).
    AltersMetadataNames,
    /// User metadata whose names have more than letters, digits and dashes is dropped silently.
    DropsOddMetadata,
    /// A website redirect is refused with `NotImplemented` (R2, B2).
    RefusesRedirects,
    /// A website redirect is dropped silently (Garage).
    DropsRedirects,
    /// A key that begins with a slash, or has `//`, `.` or `..` in it, is refused (MinIO).
    RefusesUntidyKeys,
    /// Listings of objects, versions and uploads ignore the prefix.
    IgnoresPrefixes,
    /// A listing ignores `start-after`; its own tokens work.
    IgnoresStartAfter,
    /// A listing returns its first page again, for any token.
    IgnoresTokens,
    /// Listings return keys unencoded, and do not say so.
    ListsPlain,
    /// Listings go folder by folder, as in a file system: what is in `a/` comes before `a-`.
    ListsByFolder,
    /// A listing contains folders instead of their contents, although no delimiter was given.
    ListsFolders,
    /// Hidden entries take up room on pages, which may be empty then and not the last; only with versions.
    HiddenTakesRoom,
}

/// How a bucket differs from the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketOptions {
    pub keep: BodyStorage,
    /// Smallest size of a part that is not the last; S3 says 5 MiB.
    pub min_part_bytes: u64,
    /// Largest number of a part; S3 says 10,000, Scaleway 1,000.
    pub max_part_number: i32,
    /// A longer key is answered with 503, as by Garage on LMDB.
    pub max_key_bytes: usize,
    /// Each write adds a version, and a deletion without a version id a marker.
    pub versioned: bool,
    /// Versions cannot be deleted for this many days; only with versions.
    pub retention_days: Option<i32>,
    pub quirks: BTreeSet<Quirk>,
    /// Its listing, and nothing else of it, has exactly these objects.
    pub generated: Option<GeneratedListing>,
}

impl BucketOptions {
    /// A bucket that drops bytes and keeps hashes.
    #[must_use]
    pub fn digest_only() -> Self {
        Self { keep: BodyStorage::Digest, ..Self::default() }
    }

    /// A bucket that keeps versions.
    #[must_use]
    pub fn versioned() -> Self {
        Self { versioned: true, ..Self::default() }
    }

    /// A bucket that keeps versions, and locks each for this many days.
    #[must_use]
    pub fn locked(days: i32) -> Self {
        Self { retention_days: Some(days), ..Self::versioned() }
    }

    /// A bucket with a listing of any length that takes no memory.
    #[must_use]
    pub fn generated(listing: GeneratedListing) -> Self {
        Self { generated: Some(listing), ..Self::default() }
    }

    #[must_use]
    pub fn with(mut self, quirk: Quirk) -> Self {
        self.quirks.insert(quirk);
        self
    }

    pub(super) fn has(&self, quirk: Quirk) -> bool {
        self.quirks.contains(&quirk)
    }

    /// Checks that these parts may become one object, in this order. Errors: `EntityTooSmall`, `InvalidPart`.
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

    /// Checks that a key may be written. Errors: `ServiceUnavailable`, `XMinioInvalidObjectName`.
    pub(super) fn allow_key(&self, key: &str) -> S3Result<()> {
        if key.len() > self.max_key_bytes {
            return Err(s3_error!(ServiceUnavailable, "The storage engine is unavailable"));
        }
        let untidy = |segment: &str| matches!(segment, "" | "." | "..");
        if self.has(Quirk::RefusesUntidyKeys) && key.trim_end_matches('/').split('/').any(untidy) {
            return Err(custom("XMinioInvalidObjectName", "Object name contains unsupported characters.".into()));
        }
        Ok(())
    }

    pub(super) fn allow_headers(&self, headers: &hyper::HeaderMap) -> S3Result<()> {
        if self.has(Quirk::RefusesRedirects) && headers.contains_key("x-amz-website-redirect-location") {
            return Err(s3_error!(NotImplemented, "Header 'x-amz-website-redirect-location' not implemented"));
        }
        Ok(())
    }

    /// Returns the key under which the bucket stores this one.
    pub(super) fn kept_as(&self, key: &str) -> String {
        let mut kept = key.to_owned();
        if self.has(Quirk::DecodesTwice) {
            kept = decoded(&kept);
        }
        if self.has(Quirk::SimplifiesKeys) {
            kept = kept.trim().nfkc().map(|c| if c > '\u{ffff}' { '?' } else { c }).take(200).collect();
            kept = kept.replace(':', "_");
        }
        if self.has(Quirk::TidiesKeys) {
            let segments: Vec<_> = kept.split('/').filter(|segment| !matches!(*segment, "" | ".")).collect();
            kept = segments.join("/");
        }
        if self.has(Quirk::TrimsKeys) {
            let segments: Vec<_> = kept.split('/').map(|segment| segment.trim_end_matches([' ', '.'])).collect();
            kept = segments.join("/");
        }
        if self.has(Quirk::FoldsCapitals) {
            kept = kept.to_lowercase();
        }
        if self.has(Quirk::ComposesKeys) {
            kept = kept.nfc().collect();
        }
        kept
    }

    /// Returns what the bucket keeps of this metadata.
    pub(super) fn kept_metadata(&self, metadata: Metadata) -> Metadata {
        if self.has(Quirk::ForgetsMetadata) {
            Metadata::none()
        } else if self.has(Quirk::DropsRedirects) {
            metadata.without_redirect()
        } else if self.has(Quirk::DropsOddMetadata) {
            metadata.without_odd_names()
        } else if self.has(Quirk::AltersMetadataNames) {
            metadata.with_altered_names()
        } else {
            metadata
        }
    }

    /// Returns the prefix that a listing applies: none if this bucket ignores prefixes.
    pub(super) fn heeded(&self, prefix: Option<String>) -> String {
        prefix.filter(|_| !self.has(Quirk::IgnoresPrefixes)).unwrap_or_default()
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
        Self {
            keep: BodyStorage::Bytes,
            min_part_bytes: 5 * 1024 * 1024,
            max_part_number: 10_000,
            max_key_bytes: 1024,
            versioned: false,
            retention_days: None,
            quirks: BTreeSet::new(),
            generated: None,
        }
    }
}

/// Decodes once more than the key was encoded; what cannot be decoded stays as it is.
fn decoded(key: &str) -> String {
    let mut parts = key.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let code = part.get(..2).filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend(&part.as_bytes()[2..]);
            }
            None => bytes.extend([b"%", part.as_bytes()].concat()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
