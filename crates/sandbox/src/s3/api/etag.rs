//! ETags as S3 forms them.

use std::fmt::Write as _;

use md5::{Digest as _, Md5};
use s3s::dto::ETag;

use super::super::bucket_options::{BucketOptions, Quirk};

/// Lower case, as in ETags.
pub(in crate::s3) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Cannot fail: a String takes all.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Returns the ETag of a multipart object: the MD5 of its parts' MD5s, and their number.
pub(in crate::s3) fn of_parts(parts: impl Iterator<Item = [u8; 16]>) -> String {
    let mut all = Md5::new();
    let mut count = 0;
    for part in parts {
        all.update(part);
        count += 1;
    }
    format!("{}-{count}", hex(&all.finalize()))
}

/// Returns the ETag of an object or part that was sent in one request.
pub(in crate::s3) fn of_one(md5: [u8; 16], options: &BucketOptions) -> String {
    hex(&part_of_etag(md5, options))
}

/// Returns a part's contribution to the ETag of the whole: its MD5, unless the store uses something else.
pub(in crate::s3) fn part_of_etag(md5: [u8; 16], options: &BucketOptions) -> [u8; 16] {
    if options.has(Quirk::OpaqueEtags) { Md5::digest([&md5[..], b"opaque"].concat()).into() } else { md5 }
}

pub(super) fn strong(etag: &str) -> ETag {
    ETag::Strong(etag.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_etag_of_parts_is_the_md5_of_their_md5s() {
        // md5("a") and md5("b"), concatenated and hashed, by coreutils' md5sum
        let parts = [*b"a", *b"b"].map(|part| Md5::digest(part).into());
        assert_eq!(of_parts(parts.into_iter()), "96e024ba2074fe77e8e965ba43a704be-2");
    }
}
