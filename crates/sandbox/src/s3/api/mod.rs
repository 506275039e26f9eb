//! The S3 operations: one function each, and the table that says which is which.
//! An operation that is not in the table is answered `NotImplemented`.

mod buckets;
mod conditions;
mod copy;
mod delete;
pub(super) mod etag;
mod get;
mod list;
mod multipart;
mod put;
mod uploads;
mod versions;

use std::pin::Pin;
use std::sync::Arc;

use s3s::{S3, S3Request, S3Response, S3Result, dto};

use super::state::ServerState;

pub(super) struct Api(pub Arc<ServerState>);

macro_rules! operations {
    ($($name:ident: $input:ident -> $output:ident = $function:path;)*) => {
        impl S3 for Api {
            $(
                fn $name<'a, 'f>(
                    &'a self,
                    req: S3Request<dto::$input>,
                ) -> Pin<Box<dyn Future<Output = S3Result<S3Response<dto::$output>>> + Send + 'f>>
                where
                    'a: 'f,
                    Self: 'f,
                {
                    Box::pin($function(&self.0, req))
                }
            )*
        }
    };
}

operations! {
    list_buckets: ListBucketsInput -> ListBucketsOutput = buckets::list;
    create_bucket: CreateBucketInput -> CreateBucketOutput = buckets::create;
    head_bucket: HeadBucketInput -> HeadBucketOutput = buckets::head;
    delete_bucket: DeleteBucketInput -> DeleteBucketOutput = buckets::delete;
    get_bucket_location: GetBucketLocationInput -> GetBucketLocationOutput = buckets::location;
    list_objects: ListObjectsInput -> ListObjectsOutput = list::v1;
    list_objects_v2: ListObjectsV2Input -> ListObjectsV2Output = list::v2;
    get_bucket_versioning: GetBucketVersioningInput -> GetBucketVersioningOutput = versions::status;
    get_object_lock_configuration: GetObjectLockConfigurationInput -> GetObjectLockConfigurationOutput = versions::lock;
    list_object_versions: ListObjectVersionsInput -> ListObjectVersionsOutput = versions::list;
    put_object: PutObjectInput -> PutObjectOutput = put::object;
    get_object: GetObjectInput -> GetObjectOutput = get::object;
    head_object: HeadObjectInput -> HeadObjectOutput = get::head;
    copy_object: CopyObjectInput -> CopyObjectOutput = copy::object;
    delete_object: DeleteObjectInput -> DeleteObjectOutput = delete::one;
    delete_objects: DeleteObjectsInput -> DeleteObjectsOutput = delete::many;
    create_multipart_upload: CreateMultipartUploadInput -> CreateMultipartUploadOutput = multipart::create;
    upload_part: UploadPartInput -> UploadPartOutput = multipart::part;
    upload_part_copy: UploadPartCopyInput -> UploadPartCopyOutput = copy::part;
    complete_multipart_upload: CompleteMultipartUploadInput -> CompleteMultipartUploadOutput = multipart::complete;
    abort_multipart_upload: AbortMultipartUploadInput -> AbortMultipartUploadOutput = multipart::abort;
    list_parts: ListPartsInput -> ListPartsOutput = uploads::parts;
    list_multipart_uploads: ListMultipartUploadsInput -> ListMultipartUploadsOutput = uploads::list;
}

/// S3 speaks of sizes as signed numbers.
fn signed(size_bytes: u64) -> i64 {
    i64::try_from(size_bytes).unwrap_or(i64::MAX)
}

/// Returns the most entries of a page: S3 returns at most 1,000, whatever is requested.
fn page_size(asked: Option<i32>) -> S3Result<usize> {
    let asked = usize::try_from(asked.unwrap_or(1000));
    let asked = asked.map_err(|_| s3s::s3_error!(InvalidArgument, "A page cannot have less than no entries"))?;
    Ok(asked.min(1000))
}
