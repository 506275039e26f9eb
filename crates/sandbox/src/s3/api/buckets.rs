//! Buckets as a whole.

use std::sync::Arc;

use s3s::dto::{
    Bucket as BucketEntry, CreateBucketInput, CreateBucketOutput, DeleteBucketInput, DeleteBucketOutput,
    GetBucketLocationInput, GetBucketLocationOutput, HeadBucketInput, HeadBucketOutput, ListBucketsInput,
    ListBucketsOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::super::bucket::Bucket;
use super::super::bucket_options::BucketOptions;
use super::ServerState;

pub(super) async fn list(
    shared: &ServerState,
    _: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    let buckets = shared.buckets.read().expect("no holder panics");
    let entry = |(name, bucket): (&String, &Arc<Bucket>)| BucketEntry {
        name: Some(name.clone()),
        creation_date: Some(bucket.created.into()),
        ..BucketEntry::default()
    };
    let buckets = Some(buckets.iter().map(entry).collect());
    Ok(S3Response::new(ListBucketsOutput { buckets, ..ListBucketsOutput::default() }))
}

pub(super) async fn create(
    shared: &ServerState,
    req: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let name = req.input.bucket;
    let mut buckets = shared.buckets.write().expect("no holder panics");
    if buckets.contains_key(&name) {
        return Err(s3_error!(
            BucketAlreadyOwnedByYou,
            "Your previous request to create the named bucket succeeded and you already own it."
        ));
    }
    let location = Some(format!("/{name}"));
    buckets.insert(name, Arc::new(Bucket::new(BucketOptions::default())));
    Ok(S3Response::new(CreateBucketOutput { location }))
}

pub(super) async fn head(
    shared: &ServerState,
    req: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    shared.bucket(&req.input.bucket)?;
    Ok(S3Response::new(HeadBucketOutput::default()))
}

pub(super) async fn delete(
    shared: &ServerState,
    req: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    let mut buckets = shared.buckets.write().expect("no holder panics");
    let Some(bucket) = buckets.get(&req.input.bucket) else {
        return Err(s3_error!(NoSuchBucket, "The specified bucket does not exist"));
    };
    if !bucket.lock().objects.is_empty() {
        return Err(s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty"));
    }
    buckets.remove(&req.input.bucket);
    Ok(S3Response::new(DeleteBucketOutput::default()))
}

pub(super) async fn location(
    shared: &ServerState,
    req: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    shared.bucket(&req.input.bucket)?;
    Ok(S3Response::new(GetBucketLocationOutput::default()))
}
