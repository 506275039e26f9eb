//! A multipart upload from its beginning to its end.

use std::collections::BTreeMap;
use std::time::SystemTime;

use hyper::HeaderMap;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput, CompleteMultipartUploadOutput,
    CompletedPart, CreateMultipartUploadInput, CreateMultipartUploadOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::super::bucket::{Upload, no_such_upload};
use super::super::bucket_options::{BucketOptions, Quirk};
use super::super::checksums;
use super::super::metadata::Metadata;
use super::super::object::Object;
use super::super::part::Part;
use super::super::receive_body::receive;
use super::etag::{of_one, of_parts, part_of_etag, strong};
use super::{ServerState, conditions, signed};

pub(super) async fn create(
    shared: &ServerState,
    req: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let bucket = shared.bucket(&req.input.bucket)?;
    bucket.options.allow_headers(&req.headers)?;
    let id = shared.next_upload_id();
    let upload = Upload {
        metadata: bucket.options.kept_metadata(Metadata::of_request(&req.headers)),
        initiated: SystemTime::now(),
        checksum_algorithm: req.input.checksum_algorithm.clone(),
        checksum_type: req.input.checksum_type.clone(),
        parts: BTreeMap::new(),
    };
    bucket.lock().uploads.insert((req.input.key.clone(), id.clone()), upload);
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(req.input.bucket),
        key: Some(req.input.key),
        upload_id: Some(id),
        checksum_algorithm: req.input.checksum_algorithm,
        checksum_type: req.input.checksum_type,
        ..CreateMultipartUploadOutput::default()
    }))
}

pub(super) async fn part(
    shared: &ServerState,
    mut req: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let bucket = shared.bucket(&req.input.bucket)?;
    bucket.options.allow_part_number(req.input.part_number)?;
    bucket.lock().upload(&req.input.key, &req.input.upload_id)?;
    let body = req.input.body.take();
    let (received, judgement) = receive(&mut req, body, &bucket.options, &shared.known).await?;
    let judged_late = bucket.options.has(Quirk::KeepsWhatItRefuses);
    let judgement = if judged_late { judgement } else { Ok(judgement?) };
    let given = received.checksums.clone();
    let e_tag = Some(strong(&of_one(received.md5, &bucket.options)));
    let part = Part {
        body: received.body,
        content: received.content,
        md5: received.md5,
        modified: SystemTime::now(),
        checksums: received.checksums,
    };
    // Asked again: the upload may have been completed or aborted while the part came in.
    bucket.lock().upload(&req.input.key, &req.input.upload_id)?.parts.insert(req.input.part_number, part);
    judgement?;
    let mut headers = HeaderMap::new();
    checksums::write(given, &mut headers);
    Ok(S3Response::with_headers(UploadPartOutput { e_tag, ..UploadPartOutput::default() }, headers))
}

pub(super) async fn complete(
    shared: &ServerState,
    req: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let input = req.input;
    let bucket = shared.bucket(&input.bucket)?;
    let unless = conditions::of_write(&bucket.options, input.if_match.as_ref(), input.if_none_match.as_ref())?;
    let wanted = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
    let mut state = bucket.lock();
    let upload = state.upload(&input.key, &input.upload_id)?;
    let parts = chosen(upload, &wanted, &bucket.options)?;
    let size: u64 = parts.iter().map(|part| part.content.size_bytes).sum();
    if input.mpu_object_size.is_some_and(|said| said != signed(size)) {
        return Err(s3_error!(
            InvalidRequest,
            "The provided 'x-amz-mp-object-size' header does not match what was uploaded"
        ));
    }
    let joined = super::super::parts::join(upload, &parts)?;
    joined.compare(&[
        ("x-amz-checksum-crc32", input.checksum_crc32.as_ref()),
        ("x-amz-checksum-crc32c", input.checksum_crc32c.as_ref()),
        ("x-amz-checksum-crc64nvme", input.checksum_crc64nvme.as_ref()),
        ("x-amz-checksum-sha1", input.checksum_sha1.as_ref()),
        ("x-amz-checksum-sha256", input.checksum_sha256.as_ref()),
    ])?;
    let object = Object {
        body: joined.body,
        content: joined.content,
        etag: of_parts(parts.iter().map(|part| part_of_etag(part.md5, &bucket.options))),
        modified: SystemTime::now(),
        metadata: upload.metadata.clone(),
        checksums: joined.checksums.clone(),
    };
    let e_tag = Some(strong(&object.etag)).filter(|_| !bucket.options.has(Quirk::CompletesWithoutEtag));
    let version_id = state.put(&bucket.options.kept_as(&input.key), object, &unless)?;
    state.uploads.remove(&(input.key.clone(), input.upload_id));
    drop(state);
    shared.call_counts(&input.bucket).wrote(&input.key);
    Ok(S3Response::new(CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", input.bucket, input.key)),
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag,
        version_id,
        checksum_crc32: joined.checksums.checksum_crc32,
        checksum_crc32c: joined.checksums.checksum_crc32c,
        checksum_crc64nvme: joined.checksums.checksum_crc64nvme,
        checksum_sha1: joined.checksums.checksum_sha1,
        checksum_sha256: joined.checksums.checksum_sha256,
        checksum_type: joined.checksums.checksum_type,
        ..CompleteMultipartUploadOutput::default()
    }))
}

/// The parts that the client names, if they are there, in order and large enough.
fn chosen(upload: &Upload, wanted: &[CompletedPart], options: &BucketOptions) -> S3Result<Vec<Part>> {
    if wanted.is_empty() {
        return Err(s3_error!(MalformedXML, "You must specify at least one part"));
    }
    if !wanted.is_sorted_by(|a, b| a.part_number < b.part_number) {
        return Err(s3_error!(
            InvalidPartOrder,
            "The list of parts was not in ascending order. Parts must be ordered by part number."
        ));
    }
    let part = |named: &CompletedPart| {
        let part = named.part_number.and_then(|number| upload.parts.get(&number)).ok_or_else(invalid_part)?;
        let same_etag = named.e_tag.as_ref().is_some_and(|etag| etag.value() == of_one(part.md5, options));
        let pairs = [
            (&named.checksum_crc32, &part.checksums.checksum_crc32),
            (&named.checksum_crc32c, &part.checksums.checksum_crc32c),
            (&named.checksum_crc64nvme, &part.checksums.checksum_crc64nvme),
            (&named.checksum_sha1, &part.checksums.checksum_sha1),
            (&named.checksum_sha256, &part.checksums.checksum_sha256),
        ];
        let same_checksums = pairs.into_iter().all(|(named, there)| named.is_none() || named == there);
        if same_etag && same_checksums { Ok(part.clone()) } else { Err(invalid_part()) }
    };
    let parts = wanted.iter().map(part).collect::<S3Result<Vec<_>>>()?;
    options.allow_parts(&parts)?;
    Ok(parts)
}

fn invalid_part() -> S3Error {
    s3_error!(
        InvalidPart,
        "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag."
    )
}

pub(super) async fn abort(
    shared: &ServerState,
    req: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let bucket = shared.bucket(&req.input.bucket)?;
    let upload = bucket.lock().uploads.remove(&(req.input.key, req.input.upload_id));
    upload.ok_or_else(no_such_upload)?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}
