//! DeleteObject and DeleteObjects. Deleting what is not there succeeds.

use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETagCondition,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::super::bucket::Unless;
use super::Shared;

pub(super) async fn one(
    shared: &Shared,
    req: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let input = req.input;
    let unless = match input.if_match {
        None => Unless::Never,
        Some(ETagCondition::Any) => Unless::Missing,
        Some(ETagCondition::ETag(etag)) => Unless::Differs(etag.into_value()),
    };
    let bucket = shared.bucket(&input.bucket)?;
    let mut state = bucket.lock();
    state.allow(&input.key, &unless)?;
    state.objects.remove(&input.key);
    Ok(S3Response::new(DeleteObjectOutput::default()))
}

pub(super) async fn many(
    shared: &Shared,
    req: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let delete = req.input.delete;
    if delete.objects.is_empty() || delete.objects.len() > 1000 {
        return Err(s3_error!(MalformedXML, "Between 1 and 1000 keys can be deleted at once."));
    }
    let bucket = shared.bucket(&req.input.bucket)?;
    let mut state = bucket.lock();
    let mut deleted = Vec::new();
    for object in delete.objects {
        state.objects.remove(&object.key);
        deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() });
    }
    let deleted = (!delete.quiet.unwrap_or(false)).then_some(deleted);
    Ok(S3Response::new(DeleteObjectsOutput { deleted, ..DeleteObjectsOutput::default() }))
}
