//! DeleteObject and DeleteObjects. Deleting what is not there succeeds.

use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETagCondition,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::super::bucket::WriteCondition;
use super::ServerState;

pub(super) async fn one(
    shared: &ServerState,
    req: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let input = req.input;
    let unless = match input.if_match {
        None => WriteCondition::Never,
        Some(ETagCondition::Any) => WriteCondition::Missing,
        Some(ETagCondition::ETag(etag)) => WriteCondition::Differs(etag.into_value()),
    };
    let bucket = shared.bucket(&input.bucket)?;
    if input.version_id.is_some() && bucket.options.retention_days.is_some() {
        return Err(s3_error!(AccessDenied, "Access Denied because object protected by object lock."));
    }
    let mut state = bucket.lock();
    state.allow(&input.key, &unless)?;
    let deleted = state.delete(&bucket.options.kept_as(&input.key), input.version_id.as_deref());
    Ok(S3Response::new(DeleteObjectOutput {
        delete_marker: deleted.marker.then_some(true),
        version_id: deleted.version,
        ..DeleteObjectOutput::default()
    }))
}

pub(super) async fn many(
    shared: &ServerState,
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
        state.delete(&object.key, None);
        deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() });
    }
    let deleted = (!delete.quiet.unwrap_or(false)).then_some(deleted);
    Ok(S3Response::new(DeleteObjectsOutput { deleted, ..DeleteObjectsOutput::default() }))
}
