//! CopyObject and UploadPartCopy: bytes that need not travel.

use std::sync::Arc;
use std::time::SystemTime;

use copyhold_core::domain::{Content, ContentHash};
use md5::{Digest as _, Md5};
use s3s::dto::{
    Checksum, ChecksumType, CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, CopySource,
    MetadataDirective, Range, UploadPartCopyInput, UploadPartCopyOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::super::bucket::WriteCondition;
use super::super::bucket_options::BodyStorage;
use super::super::metadata::Metadata;
use super::super::object::{Body, Object};
use super::super::part::Part;
use super::ServerState;
use super::conditions::{Conditions, Verdict};
use super::etag::{of_one, strong};
use super::get::{bytes_not_kept, within};

pub(super) async fn object(
    shared: &ServerState,
    req: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let headers = req.headers;
    let input = req.input;
    let bucket = shared.bucket(&input.bucket)?;
    let replace = input.metadata_directive.as_ref().is_some_and(|d| d.as_str() == MetadataDirective::REPLACE);
    let (from_bucket, from_key) = source_of(&input.copy_source)?;
    if from_bucket == input.bucket && from_key == input.key && !replace && input.storage_class.is_none() {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata or storage class."
        ));
    }
    let source = find(
        shared,
        from_bucket,
        from_key,
        &Conditions {
            matches: input.copy_source_if_match,
            none_matches: input.copy_source_if_none_match,
            modified_since: input.copy_source_if_modified_since,
            unmodified_since: input.copy_source_if_unmodified_since,
        },
    )?;
    let copied = Copied::of(&source, 0, source.content.size_bytes, bucket.options.keep)?;
    let object = Object {
        body: copied.body,
        content: copied.content,
        etag: of_one(copied.md5, &bucket.options),
        modified: SystemTime::now(),
        metadata: if replace { Metadata::of_request(&headers) } else { source.metadata.clone() },
        checksums: of_the_bytes(&source.checksums),
    };
    let result = CopyObjectResult {
        e_tag: Some(strong(&object.etag)),
        last_modified: Some(object.modified.into()),
        ..CopyObjectResult::default()
    };
    bucket.lock().put(&input.key, object, &WriteCondition::Never)?;
    shared.call_counts(&input.bucket).wrote(&input.key);
    Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(result), ..CopyObjectOutput::default() }))
}

pub(super) async fn part(
    shared: &ServerState,
    req: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let input = req.input;
    let bucket = shared.bucket(&input.bucket)?;
    bucket.options.allow_part_number(input.part_number)?;
    bucket.lock().upload(&input.key, &input.upload_id)?;
    let (from_bucket, from_key) = source_of(&input.copy_source)?;
    let source = find(
        shared,
        from_bucket,
        from_key,
        &Conditions {
            matches: input.copy_source_if_match,
            none_matches: input.copy_source_if_none_match,
            modified_since: input.copy_source_if_modified_since,
            unmodified_since: input.copy_source_if_unmodified_since,
        },
    )?;
    let range = input.copy_source_range.as_deref().map(Range::parse).transpose();
    let range = range.map_err(|_| {
        s3_error!(InvalidArgument, "The x-amz-copy-source-range value must be of the form bytes=first-last")
    })?;
    let size = source.content.size_bytes;
    let (start, end) = range.map_or(Ok((0, size)), |range| within(&range, size))?;
    let copied = Copied::of(&source, start, end, bucket.options.keep)?;
    let part = Part {
        body: copied.body,
        content: copied.content,
        md5: copied.md5,
        modified: SystemTime::now(),
        checksums: Checksum::default(),
    };
    let result = CopyPartResult {
        e_tag: Some(strong(&of_one(part.md5, &bucket.options))),
        last_modified: Some(part.modified.into()),
        ..CopyPartResult::default()
    };
    bucket.lock().upload(&input.key, &input.upload_id)?.parts.insert(input.part_number, part);
    Ok(S3Response::new(UploadPartCopyOutput { copy_part_result: Some(result), ..UploadPartCopyOutput::default() }))
}

/// A checksum of part checksums does not belong to an object without parts.
fn of_the_bytes(checksums: &Checksum) -> Checksum {
    let composite = checksums.checksum_type.as_ref().is_some_and(|t| t.as_str() == ChecksumType::COMPOSITE);
    if composite { Checksum::default() } else { checksums.clone() }
}

fn source_of(source: &CopySource) -> S3Result<(&str, &str)> {
    match source {
        CopySource::Bucket { bucket, key, version_id: None } => Ok((bucket, key)),
        _ => Err(s3_error!(NotImplemented, "Only an object of a bucket can be copied, not a version of it")),
    }
}

fn find(shared: &ServerState, bucket: &str, key: &str, conditions: &Conditions) -> S3Result<Arc<Object>> {
    let bucket = shared.bucket(bucket)?;
    let object = bucket.object(key)?;
    match conditions.check(&object, &bucket.options)? {
        Verdict::Go => Ok(object),
        Verdict::NotModified => {
            Err(s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold"))
        }
    }
}

/// A range of an object as an object of its own.
struct Copied {
    body: Body,
    content: Content,
    md5: [u8; 16],
}

impl Copied {
    fn of(source: &Object, start: u64, end: u64, keep: BodyStorage) -> S3Result<Self> {
        let pieces = || source.body.pieces(start..end).ok_or_else(bytes_not_kept);
        let (mut md5, mut crc) = (Md5::new(), crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme));
        for piece in pieces()? {
            md5.update(&piece);
            crc.update(&piece);
        }
        let whole = start == 0 && end == source.content.size_bytes;
        let body = match (keep, &source.body) {
            (BodyStorage::Digest, _) => Body::Forgotten,
            (BodyStorage::Bytes, Body::Made(synthetic)) if whole => Body::Made(*synthetic),
            (BodyStorage::Bytes, _) => Body::Held(pieces()?.collect()),
        };
        let content = Content { size_bytes: end - start, hash: ContentHash(crc.finalize()) };
        Ok(Self { body, content, md5: md5.finalize().into() })
    }
}
