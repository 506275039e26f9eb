//! GetObject and HeadObject.

use hyper::header::HeaderValue;
use hyper::{HeaderMap, StatusCode, header};
use s3s::dto::{
    Checksum, ChecksumMode, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, Range, StreamingBlob,
};
use s3s::{Body as HttpBody, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::super::checksums;
use super::super::object::{Body, Object};
use super::conditions::{Conditions, Verdict};
use super::etag::strong;
use super::{ServerState, signed};

pub(super) async fn object(
    shared: &ServerState,
    req: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let input = req.input;
    let conditions = Conditions {
        matches: input.if_match,
        none_matches: input.if_none_match,
        modified_since: input.if_modified_since,
        unmodified_since: input.if_unmodified_since,
    };
    let bucket = shared.bucket(&input.bucket)?;
    let object = bucket.object(&bucket.options.kept_as(&input.key))?;
    if input.part_number.is_some() {
        return Err(s3_error!(NotImplemented, "Reading by part number is not implemented"));
    }
    if conditions.check(&object, &bucket.options)? == Verdict::NotModified {
        return Err(not_modified(&object));
    }
    let found = Found::of(&object, input.range, input.checksum_mode.as_ref())?;
    // A body that consists of one buffer goes out as that buffer, without a stream around it.
    let body = match &object.body {
        Body::Held(parts) if parts.len() == 1 => {
            // Cannot fail: the range lies within the buffer.
            let at = |n| usize::try_from(n).expect("within a buffer");
            StreamingBlob::from(HttpBody::from(parts[0].slice(at(found.start)..at(found.end))))
        }
        body => StreamingBlob::new(body.pieces(found.start..found.end).ok_or_else(bytes_not_kept)?),
    };
    let mut headers = object.metadata.for_answer();
    checksums::write(found.checksums, &mut headers);
    let output = GetObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        body: Some(body),
        content_length: Some(signed(found.end - found.start)),
        content_range: found.content_range,
        e_tag: Some(strong(&object.etag)),
        last_modified: Some(object.modified.into()),
        ..GetObjectOutput::default()
    };
    Ok(S3Response::with_headers(output, without_overridden(headers, req.uri.query())))
}

pub(super) async fn head(
    shared: &ServerState,
    req: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let input = req.input;
    let conditions = Conditions {
        matches: input.if_match,
        none_matches: input.if_none_match,
        modified_since: input.if_modified_since,
        unmodified_since: input.if_unmodified_since,
    };
    let bucket = shared.bucket(&input.bucket)?;
    let object = bucket.object(&bucket.options.kept_as(&input.key))?;
    if conditions.check(&object, &bucket.options)? == Verdict::NotModified {
        return Err(not_modified(&object));
    }
    let found = Found::of(&object, input.range, input.checksum_mode.as_ref())?;
    let output = HeadObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        content_length: Some(signed(found.end - found.start)),
        content_range: found.content_range,
        e_tag: Some(strong(&object.etag)),
        last_modified: Some(object.modified.into()),
        ..HeadObjectOutput::default()
    };
    let mut headers = object.metadata.for_answer();
    checksums::write(found.checksums, &mut headers);
    Ok(S3Response::with_headers(output, headers))
}

/// The requested part of an object.
struct Found {
    start: u64,
    end: u64,
    content_range: Option<String>,
    checksums: Checksum,
}

impl Found {
    fn of(object: &Object, range: Option<Range>, mode: Option<&ChecksumMode>) -> S3Result<Self> {
        let size = object.content.size_bytes;
        let part = range.map(|range| within(&range, size)).transpose()?;
        let (start, end) = part.unwrap_or((0, size));
        // A checksum of the whole beside a part of it would be taken for the part's.
        let wanted = part.is_none() && mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED);
        let checksums = if wanted { object.checksums.clone() } else { Checksum::default() };
        let content_range = part.map(|(start, end)| format!("bytes {start}-{}/{size}", end - 1));
        Ok(Self { start, end, content_range, checksums })
    }
}

/// First byte and end of the range. Error: `InvalidRange`, which says how long the object is.
pub(super) fn within(range: &Range, size: u64) -> S3Result<(u64, u64)> {
    match range.check(size) {
        Ok(range) if !range.is_empty() => Ok((range.start, range.end)),
        Ok(_) | Err(_) => {
            let mut error = s3_error!(InvalidRange, "The requested range is not satisfiable");
            let length = format!("bytes */{size}").parse().map(|length| (header::CONTENT_RANGE, length));
            let xml = (header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            error.set_headers(length.into_iter().chain([xml]).collect());
            Err(error)
        }
    }
}

/// Not an error to HTTP, but the library gives other statuses to errors alone.
fn not_modified(object: &Object) -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    // Cannot fail: an ETag of ours is hexadecimal.
    let etag = strong(&object.etag).to_http_header().expect("hexadecimal");
    error.set_headers([(header::ETAG, etag)].into_iter().collect());
    error
}

/// `response-content-type` and its like replace what the object says; the library adds them itself.
fn without_overridden(mut headers: HeaderMap, query: Option<&str>) -> HeaderMap {
    for pair in query.unwrap_or("").split('&') {
        let name = pair.split('=').next().and_then(|name| name.strip_prefix("response-"));
        if let Some(name) = name {
            headers.remove(name);
        }
    }
    headers
}

/// A code of the sandbox alone: no client may confuse it with a real store's.
pub(super) fn bytes_not_kept() -> S3Error {
    let code = S3ErrorCode::Custom("SandboxBytesNotKept".into());
    let mut error = S3Error::with_message(code, "This bucket keeps hashes and forgets bytes.");
    error.set_status_code(StatusCode::UNPROCESSABLE_ENTITY);
    error
}
