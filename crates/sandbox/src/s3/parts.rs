//! Combines many parts into one object, without reading their bytes again.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use copyhold_core::domain::{Content, ContentHash};
use crc_fast::CrcAlgorithm::{Crc32Iscsi, Crc32IsoHdlc, Crc64Nvme};
use crc_fast::{CrcAlgorithm, checksum_combine};
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Sha1, Sha256};
use s3s::dto::{Checksum, ChecksumAlgorithm, ChecksumType};
use s3s::{S3Result, s3_error};

use super::bucket::Upload;
use super::object::Body;
use super::part::Part;

pub(super) struct JoinedParts {
    pub body: Body,
    pub content: Content,
    /// The checksum of the algorithm that the upload was begun with.
    pub checksums: Checksum,
}

pub(super) fn join(upload: &Upload, parts: &[Part]) -> S3Result<JoinedParts> {
    let size_bytes = parts.iter().map(|part| part.content.size_bytes).sum();
    let hashes = parts.iter().map(|part| (part.content.hash.0, part.content.size_bytes));
    let hash = combine(Crc64Nvme, hashes);
    Ok(JoinedParts {
        body: body(parts),
        content: Content { size_bytes, hash: ContentHash(hash) },
        checksums: checksums(upload, parts, hash)?,
    })
}

fn body(parts: &[Part]) -> Body {
    let mut all = Vec::new();
    for part in parts {
        match &part.body {
            Body::Held(buffers) => all.extend(buffers.iter().cloned()),
            // A part is never made from a seed: only whole objects are.
            Body::Forgotten | Body::Made(_) => return Body::Forgotten,
        }
    }
    Body::Held(all)
}

fn combine(algorithm: CrcAlgorithm, parts: impl Iterator<Item = (u64, u64)>) -> u64 {
    let whole = parts.reduce(|(one, size), (two, more)| (checksum_combine(algorithm, one, two, more), size + more));
    whole.map_or(0, |(hash, _)| hash)
}

/// S3 keeps a checksum of the whole for the CRCs if asked to (always for CRC-64),
/// else the checksum of the parts' checksums with their number.
fn checksums(upload: &Upload, parts: &[Part], crc64: u64) -> S3Result<Checksum> {
    let mut whole = Checksum::default();
    let Some(algorithm) = &upload.checksum_algorithm else { return Ok(whole) };
    let of_all = upload.checksum_type.as_ref().is_some_and(|t| t.as_str() == ChecksumType::FULL_OBJECT);
    let composite = !(of_all || algorithm.as_str() == ChecksumAlgorithm::CRC64NVME);
    let values = |of: fn(&Checksum) -> Option<&String>| {
        parts.iter().map(|p| decoded(of(&p.checksums))).collect::<S3Result<Vec<_>>>()
    };
    let crc = |crc, values: &[Vec<u8>]| {
        let sizes = parts.iter().map(|part| part.content.size_bytes);
        let crcs = values.iter().map(|v| v.iter().fold(0, |n, b| n << 8 | u64::from(*b)));
        // Cannot truncate: the CRC has 32 bits.
        STANDARD.encode(u32::try_from(combine(crc, crcs.zip(sizes))).unwrap_or(0).to_be_bytes())
    };
    let counted = |hash: &[u8]| format!("{}-{}", STANDARD.encode(hash), parts.len());
    match algorithm.as_str() {
        ChecksumAlgorithm::CRC64NVME => whole.checksum_crc64nvme = Some(STANDARD.encode(crc64.to_be_bytes())),
        ChecksumAlgorithm::CRC32 => {
            let values = values(|c| c.checksum_crc32.as_ref())?;
            let joined = values.concat();
            whole.checksum_crc32 =
                Some(if composite { counted(&Crc32::checksum(&joined)) } else { crc(Crc32IsoHdlc, &values) });
        }
        ChecksumAlgorithm::CRC32C => {
            let values = values(|c| c.checksum_crc32c.as_ref())?;
            let joined = values.concat();
            whole.checksum_crc32c =
                Some(if composite { counted(&Crc32c::checksum(&joined)) } else { crc(Crc32Iscsi, &values) });
        }
        ChecksumAlgorithm::SHA1 => {
            whole.checksum_sha1 = Some(counted(&Sha1::checksum(&values(|c| c.checksum_sha1.as_ref())?.concat())));
        }
        ChecksumAlgorithm::SHA256 => {
            whole.checksum_sha256 = Some(counted(&Sha256::checksum(&values(|c| c.checksum_sha256.as_ref())?.concat())));
        }
        other => return Err(s3_error!(InvalidRequest, "Checksum algorithm {other} is not supported")),
    }
    whole.checksum_type =
        Some(ChecksumType::from_static(if composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT }));
    Ok(whole)
}

fn decoded(value: Option<&String>) -> S3Result<Vec<u8>> {
    let value = value.and_then(|value| STANDARD.decode(value).ok());
    value.ok_or_else(|| {
        s3_error!(
            InvalidRequest,
            "The upload was created using a checksum. The complete request must include the checksum for each part."
        )
    })
}

impl JoinedParts {
    /// Compares with the checksum that the client states for the whole object.
    pub fn compare(&self, said: &[(&str, Option<&String>)]) -> S3Result<()> {
        let crc64 = STANDARD.encode(self.content.hash.0.to_be_bytes());
        let found = [
            self.checksums.checksum_crc32.as_ref(),
            self.checksums.checksum_crc32c.as_ref(),
            Some(&crc64), // known of every object
            self.checksums.checksum_sha1.as_ref(),
            self.checksums.checksum_sha256.as_ref(),
        ];
        for ((name, said), found) in said.iter().zip(found) {
            if said.is_some() && *said != found {
                return Err(s3_error!(BadDigest, "The {name} you specified did not match the calculated checksum."));
            }
        }
        Ok(())
    }
}
