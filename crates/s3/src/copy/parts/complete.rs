//! The request that completes an upload and makes the object appear.

use std::sync::Arc;

use copyhold_core::domain::{Content, Failure, ObjectKey, Verified};
use tokio::sync::mpsc;

use super::{
    super::{
        CopyStep, Journal, Target, UploadEntry, failure::of_target, key_collision, not_carried, plan::PartMode,
        source::OpenedSource, verify, write,
    },
    upload::{Upload, UploadRemains},
};
use crate::store::{ETag, Head, Md5, Metadata, Reason, SentBy, Store, StoreError, UploadId};

/// What is needed to complete an upload.
pub(super) struct UploadCompletion {
    target: Target,
    store: Arc<Store>,
    /// The upload was begun in this attempt.
    is_new: bool,
    journal: Arc<dyn Journal>,
    key: ObjectKey,
    id: UploadId,
    entry: UploadEntry,
    content: Content,
    etags: Vec<ETag>,
    md5s: Vec<Md5>,
    sent_hashes: bool,
    metadata: Metadata,
    steps: mpsc::UnboundedSender<CopyStep>,
}

impl UploadCompletion {
    pub(super) fn new(
        upload: &Upload<'_>,
        journal: &Arc<dyn Journal>,
        opened: &OpenedSource,
        content: Content,
        way: PartMode,
        steps: &mpsc::UnboundedSender<CopyStep>,
    ) -> Self {
        Self {
            target: upload.target.clone(),
            store: Arc::clone(&upload.target.store),
            is_new: upload.is_new,
            journal: Arc::clone(journal),
            key: opened.key().clone(),
            id: upload.id.clone(),
            entry: upload.entry,
            content,
            etags: upload.parts.values().map(|part| part.etag.for_complete(&part.md5)).collect(),
            md5s: upload.parts.values().map(|part| part.md5).collect(),
            sent_hashes: way == PartMode::Buffered,
            metadata: opened.metadata().clone(),
            steps: steps.clone(),
        }
    }

    /// Completes the upload and returns what it leaves at the store.
    ///
    /// The parts are recorded before: if the answer is lost, the record tells what the object must be.
    pub(super) async fn run(self) -> (Result<Verified, Failure>, UploadRemains) {
        self.journal.settle().await;
        let (result, leaves) = self.ask().await;
        let leaves = if result.is_ok() { UploadRemains::Nothing } else { leaves };
        if leaves == UploadRemains::Nothing {
            self.journal.over(self.entry);
        }
        let Ok(proof) = result else { return (result, leaves) };
        // The upload is over, whatever the store did with the metadata.
        let result = self.inspect().await.map(|()| proof);
        if result.is_ok() {
            not_carried::tell(&self.steps, &self.store, &self.key, &self.metadata).await;
        }
        (result, leaves)
    }

    /// Checks metadata and key of the first copies there, as for an object that was sent whole.
    async fn inspect(&self) -> Result<(), Failure> {
        key_collision::is_its_own(&self.target, &self.key).await?;
        // Some stores date an object by the beginning of its upload.
        if self.is_new {
            verify::see_clock(&self.target, &self.key).await?;
        }
        let written = (&*self.md5s, None);
        verify::keeps_metadata(&self.store, &self.key, &self.metadata, SentBy::MultipartUpload, written).await
    }

    /// Checks the object after a failure: the answer may be lost although the object exists, and a second completion
    /// would then find no upload.
    async fn ask(&self) -> (Result<Verified, Failure>, UploadRemains) {
        let (store, key, content) = (&*self.store, &self.key, &self.content);
        let complete = store.complete_multipart(key, &self.id, &self.etags);
        let error = match write(&self.steps, store.name(), *content, self.metadata.hash(), true, complete).await {
            Ok(etag) => {
                return (
                    verify::prove(store, key, content, &self.md5s, etag.as_ref(), self.sent_hashes).await,
                    UploadRemains::Nothing,
                );
            }
            Err(error) => error,
        };
        let leaves = match error.reason() {
            Reason::NoSuchUpload => UploadRemains::Nothing,
            reason if reason.class().may_be_of_the_store() && reason != Reason::InvalidPart => UploadRemains::Parts,
            _ => UploadRemains::Unusable,
        };
        // The same bytes may have been there before, with older metadata.
        let is_ours = |there: &Head| {
            there.size_bytes == content.size_bytes
                && (store.profile().accepts_altered_metadata || there.metadata.hash() == self.metadata.hash())
        };
        let there = store.head(key).await.ok().filter(is_ours);
        let result = match there.and_then(|there| there.etag) {
            Some(etag) if etag.is_of_parts(&self.md5s) => Ok(Verified::Compared),
            // The ETag follows no known formula, so the bytes decide. Only if the upload is certainly over, because an
            // older object may be there.
            Some(_) if self.is_over(&error).await => {
                verify::read_back(store, key, content).await.map_err(|_| of_target(store, error))
            }
            _ => Err(of_target(store, error)),
        };
        (result, leaves)
    }

    /// Returns whether the store no longer knows the upload, after it has answered so or not at all.
    async fn is_over(&self, error: &StoreError) -> bool {
        let unknown = || async { matches!(self.store.upload_exists(&self.key, &self.id).await, Ok(false)) };
        error.reason() == Reason::NoSuchUpload || error.outcome_unknown() && unknown().await
    }
}
