//! The requests that write: PUT, and the steps of a multipart upload.

use std::sync::atomic::Ordering;

use aws_sdk_s3::{
    operation::upload_part::builders::UploadPartFluentBuilder,
    types::{CompletedMultipartUpload, CompletedPart},
};
use bytes::Bytes;
use copyhold_core::domain::ObjectKey;
use tracing::info;

use crate::metrics;

use super::{
    ETag, Md5, Metadata, Operation, Store, StoreError, StreamingBody, blank_keys::to_sdk, reason::Reason,
    stall_timeout::Progress, stall_timeout::lent, xml_document::WholeDocument,
};

/// The id of a multipart upload, as the store issued it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadId(String);

impl UploadId {
    pub fn new(as_sent: impl Into<String>) -> Self {
        Self(as_sent.into())
    }

    /// Returns the id as the store spelled it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Sets the headers of an object on the builder of a PutObject or a CreateMultipartUpload, which share no type.
macro_rules! with_object_headers {
    ($builder:expr, $store:expr, $metadata:expr, $redirect:expr) => {
        $builder
            .set_storage_class($store.storage_class.clone())
            .set_content_type($metadata.content_type.clone())
            .set_content_encoding($metadata.content_encoding.clone())
            .set_content_disposition($metadata.content_disposition.clone())
            .set_content_language($metadata.content_language.clone())
            .set_cache_control($metadata.cache_control.clone())
            .set_metadata(Some($metadata.user.clone().into_iter().collect()))
            .set_website_redirect_location($redirect.map(str::to_owned))
    };
}

impl Store {
    /// Stores `bytes` as `key`; returns the answer's ETag, if it has one. The request is sent once, or again without
    /// the website redirect if that was refused.
    ///
    /// `md5` is sent along, so that the store refuses damaged bytes. Not every store checks it: compare the ETag.
    pub async fn put(
        &self,
        key: &ObjectKey,
        bytes: &Bytes,
        md5: &Md5,
        metadata: &Metadata,
    ) -> Result<Option<ETag>, StoreError> {
        let redirect = self.redirect_to_send(metadata);
        match self.put_once(key, bytes, md5, metadata, redirect).await {
            Err(error) if redirect.is_some() && error.may_refuse_a_header() => {
                let answer = self.put_once(key, bytes, md5, metadata, None).await;
                self.note_redirect_refused(answer.is_ok());
                answer
            }
            answer => answer,
        }
    }

    async fn put_once(
        &self,
        key: &ObjectKey,
        bytes: &Bytes,
        md5: &Md5,
        metadata: &Metadata,
        redirect: Option<&str>,
    ) -> Result<Option<ETag>, StoreError> {
        let progress = Progress::default();
        let (body, _loan) = lent(bytes, &progress);
        let expires = metadata.expires.clone();
        let put = self.client.put_object().bucket(&self.bucket).key(to_sdk(key));
        let put = put.body(body).content_length(signed_length(bytes)).content_md5(md5.base64());
        let call = with_object_headers!(put, self, metadata, redirect)
            .customize()
            .disable_payload_signing()
            // The SDK takes a date only; kept are whatever words the source had.
            .mutate_request(move |request| {
                if let Some(expires) = expires.clone() {
                    let _ = request.headers_mut().try_insert("expires", expires);
                }
            });
        match self.call(Operation::PutObject, &progress, call.send()).await {
            Ok(answer) => {
                self.sent(bytes.len() as u64);
                Ok(ETag::of_answer(answer.e_tag))
            }
            Err(error) => Err(Box::pin(self.look_at_the_path(key, error)).await),
        }
    }

    /// Begins an upload in parts, which costs storage until it is completed or aborted.
    pub async fn create_multipart(&self, key: &ObjectKey, metadata: &Metadata) -> Result<UploadId, StoreError> {
        let redirect = self.redirect_to_send(metadata);
        match self.create_multipart_once(key, metadata, redirect).await {
            Err(error) if redirect.is_some() && error.may_refuse_a_header() => {
                let answer = self.create_multipart_once(key, metadata, None).await;
                self.note_redirect_refused(answer.is_ok());
                answer
            }
            answer => answer,
        }
    }

    async fn create_multipart_once(
        &self,
        key: &ObjectKey,
        metadata: &Metadata,
        redirect: Option<&str>,
    ) -> Result<UploadId, StoreError> {
        let expires = metadata.expires.clone();
        let create = self.client.create_multipart_upload().bucket(&self.bucket).key(to_sdk(key));
        let call = with_object_headers!(create, self, metadata, redirect).customize().mutate_request(move |request| {
            if let Some(expires) = expires.clone() {
                let _ = request.headers_mut().try_insert("expires", expires);
            }
        });
        let answer = match self.call(Operation::CreateMultipartUpload, &Progress::default(), call.send()).await {
            Ok(answer) => answer,
            Err(error) => return Err(Box::pin(self.look_at_the_path(key, error)).await),
        };
        answer.upload_id.filter(|id| !id.is_empty()).map(UploadId).ok_or_else(|| {
            StoreError::found(Operation::CreateMultipartUpload, Reason::NotUnderstood, "the answer names no upload")
        })
    }

    /// Returns the object's website redirect, unless this store is known to refuse it.
    fn redirect_to_send<'m>(&self, metadata: &'m Metadata) -> Option<&'m str> {
        metadata.plain_redirect().filter(|_| !self.refuses_redirects())
    }

    /// Returns whether it has refused a write for its website redirect, and accepted it without.
    #[must_use]
    pub fn refuses_redirects(&self) -> bool {
        self.refuses_redirects.load(Ordering::Relaxed)
    }

    /// Records that a write with a website redirect was refused. `taken_without`: and accepted without one.
    fn note_redirect_refused(&self, taken_without: bool) {
        if taken_without && !self.refuses_redirects.swap(true, Ordering::Relaxed) {
            info!(replica.id = %self.replica, "{} refuses website redirects: its copies lack them", self.replica);
        }
    }

    /// Uploads part `number`, counted from 1.
    pub async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u32,
        bytes: &Bytes,
        md5: &Md5,
    ) -> Result<ETag, StoreError> {
        let progress = Progress::default();
        let (body, _loan) = lent(bytes, &progress);
        let call = self.part(key, upload, number).body(body).content_md5(md5.base64());
        match self.send_part(call, bytes.len() as u64, &progress).await? {
            Some(etag) => Ok(etag),
            None => match self.etag_of_part(key, upload, number, bytes.len() as u64).await {
                // S3's own rule, by a store that lists no parts: if it is another, it refuses to complete the upload.
                Err(error) if error.reason() == Reason::Unsupported => Ok(ETag::new(format!("\"{}\"", md5.hex()))),
                answer => answer,
            },
        }
    }

    /// Uploads a part whose bytes arrive while they are sent, so that no hash can precede them: compare the ETag.
    pub async fn upload_part_streaming(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u32,
        feed: StreamingBody,
    ) -> Result<ETag, StoreError> {
        let (progress, bytes) = (Progress::default(), feed.len());
        let call = self.part(key, upload, number).body(feed.into_body(&progress));
        match self.send_part(call, bytes, &progress).await? {
            Some(etag) => Ok(etag),
            None => self.etag_of_part(key, upload, number, bytes).await,
        }
    }

    fn part(&self, key: &ObjectKey, upload: &UploadId, number: u32) -> UploadPartFluentBuilder {
        self.client
            .upload_part()
            .bucket(&self.bucket)
            .key(to_sdk(key))
            .upload_id(upload.as_str())
            .part_number(number.cast_signed())
    }

    async fn send_part(
        &self,
        call: UploadPartFluentBuilder,
        bytes: u64,
        progress: &Progress,
    ) -> Result<Option<ETag>, StoreError> {
        let call = call.content_length(bytes.cast_signed()).customize().disable_payload_signing();
        let answer = self.call(Operation::UploadPart, progress, call.send()).await?;
        self.sent(bytes);
        Ok(ETag::of_answer(answer.e_tag))
    }

    /// Returns the ETag of a part from the store's list, because its own answer had none. Without it the upload cannot
    /// be completed.
    async fn etag_of_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u32,
        bytes: u64,
    ) -> Result<ETag, StoreError> {
        let call = self
            .client
            .list_parts()
            .bucket(&self.bucket)
            .key(to_sdk(key))
            .upload_id(upload.as_str())
            .part_number_marker((number - 1).to_string())
            .max_parts(1);
        let answer = self.call(Operation::ListParts, &Progress::default(), call.send()).await?;
        let listed = answer.parts.unwrap_or_default().into_iter().find(|part| {
            part.part_number == Some(number.cast_signed()) && part.size.is_none_or(|size| size == bytes.cast_signed())
        });
        listed.and_then(|part| ETag::of_answer(part.e_tag)).ok_or_else(|| {
            let what =
                "the answer has no ETag, and the store's list of parts has none: its uploads cannot be completed";
            StoreError::found(Operation::UploadPart, Reason::NotUnderstood, what)
        })
    }

    /// Completes an upload; the ETags of the parts are in their order from part 1.
    ///
    /// Returns the answer's ETag, if it has one. The request is sent once. After a failure the object may exist: check.
    pub async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[ETag],
    ) -> Result<Option<ETag>, StoreError> {
        let parts = (1..)
            .zip(parts)
            .map(|(number, etag)| CompletedPart::builder().part_number(number).e_tag(etag.as_str()).build());
        let call = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(to_sdk(key))
            .upload_id(upload.as_str())
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build());
        let answer = self.call(Operation::CompleteMultipartUpload, &Progress::default(), call.send()).await?;
        Ok(ETag::of_answer(answer.e_tag))
    }

    /// Returns whether the store still knows an upload that it began.
    pub async fn upload_exists(&self, key: &ObjectKey, upload: &UploadId) -> Result<bool, StoreError> {
        let call =
            self.client.list_parts().bucket(&self.bucket).key(to_sdk(key)).upload_id(upload.as_str()).max_parts(1);
        let call = call.customize().interceptor(WholeDocument::PARTS);
        match self.call(Operation::ListParts, &Progress::default(), call.send()).await {
            Ok(_) => Ok(true),
            // Ceph's gateway says of an upload that is gone that there is no such key.
            Err(error) if matches!(error.reason(), Reason::NoSuchUpload | Reason::NoSuchKey) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Aborts an upload. One that the store no longer knows counts as aborted.
    pub async fn abort_multipart(&self, key: &ObjectKey, upload: &UploadId) -> Result<(), StoreError> {
        let call =
            self.client.abort_multipart_upload().bucket(&self.bucket).key(to_sdk(key)).upload_id(upload.as_str());
        match self.call(Operation::AbortMultipartUpload, &Progress::default(), call.send()).await {
            Err(error) if error.reason() != Reason::NoSuchUpload => Err(error),
            _ => Ok(()),
        }
    }

    fn sent(&self, bytes: u64) {
        metrics::target_bytes(&self.replica, bytes);
    }
}

/// Set explicitly, or an empty body would be sent without a length, which S3 answers with 411.
fn signed_length(bytes: &Bytes) -> i64 {
    // Cannot fail: no allocation is longer than isize::MAX.
    i64::try_from(bytes.len()).expect("a length in memory")
}
