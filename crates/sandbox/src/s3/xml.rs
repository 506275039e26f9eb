//! Keys in answers, as S3 spells them.

use hyper::{Response, header};

/// Writes characters that XML cannot hold as references, as S3 does though XML 1.0 forbids it:
/// the library writes them raw, which no parser reads. Answers of other types are left alone.
pub(super) fn spell_out(response: &mut Response<s3s::Body>) {
    let xml = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/xml");
    if !xml {
        return;
    }
    let Some(bytes) = response.body().bytes() else { return };
    if !bytes.iter().any(|byte| is_raw(*byte)) {
        return;
    }
    let mut spelled = Vec::with_capacity(bytes.len() + 64);
    for byte in bytes {
        if is_raw(byte) {
            spelled.extend_from_slice(format!("&#x{byte:x};").as_bytes());
        } else {
            spelled.push(byte);
        }
    }
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = spelled.into();
}

/// A carriage return may stand in XML, but is read as a line feed. All these are one byte in UTF-8.
fn is_raw(byte: u8) -> bool {
    byte < b' ' && byte != b'\t' && byte != b'\n'
}
