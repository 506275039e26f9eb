//! The additional checksums of S3 by the headers that carry them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use s3s::dto::{Checksum, ChecksumType};
use s3s::{S3Result, s3_error};

/// Header, length of the hash in bytes, and where its base64 stands.
type Slot<'a> = (&'static str, usize, &'a mut Option<String>);

fn slots(checksums: &mut Checksum) -> [Slot<'_>; 5] {
    [
        ("x-amz-checksum-crc32", 4, &mut checksums.checksum_crc32),
        ("x-amz-checksum-crc32c", 4, &mut checksums.checksum_crc32c),
        ("x-amz-checksum-crc64nvme", 8, &mut checksums.checksum_crc64nvme),
        ("x-amz-checksum-sha1", 20, &mut checksums.checksum_sha1),
        ("x-amz-checksum-sha256", 32, &mut checksums.checksum_sha256),
    ]
}

pub(super) fn values(checksums: &Checksum) -> [(&'static str, Option<&String>); 5] {
    [
        ("x-amz-checksum-crc32", checksums.checksum_crc32.as_ref()),
        ("x-amz-checksum-crc32c", checksums.checksum_crc32c.as_ref()),
        ("x-amz-checksum-crc64nvme", checksums.checksum_crc64nvme.as_ref()),
        ("x-amz-checksum-sha1", checksums.checksum_sha1.as_ref()),
        ("x-amz-checksum-sha256", checksums.checksum_sha256.as_ref()),
    ]
}

/// Adds those that these headers declare. Error: a value that is no hash of that kind.
pub(super) fn read(headers: &HeaderMap, checksums: &mut Checksum) -> S3Result<()> {
    for (name, bytes, slot) in slots(checksums) {
        let Some(value) = headers.get(name) else { continue };
        let is_hash = |text: &&str| STANDARD.decode(text).is_ok_and(|hash| hash.len() == bytes);
        let value = value.to_str().ok().filter(is_hash);
        let value = value.ok_or_else(|| s3_error!(InvalidRequest, "Value for {name} header is invalid."))?;
        *slot = Some(value.to_owned());
    }
    Ok(())
}

/// The headers of an answer; with their type, if there are any.
pub(super) fn write(mut checksums: Checksum, headers: &mut HeaderMap) {
    let kind = checksums.checksum_type.take();
    let kind = kind.as_ref().map_or(ChecksumType::FULL_OBJECT, ChecksumType::as_str).to_owned();
    for (name, _, slot) in slots(&mut checksums) {
        if let Some(value) = slot.take().and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(name, value);
            if let Ok(kind) = HeaderValue::try_from(&kind) {
                headers.insert("x-amz-checksum-type", kind);
            }
        }
    }
}
