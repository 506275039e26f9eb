//! The headers of a request that describe its body.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::{HeaderMap, StatusCode, header};
use s3s::dto::Checksum;
use s3s::{S3Error, S3ErrorCode, S3Result, TrailingHeaders, s3_error};

use super::checksums::{self, values};

/// The largest body of one request in S3.
pub(super) const MOST_BYTES: u64 = 5 * 1024 * 1024 * 1024;

pub(super) struct PayloadHeaders {
    pub md5: Option<[u8; 16]>,
    /// Complete only when the trailer has been read.
    pub checksums: Checksum,
    /// Names of the headers that follow the body.
    trailer: Vec<String>,
    /// Whether the signature includes a hash of the body.
    pub signed_sha256: bool,
    /// The size of the body itself, without the framing of aws-chunked.
    pub size_bytes: Option<u64>,
}

impl PayloadHeaders {
    pub fn of(headers: &HeaderMap) -> S3Result<Self> {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let size = text("x-amz-decoded-content-length").or_else(|| text(header::CONTENT_LENGTH.as_str()));
        let size_bytes = size.and_then(|size| size.parse().ok());
        if size_bytes.is_some_and(|size| size > MOST_BYTES) {
            return Err(too_large());
        }
        let mut declared = Self {
            md5: text("content-md5").map(md5_of).transpose()?,
            checksums: Checksum::default(),
            trailer: text("x-amz-trailer").map(names).unwrap_or_default(),
            signed_sha256: text("x-amz-content-sha256").is_some_and(|hash| hash.len() == 64),
            size_bytes,
        };
        checksums::read(headers, &mut declared.checksums)?;
        if headers.contains_key("x-amz-sdk-checksum-algorithm") && !declared.has_checksum() {
            return Err(s3_error!(
                InvalidRequest,
                "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found."
            ));
        }
        Ok(declared)
    }

    /// The trailer is known once the body has ended.
    pub fn read_trailer(&mut self, handle: Option<TrailingHeaders>) -> S3Result<()> {
        let trailer = handle.and_then(|handle| handle.take()).unwrap_or_default();
        if let Some(missing) = self.trailer.iter().find(|name| !trailer.contains_key(name.as_str())) {
            return Err(custom("MalformedTrailerError", format!("The announced trailer {missing} did not come.")));
        }
        checksums::read(&trailer, &mut self.checksums)
    }

    /// Returns whether this checksum is in the head or comes in the trailer.
    pub fn has(&self, name: &str) -> bool {
        let given = values(&self.checksums).into_iter().any(|(n, value)| n == name && value.is_some());
        given || self.trailer.iter().any(|announced| announced == name)
    }

    fn has_checksum(&self) -> bool {
        !self.trailer.is_empty() || values(&self.checksums).iter().any(|(_, value)| value.is_some())
    }

    pub fn has_hash(&self) -> bool {
        self.md5.is_some() || self.has_checksum()
    }

    /// Compares with the received body. Error: `BadDigest`.
    pub fn compare(&self, md5: [u8; 16], found: &Checksum) -> S3Result<()> {
        if self.md5.is_some_and(|declared| declared != md5) {
            return Err(s3_error!(BadDigest, "The Content-MD5 you specified did not match what we received."));
        }
        for ((name, declared), (_, found)) in values(&self.checksums).into_iter().zip(values(found)) {
            if declared.is_some() && declared != found {
                return Err(s3_error!(BadDigest, "The {name} you specified did not match the calculated checksum."));
            }
        }
        Ok(())
    }
}

fn names(list: &str) -> Vec<String> {
    list.split(',').map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty()).collect()
}

fn md5_of(header: &str) -> S3Result<[u8; 16]> {
    let hash = STANDARD.decode(header).ok().and_then(|hash| hash.try_into().ok());
    hash.ok_or_else(|| s3_error!(InvalidDigest, "The Content-MD5 you specified is not valid."))
}

/// Makes a 400 with a code that the library does not know.
pub(super) fn custom(code: &'static str, message: String) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message);
    error.set_status_code(StatusCode::BAD_REQUEST);
    error
}

pub(super) fn too_large() -> S3Error {
    s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed size")
}
