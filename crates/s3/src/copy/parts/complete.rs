//! The last request of an upload, which makes the object appear.

use std::sync::Arc;

use copyhold_core::domain::{Content, Failure, ObjectKey, Verified};
use tokio::sync::mpsc;

use super::{
    super::{
        Entry, Journal, Step, Target, failure::of_target, lacks, plan::Way, source::Opened, spelling, verify, write,
    },
    upload::{Leaves, Upload},
};
use crate::store::{ETag, Head, Md5, Metadata, Reason, SentBy, Store, StoreError, UploadId};

/// What is needed to complete an upload.
pub(super) struct Complete {
    target: Target,
    store: Arc<Store>,
    /// It was begun in this attempt.
    is_new: bool,
    journal: Arc<dyn Journal>,
    key: ObjectKey,
    id: UploadId,
    entry: Entry,
    content: Content,
    etags: Vec<ETag>,
    md5s: Vec<Md5>,
    sent_hashes: bool,
    metadata: Metadata,
    steps: mpsc::UnboundedSender<Step>,
}

impl Complete {
    pub(super) fn new(
        upload: &Upload<'_>,
        journal: &Arc<dyn Journal>,
        opened: &Opened,
        content: Content,
        way: Way,
        steps: &mpsc::UnboundedSender<Step>,
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
            sent_hashes: way == Way::Held,
            metadata: opened.metadata().clone(),
            steps: steps.clone(),
        }
    }

    /// Completes the upload, and says what it leaves.
    ///
    /// The parts are written down before: if nobody hears how it ended, they tell what the object must be.
    pub(super) async fn run(self) -> (Result<Verified, Failure>, Leaves) {
        self.journal.settle().await;
        let (result, leaves) = self.ask().await;
        let leaves = if result.is_ok() { Leaves::Nothing } else { leaves };
        if leaves == Leaves::Nothing {
            self.journal.over(self.entry);
        }
        let Ok(proof) = result else { return (result, leaves) };
        // The upload is over, whatever the store has made of the metadata.
        let result = self.inspect().await.map(|()| proof);
        if result.is_ok() {
            lacks::tell(&self.steps, &self.store, &self.key, &self.metadata).await;
        }
        (result, leaves)
    }

    /// What else is seen of the first copies there, as for one that was sent whole.
    async fn inspect(&self) -> Result<(), Failure> {
        spelling::is_its_own(&self.target, &self.key).await?;
        // Some stores date an object by the beginning of its upload.
        if self.is_new {
            verify::see_clock(&self.target, &self.key).await?;
        }
        let written = (&*self.md5s, None);
        verify::keeps_metadata(&self.store, &self.key, &self.metadata, SentBy::MultipartUpload, written).await
    }

    /// An answer may be lost though the object is there, and whoever completes again then finds no upload: so a failure
    /// is believed only after a look.
    async fn ask(&self) -> (Result<Verified, Failure>, Leaves) {
        let (store, key, content) = (&*self.store, &self.key, &self.content);
        let complete = store.complete_multipart(key, &self.id, &self.etags);
        let error = match write(&self.steps, store.name(), *content, self.metadata.hash(), true, complete).await {
            Ok(etag) => {
                return (
                    verify::prove(store, key, content, &self.md5s, etag.as_ref(), self.sent_hashes).await,
                    Leaves::Nothing,
                );
            }
            Err(error) => error,
        };
        let leaves = match error.reason() {
            Reason::NoSuchUpload => Leaves::Nothing,
            reason if reason.class().may_be_of_the_store() && reason != Reason::InvalidPart => Leaves::Parts,
            _ => Leaves::Waste,
        };
        // The same bytes may have stood there before, with the metadata of an earlier state.
        let is_ours = |there: &Head| {
            there.size_bytes == content.size_bytes
                && (store.profile().accepts_altered_metadata || there.metadata.hash() == self.metadata.hash())
        };
        let there = store.head(key).await.ok().filter(is_ours);
        let result = match there.and_then(|there| there.etag) {
            Some(etag) if etag.is_of_parts(&self.md5s) => Ok(Verified::Compared),
            // An ETag that follows no formula: the bytes tell. Only where the upload is
            // certainly over, since an older object may stand there.
            Some(_) if self.is_over(&error).await => {
                verify::read_back(store, key, content).await.map_err(|_| of_target(store, error))
            }
            _ => Err(of_target(store, error)),
        };
        (result, leaves)
    }

    /// Whether the store knows the upload no more, after it has answered so or not at all.
    async fn is_over(&self, error: &StoreError) -> bool {
        let unknown = || async { matches!(self.store.knows_upload(&self.key, &self.id).await, Ok(false)) };
        error.reason() == Reason::NoSuchUpload || error.outcome_unknown() && unknown().await
    }
}
