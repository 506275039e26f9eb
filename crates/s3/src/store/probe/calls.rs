//! Requests that copies never make: with wrong hashes, conditions, or a version.

use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart, EncodingType};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use copyhold_core::domain::ObjectKey;
use crc_fast::CrcAlgorithm::Crc64Nvme;
use md5::{Digest, Md5 as Hasher};

use super::{Probe, Store, StoreError};
use crate::store::{
    ETag, Md5, Metadata, Operation, Reason, UploadId,
    blank_keys::to_sdk,
    key_encoding::KeyEncoding,
    stall_timeout::{Progress, lent},
    xml_document::WholeDocument,
};

/// What is sent with an object; the default is the right Content-MD5.
#[derive(Default)]
pub(super) struct PutOptions<'a> {
    pub hash: Hash,
    pub only_if_absent: bool,
    pub metadata: Option<&'a Metadata>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Hash {
    #[default]
    Md5,
    WrongMd5,
    Crc64,
    WrongCrc64,
}

pub(super) struct Sent {
    pub etag: ETag,
    /// Some stores return one although they keep no versions.
    pub version: Option<String>,
}

impl Hash {
    /// Returns Content-MD5 and checksum, of which one is set.
    pub(super) fn headers(self, bytes: &[u8]) -> (Option<String>, Option<String>) {
        let crc64 = |bytes: &[u8]| STANDARD.encode(crc_fast::checksum(Crc64Nvme, bytes).to_be_bytes());
        match self {
            Self::Md5 => (Some(md5_of(bytes).base64()), None),
            Self::WrongMd5 => (Some(md5_of(b"something else").base64()), None),
            Self::Crc64 => (None, Some(crc64(bytes))),
            Self::WrongCrc64 => (None, Some(crc64(b"something else"))),
        }
    }
}

pub(super) fn md5_of(bytes: &[u8]) -> Md5 {
    Md5(Hasher::digest(bytes).into())
}

impl Probe<'_> {
    /// Returns the key of this name below the probe's prefix.
    pub(super) fn key(&self, name: &str) -> ObjectKey {
        // Cannot fail: names are chosen here, not empty, without NUL, and short enough.
        ObjectKey::new(format!("{}{name}", self.prefix)).expect("a key of a probe")
    }

    pub(super) async fn put(
        &mut self,
        key: &ObjectKey,
        bytes: &[u8],
        sending: PutOptions<'_>,
    ) -> Result<Sent, StoreError> {
        self.cleanup.writes(key);
        let Store { client, bucket, .. } = self.store;
        let progress = Progress::default();
        let (body, _loan) = lent(&Bytes::copy_from_slice(bytes), &progress);
        let (md5, crc64) = sending.hash.headers(bytes);
        let metadata = sending.metadata.cloned().unwrap_or_default();
        let expires = metadata.expires;
        let call = client
            .put_object()
            .bucket(bucket)
            .key(to_sdk(key))
            .body(body)
            .content_length(i64::try_from(bytes.len()).unwrap_or(i64::MAX))
            .set_content_md5(md5)
            .set_checksum_crc64_nvme(crc64)
            .set_if_none_match(sending.only_if_absent.then(|| "*".to_owned()))
            .set_content_type(metadata.content_type)
            .set_content_encoding(metadata.content_encoding)
            .set_content_disposition(metadata.content_disposition)
            .set_content_language(metadata.content_language)
            .set_cache_control(metadata.cache_control)
            .set_metadata(Some(metadata.user.into_iter().collect()))
            .customize()
            .disable_payload_signing()
            .mutate_request(move |request| {
                if let Some(expires) = expires.clone() {
                    let _ = request.headers_mut().try_insert("expires", expires);
                }
            });
        let answer = match self.store.call(Operation::PutObject, &progress, call.send()).await {
            Ok(answer) => answer,
            Err(error) => return Err(Box::pin(self.store.look_at_the_path(key, error)).await),
        };
        self.cleanup.wrote(key, answer.version_id.as_ref());
        Ok(Sent { etag: ETag::new(answer.e_tag.unwrap_or_default()), version: answer.version_id })
    }

    pub(super) async fn read(&self, key: &ObjectKey) -> Result<Vec<u8>, StoreError> {
        let mut body = self.store.get(key, None, None).await?.body;
        let mut bytes = Vec::new();
        while let Some(frame) = body.next().await? {
            bytes.extend_from_slice(&frame);
        }
        Ok(bytes)
    }

    /// Returns the bytes of the object; `None`: there is no such object.
    pub(super) async fn read_if_there(&self, key: &ObjectKey) -> Result<Option<Vec<u8>>, StoreError> {
        match self.read(key).await {
            Err(error) if error.reason() == Reason::NoSuchKey => Ok(None),
            answer => answer.map(Some),
        }
    }

    pub(super) async fn is_there(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        match self.store.head(key).await {
            Ok(_) => Ok(true),
            Err(error) if error.reason() == Reason::NoSuchKey => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Begins an upload in parts whose checksum is the whole object's CRC-64/NVME.
    pub(super) async fn create_with_crc64(&mut self, key: &ObjectKey) -> Result<UploadId, StoreError> {
        self.cleanup.writes(key);
        let Store { client, bucket, .. } = self.store;
        let call = client
            .create_multipart_upload()
            .bucket(bucket)
            .key(to_sdk(key))
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .checksum_type(ChecksumType::FullObject);
        let answer = self.store.call(Operation::CreateMultipartUpload, &Progress::default(), call.send()).await?;
        let none = || StoreError::found(Operation::CreateMultipartUpload, Reason::NotUnderstood, "it names no upload");
        let upload = UploadId::new(answer.upload_id.ok_or_else(none)?);
        self.cleanup.begins(key, &upload);
        Ok(upload)
    }

    pub(super) async fn create(&mut self, key: &ObjectKey) -> Result<UploadId, StoreError> {
        self.cleanup.writes(key);
        let upload = self.store.create_multipart(key, &Metadata::default()).await?;
        self.cleanup.begins(key, &upload);
        Ok(upload)
    }

    pub(super) async fn part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: i32,
        bytes: &Bytes,
        hash: Hash,
    ) -> Result<ETag, StoreError> {
        let Store { client, bucket, .. } = self.store;
        let progress = Progress::default();
        let (body, _loan) = lent(bytes, &progress);
        let (md5, crc64) = hash.headers(bytes);
        let call = client
            .upload_part()
            .bucket(bucket)
            .key(to_sdk(key))
            .upload_id(upload.as_str())
            .part_number(number)
            .body(body)
            .content_length(i64::try_from(bytes.len()).unwrap_or(i64::MAX))
            .set_content_md5(md5)
            .set_checksum_crc64_nvme(crc64)
            .customize()
            .disable_payload_signing();
        let answer = self.store.call(Operation::UploadPart, &progress, call.send()).await?;
        Ok(ETag::new(answer.e_tag.unwrap_or_default()))
    }

    /// Completes an upload; `parts` are in order from part 1.
    pub(super) async fn complete(
        &mut self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[ETag],
    ) -> Result<ETag, StoreError> {
        let Store { client, bucket, .. } = self.store;
        let parts = (1..)
            .zip(parts)
            .map(|(number, etag)| CompletedPart::builder().part_number(number).e_tag(etag.as_str()).build());
        let call = client
            .complete_multipart_upload()
            .bucket(bucket)
            .key(to_sdk(key))
            .upload_id(upload.as_str())
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build());
        let answer = self.store.call(Operation::CompleteMultipartUpload, &Progress::default(), call.send()).await?;
        self.cleanup.wrote(key, answer.version_id.as_ref());
        Ok(ETag::new(answer.e_tag.unwrap_or_default()))
    }

    pub(super) async fn delete(&self, key: &ObjectKey, version: Option<&str>) -> Result<(), StoreError> {
        let Store { client, bucket, .. } = self.store;
        let call = client.delete_object().bucket(bucket).key(to_sdk(key)).set_version_id(version.map(str::to_owned));
        self.store.call(Operation::DeleteObject, &Progress::default(), call.send()).await.map(drop)
    }

    /// Returns the keys below `prefix` after `after`; the probe writes far fewer than one page.
    pub(super) async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<String>, StoreError> {
        let Store { client, bucket, .. } = self.store;
        let call = client
            .list_objects_v2()
            .bucket(bucket)
            .prefix(prefix)
            .set_start_after(after.map(str::to_owned))
            .encoding_type(EncodingType::Url);
        let call = call.customize().interceptor(WholeDocument::OBJECTS);
        let answer = self.store.call(Operation::ListObjects, &Progress::default(), call.send()).await?;
        let spelling = KeyEncoding::of(answer.encoding_type.as_ref());
        let keys = answer.contents.unwrap_or_default().into_iter().filter_map(|object| object.key);
        Ok(keys.map(|key| spelling.text(key)).collect())
    }
}
