//! Lists unfinished uploads and their parts: ListParts and ListMultipartUploads.

use std::ops::Bound;

use s3s::dto::{
    ListMultipartUploadsInput, ListMultipartUploadsOutput, ListPartsInput, ListPartsOutput, MultipartUpload,
    Part as Entry, StorageClass,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::etag::{of_one, strong};
use super::list::{Spelling, common_prefixes};
use super::{ServerState, page_size, signed};

pub(super) async fn parts(
    shared: &ServerState,
    req: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let input = req.input;
    let bucket = shared.bucket(&input.bucket)?;
    let most = page_size(input.max_parts)?;
    let marker = input.part_number_marker.unwrap_or(0);
    let mut state = bucket.lock();
    let upload = state.upload(&input.key, &input.upload_id)?;
    let mut rest = upload.parts.range((Bound::Excluded(marker), Bound::Unbounded)).peekable();
    let page = rest.by_ref().take(most).map(|(number, part)| Entry {
        part_number: Some(*number),
        size: Some(signed(part.content.size_bytes)),
        e_tag: Some(strong(&of_one(part.md5, &bucket.options))),
        last_modified: Some(part.modified.into()),
        checksum_crc32: part.checksums.checksum_crc32.clone(),
        checksum_crc32c: part.checksums.checksum_crc32c.clone(),
        checksum_crc64nvme: part.checksums.checksum_crc64nvme.clone(),
        checksum_sha1: part.checksums.checksum_sha1.clone(),
        checksum_sha256: part.checksums.checksum_sha256.clone(),
    });
    let page: Vec<_> = page.collect();
    let truncated = most > 0 && rest.peek().is_some();
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        part_number_marker: Some(marker),
        next_part_number_marker: page.last().and_then(|part| part.part_number),
        max_parts: Some(i32::try_from(most).unwrap_or(i32::MAX)),
        is_truncated: Some(truncated),
        parts: Some(page),
        checksum_algorithm: upload.checksum_algorithm.clone(),
        checksum_type: upload.checksum_type.clone(),
        storage_class: Some(StorageClass::from(upload.metadata.storage_class().to_owned())),
        ..ListPartsOutput::default()
    }))
}

pub(super) async fn list(
    shared: &ServerState,
    req: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let input = req.input;
    let bucket = shared.bucket(&input.bucket)?;
    let most = page_size(input.max_uploads)?;
    if input.delimiter.as_ref().is_some_and(|d| !d.is_empty()) {
        return Err(s3_error!(NotImplemented, "Uploads are listed without a delimiter only"));
    }
    let prefix = bucket.options.heeded(input.prefix);
    let spell = Spelling::of(input.encoding_type.as_ref());
    // Without an upload id the marker stands for all uploads of its key.
    let after = match (&input.key_marker, &input.upload_id_marker) {
        (None, _) => None,
        (Some(key), None) => Some((key.clone(), char::MAX.to_string())),
        (Some(key), Some(id)) => Some((key.clone(), id.clone())),
    };
    let state = bucket.lock();
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut rest =
        state.uploads.range((from, Bound::Unbounded)).filter(|((key, _), _)| key.starts_with(&prefix)).peekable();
    let page: Vec<_> = rest.by_ref().take(most).collect();
    let truncated = most > 0 && rest.peek().is_some();
    let last = page.last().filter(|_| truncated).map(|(at, _)| *at);
    let entry = |((key, id), upload): &(&(String, String), &super::super::bucket::Upload)| MultipartUpload {
        key: Some(spell.out(key)),
        upload_id: Some(id.clone()),
        initiated: Some(upload.initiated.into()),
        checksum_algorithm: upload.checksum_algorithm.clone(),
        checksum_type: upload.checksum_type.clone(),
        storage_class: Some(StorageClass::from(upload.metadata.storage_class().to_owned())),
        ..MultipartUpload::default()
    };
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        prefix: Some(spell.out(&prefix)),
        key_marker: input.key_marker.map(|key| spell.out(&key)),
        upload_id_marker: input.upload_id_marker,
        next_key_marker: last.map(|(key, _)| spell.out(key)),
        next_upload_id_marker: last.map(|(_, id)| id.clone()),
        max_uploads: Some(i32::try_from(most).unwrap_or(i32::MAX)),
        is_truncated: Some(truncated),
        uploads: Some(page.iter().map(entry).collect()),
        common_prefixes: Some(common_prefixes(&spell, Vec::new())),
        encoding_type: input.encoding_type,
        ..ListMultipartUploadsOutput::default()
    }))
}
