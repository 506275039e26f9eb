//! PutObject.

use std::time::SystemTime;

use hyper::HeaderMap;
use s3s::dto::{PutObjectInput, PutObjectOutput};
use s3s::{S3Request, S3Response, S3Result};

use super::super::bucket_options::Quirk;
use super::super::checksums;
use super::super::metadata::Metadata;
use super::super::object::Object;
use super::super::receive_body::receive;
use super::etag::{of_one, strong};
use super::{ServerState, conditions};

pub(super) async fn object(
    shared: &ServerState,
    mut req: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let bucket = shared.bucket(&req.input.bucket)?;
    let unless = conditions::of_write(&bucket.options, req.input.if_match.as_ref(), req.input.if_none_match.as_ref())?;
    let body = req.input.body.take();
    bucket.options.allow_key(&req.input.key)?;
    bucket.options.allow_headers(&req.headers)?;
    let (received, judgement) = receive(&mut req, body, &bucket.options, &shared.known).await?;
    let judged_late = bucket.options.has(Quirk::KeepsWhatItRefuses);
    let judgement = if judged_late { judgement } else { Ok(judgement?) };
    let key = &bucket.options.kept_as(&req.input.key);
    let object = Object {
        body: received.body,
        content: received.content,
        etag: of_one(received.md5, &bucket.options),
        modified: SystemTime::now(),
        metadata: bucket.options.kept_metadata(Metadata::of_request(&req.headers)),
        checksums: received.checksums.clone(),
    };
    let e_tag = Some(strong(&object.etag));
    let version_id = bucket.lock().put(key, object, &unless)?;
    shared.call_counts(&req.input.bucket).wrote(key);
    judgement?;
    let mut headers = HeaderMap::new();
    checksums::write(received.checksums, &mut headers);
    Ok(S3Response::with_headers(PutObjectOutput { e_tag, version_id, ..PutObjectOutput::default() }, headers))
}
