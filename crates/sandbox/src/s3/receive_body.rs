//! Receives an uploaded body: hashes it while it arrives, and checks it before anything is stored.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use copyhold_core::domain::{Content, ContentHash};
use crc_fast::CrcAlgorithm::Crc64Nvme;
use futures::StreamExt as _;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Sha1, Sha256};
use s3s::dto::{Checksum, StreamingBlob};
use s3s::{S3Error, S3Request, S3Result, StdError, s3_error};

use super::bucket_options::{BodyStorage, BucketOptions, Quirk};
use super::content_index::{ContentIndex, Recognised};
use super::object::Body;
use super::payload_headers::{MOST_BYTES, PayloadHeaders, custom, too_large};

/// The largest buffer that is allocated at once, if the request announces as much.
const MOST_RESERVED: u64 = 64 * 1024 * 1024;

/// A body that arrived whole and as declared.
pub(super) struct Received {
    pub body: Body,
    pub content: Content,
    pub md5: [u8; 16],
    /// The declared checksums.
    pub checksums: Checksum,
}

/// An injected damage of the received body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Damage {
    pub at: u64,
    /// Done after the checks, so that it is not detected.
    pub silent: bool,
}

/// Reads the body to its end. Errors: `InvalidDigest`, `IncompleteBody`, `EntityTooLarge`, …
///
/// The second result is the check of its hashes, `BadDigest` if they are wrong. It is separate only because some stores
/// keep what they refuse.
pub(super) async fn receive<T>(
    req: &mut S3Request<T>,
    body: Option<StreamingBlob>,
    options: &BucketOptions,
    known: &ContentIndex,
) -> S3Result<(Received, S3Result<()>)> {
    let mut declared = PayloadHeaders::of(&req.headers)?;
    if options.has(Quirk::RefusesCrc64) && declared.has("x-amz-checksum-crc64nvme") {
        return Err(s3_error!(InvalidArgument, "Unsupported checksum algorithm CRC64NVME"));
    }
    let damage = req.extensions.get::<Damage>().copied();
    // A body that is stored despite a wrong declaration has its own hash, and so has one with injected damage.
    let judged = !options.has(Quirk::IgnoresHashes) && !options.has(Quirk::KeepsWhatItRefuses) && damage.is_none();
    let md5 = if judged { Recognised::by(known, declared.md5) } else { Recognised::computed() };
    let mut intake = BodyHasher::new(&declared, damage, options.keep, md5);
    if let Some(mut body) = body {
        while let Some(chunk) = body.next().await {
            intake.take(&chunk.map_err(|e| broken(&e))?);
            if intake.size_bytes > MOST_BYTES {
                return Err(too_large());
            }
        }
    }
    if declared.size_bytes.is_some_and(|size| size != intake.size_bytes) {
        return Err(s3_error!(
            IncompleteBody,
            "You did not provide the number of bytes specified by the Content-Length HTTP header"
        ));
    }
    declared.read_trailer(req.trailing_headers.take())?;
    let (mut received, judgement) = intake.finish(declared, damage);
    if options.has(Quirk::ForgetsChecksums) {
        received.checksums = Checksum::default();
    }
    Ok((received, if options.has(Quirk::IgnoresHashes) { Ok(()) } else { judgement }))
}

/// The hashes and the bytes so far.
struct BodyHasher {
    size_bytes: u64,
    md5: Recognised,
    crc64: crc_fast::Digest,
    others: ChecksumHasher,
    kept: Option<BytesMut>,
    /// The position of an injected damage, and the hash of what is stored in spite of all checks.
    flip_at: Option<u64>,
    silent: Option<crc_fast::Digest>,
}

impl BodyHasher {
    fn new(declared: &PayloadHeaders, damage: Option<Damage>, keep: BodyStorage, md5: Recognised) -> Self {
        let reserve = declared.size_bytes.unwrap_or(0).min(MOST_RESERVED);
        Self {
            size_bytes: 0,
            md5,
            crc64: crc_fast::Digest::new(Crc64Nvme),
            others: ChecksumHasher {
                crc32: declared.has("x-amz-checksum-crc32").then(Crc32::new),
                crc32c: declared.has("x-amz-checksum-crc32c").then(Crc32c::new),
                sha1: declared.has("x-amz-checksum-sha1").then(Sha1::new),
                sha256: declared.has("x-amz-checksum-sha256").then(Sha256::new),
                crc64nvme: None, // computed for every body
            },
            // Cannot truncate: 64 MiB at most.
            kept: (keep == BodyStorage::Bytes).then(|| BytesMut::with_capacity(usize::try_from(reserve).unwrap_or(0))),
            flip_at: damage.zip(declared.size_bytes.filter(|size| *size > 0)).map(|(damage, size)| damage.at % size),
            silent: damage.filter(|d| d.silent).map(|_| crc_fast::Digest::new(Crc64Nvme)),
        }
    }

    fn take(&mut self, chunk: &Bytes) {
        let flipped = self.flipped(chunk);
        let stored = flipped.as_deref().unwrap_or(chunk);
        let hashed = if self.silent.is_some() { chunk } else { stored };
        self.md5.update(hashed);
        self.crc64.update(hashed);
        self.others.update(hashed);
        if let Some(silent) = &mut self.silent {
            silent.update(stored);
        }
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(stored);
        }
        self.size_bytes += chunk.len() as u64;
    }

    /// Returns a damaged copy of the chunk, if the damage lies in it.
    fn flipped(&self, chunk: &Bytes) -> Option<Vec<u8>> {
        let within = usize::try_from(self.flip_at?.checked_sub(self.size_bytes)?).ok()?;
        let mut copy = (within < chunk.len()).then(|| chunk.to_vec())?;
        copy[within] ^= 1;
        Some(copy)
    }

    fn finish(self, declared: PayloadHeaders, damage: Option<Damage>) -> (Received, S3Result<()>) {
        let crc64 = self.crc64.finalize();
        let md5 = self.md5.finish(Content { size_bytes: self.size_bytes, hash: ContentHash(crc64) });
        let mut found = self.others.finalize();
        found.checksum_crc64nvme = Some(STANDARD.encode(crc64.to_be_bytes()));
        // The signature covers a hash too; its own check came before the damage was done.
        let unnoticed = damage.is_some_and(|d| !d.silent) && declared.signed_sha256 && !declared.has_hash();
        let judgement = if unnoticed { Err(sha256_mismatch()) } else { declared.compare(md5, &found) };
        let hash = ContentHash(self.silent.map_or(crc64, |silent| silent.finalize()));
        let received = Received {
            body: self.kept.map_or(Body::Forgotten, |kept| Body::Held(vec![kept.freeze()])),
            content: Content { size_bytes: self.size_bytes, hash },
            md5,
            checksums: declared.checksums,
        };
        (received, judgement)
    }
}

/// Why the body ended early. The library's own error types are private: only their text is available.
fn broken(error: &StdError) -> S3Error {
    let words = error.to_string();
    if words.contains("Sha256Mismatch") {
        sha256_mismatch()
    } else if words.contains("SignatureMismatch") {
        s3_error!(SignatureDoesNotMatch, "A chunk's signature does not match.")
    } else if words.contains("FormatError") {
        s3_error!(InvalidRequest, "The body is not aws-chunked as announced.")
    } else {
        s3_error!(IncompleteBody, "The body ended early: {words}")
    }
}

fn sha256_mismatch() -> S3Error {
    custom(
        "XAmzContentSHA256Mismatch",
        "The provided 'x-amz-content-sha256' header does not match what was computed.".into(),
    )
}
