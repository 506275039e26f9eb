//! Taking in an uploaded body: every hash that was declared is compared before
//! the caller gets anything that it could store.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use crc_fast::CrcAlgorithm::Crc64Nvme;
use futures::StreamExt as _;
use hyper::{HeaderMap, StatusCode, header};
use md5::{Digest as _, Md5};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Sha1, Sha256};
use s3s::dto::{Checksum, StreamingBlob};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result, StdError, TrailingHeaders, s3_error};

use super::bucket::Keep;
use super::checksums::{self, slots};
use super::object::Body;
use crate::domain::{Content, ContentHash};

/// The most that S3 takes in one request.
const MOST_BYTES: u64 = 5 * 1024 * 1024 * 1024;
/// A buffer is made so large at once, if the request says that so much will come.
const MOST_RESERVED: u64 = 64 * 1024 * 1024;

/// A body that arrived whole and as declared.
pub(super) struct Received {
    pub body: Body,
    pub content: Content,
    pub md5: [u8; 16],
    /// Those that were declared.
    pub checksums: Checksum,
}

/// An ordered damage of the body that is coming in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Damage {
    pub at: u64,
    /// Done after the checks, so that nobody notices.
    pub silent: bool,
}

/// What the request says of its body.
struct Declared {
    md5: Option<[u8; 16]>,
    checksums: Checksum,
    trailer: Vec<String>,
    signed_sha256: bool,
    size_bytes: Option<u64>,
}

/// Reads the body to its end. Errors: `BadDigest`, `InvalidDigest`, `IncompleteBody`, `EntityTooLarge`, …
pub(super) async fn receive<T>(req: &mut S3Request<T>, body: Option<StreamingBlob>, keep: Keep) -> S3Result<Received> {
    let mut declared = Declared::of(&req.headers)?;
    let damage = req.extensions.get::<Damage>().copied();
    let mut intake = Intake::new(&declared, damage, keep);
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
    intake.finish(&declared, damage)
}

impl Declared {
    fn of(headers: &HeaderMap) -> S3Result<Self> {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let size = text("x-amz-decoded-content-length").or_else(|| text(header::CONTENT_LENGTH.as_str()));
        let size_bytes = size.and_then(|size| size.parse().ok());
        if size_bytes.is_some_and(|size| size > MOST_BYTES) {
            return Err(too_large());
        }
        let mut declared = Self {
            md5: text("content-md5").map(md5_of).transpose()?,
            checksums: Checksum::default(),
            trailer: text("x-amz-trailer")
                .unwrap_or("")
                .split(',')
                .map(|n| n.trim().to_ascii_lowercase())
                .filter(|n| !n.is_empty())
                .collect(),
            signed_sha256: text("x-amz-content-sha256").is_some_and(|hash| hash.len() == 64),
            size_bytes,
        };
        checksums::read(headers, &mut declared.checksums)?;
        if headers.contains_key("x-amz-sdk-checksum-algorithm") && !declared.has_any() {
            return Err(s3_error!(
                InvalidRequest,
                "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found."
            ));
        }
        Ok(declared)
    }

    /// The trailer is known once the body has ended.
    fn read_trailer(&mut self, handle: Option<TrailingHeaders>) -> S3Result<()> {
        let trailer = handle.and_then(|handle| handle.take()).unwrap_or_default();
        if let Some(missing) = self.trailer.iter().find(|name| !trailer.contains_key(name.as_str())) {
            return Err(custom("MalformedTrailerError", format!("The announced trailer {missing} did not come.")));
        }
        checksums::read(&trailer, &mut self.checksums)
    }

    fn has_any(&self) -> bool {
        let mut checksums = self.checksums.clone();
        !self.trailer.is_empty() || slots(&mut checksums).iter().any(|(_, _, value)| value.is_some())
    }

    /// Whether a value stands in the head or will come in the trailer.
    fn has(&self, name: &str, value: Option<&String>) -> bool {
        value.is_some() || self.trailer.iter().any(|announced| announced == name)
    }
}

fn md5_of(header: &str) -> S3Result<[u8; 16]> {
    let hash = STANDARD.decode(header).ok().and_then(|hash| hash.try_into().ok());
    hash.ok_or_else(|| s3_error!(InvalidDigest, "The Content-MD5 you specified is not valid."))
}

/// The hashes and the bytes so far.
struct Intake {
    size_bytes: u64,
    md5: Md5,
    crc64: crc_fast::Digest,
    others: ChecksumHasher,
    kept: Option<BytesMut>,
    /// Where an ordered damage lies, and the hash of what is stored in spite of all checks.
    flip_at: Option<u64>,
    silent: Option<crc_fast::Digest>,
}

impl Intake {
    fn new(declared: &Declared, damage: Option<Damage>, keep: Keep) -> Self {
        let given = &declared.checksums;
        let reserve = declared.size_bytes.unwrap_or(0).min(MOST_RESERVED);
        Self {
            size_bytes: 0,
            md5: Md5::new(),
            crc64: crc_fast::Digest::new(Crc64Nvme),
            others: ChecksumHasher {
                crc32: declared.has("x-amz-checksum-crc32", given.checksum_crc32.as_ref()).then(Crc32::new),
                crc32c: declared.has("x-amz-checksum-crc32c", given.checksum_crc32c.as_ref()).then(Crc32c::new),
                sha1: declared.has("x-amz-checksum-sha1", given.checksum_sha1.as_ref()).then(Sha1::new),
                sha256: declared.has("x-amz-checksum-sha256", given.checksum_sha256.as_ref()).then(Sha256::new),
                crc64nvme: None, // computed for every body
            },
            // Cannot truncate: 64 MiB at most.
            kept: (keep == Keep::Bytes).then(|| BytesMut::with_capacity(usize::try_from(reserve).unwrap_or(0))),
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

    /// A damaged copy of the chunk, if the damage lies in it.
    fn flipped(&self, chunk: &Bytes) -> Option<Vec<u8>> {
        let within = usize::try_from(self.flip_at?.checked_sub(self.size_bytes)?).ok()?;
        let mut copy = (within < chunk.len()).then(|| chunk.to_vec())?;
        copy[within] ^= 1;
        Some(copy)
    }

    fn finish(self, declared: &Declared, damage: Option<Damage>) -> S3Result<Received> {
        let md5: [u8; 16] = self.md5.finalize().into();
        let crc64 = self.crc64.finalize();
        let mut found = self.others.finalize();
        found.checksum_crc64nvme = Some(STANDARD.encode(crc64.to_be_bytes()));
        if declared.md5.is_some_and(|declared| declared != md5) {
            return Err(s3_error!(BadDigest, "The Content-MD5 you specified did not match what we received."));
        }
        let mut wanted = declared.checksums.clone();
        let mut checked = declared.md5.is_some();
        for ((name, _, wanted), (_, _, found)) in slots(&mut wanted).into_iter().zip(slots(&mut found)) {
            checked |= wanted.is_some();
            if wanted.is_some() && wanted != found {
                return Err(s3_error!(BadDigest, "The {name} you specified did not match the calculated checksum."));
            }
        }
        // The signature covers a hash too; its own check came before the damage was done.
        if damage.is_some_and(|d| !d.silent) && !checked && declared.signed_sha256 {
            return Err(sha256_mismatch());
        }
        let hash = ContentHash(self.silent.map_or(crc64, |silent| silent.finalize()));
        Ok(Received {
            body: self.kept.map_or(Body::Forgotten, |kept| Body::Held(vec![kept.freeze()])),
            content: Content { size_bytes: self.size_bytes, hash },
            md5,
            checksums: wanted,
        })
    }
}

/// Why the body did not come to its end. The library's own error types are private: their words are all there is.
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

fn custom(code: &'static str, message: String) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message);
    error.set_status_code(StatusCode::BAD_REQUEST);
    error
}

fn too_large() -> S3Error {
    s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed size")
}
