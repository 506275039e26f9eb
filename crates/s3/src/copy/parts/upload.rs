//! The upload of one object to one target: begun or resumed, completed, kept or aborted.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use copyhold_core::domain::{Failure, FailureClass, ObjectKey, Verified};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::super::{
    Cancelled, Copy, Journal, OlderUpload, OnExisting, ResumableUpload, Target, UploadEntry, UploadShape, UploadedPart,
    failure::of_target, plan::Parts, refused, source::OpenedSource, verify,
};
use crate::store::{Head, UploadId};

/// How long a store may take to abort an upload, or to answer with the id of an upload that is not wanted any more.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(5);

/// How a copy begins at a target.
pub(super) enum UploadStart<'t> {
    Upload(Upload<'t>),
    /// The target already holds an object, which is compared at the end.
    Taken(Head),
    /// An earlier attempt had already completed it.
    There(Verified),
}

/// An upload to one target.
pub(super) struct Upload<'t> {
    pub target: &'t Target,
    pub id: UploadId,
    pub entry: UploadEntry,
    /// It was begun in this attempt.
    pub is_new: bool,
    /// The parts that the store has accepted, by number.
    pub parts: BTreeMap<u32, UploadedPart>,
    /// The number of parts accepted in this attempt.
    pub gained: u32,
    /// The number of parts being sent to it.
    pub under_way: u32,
    pub state: State,
    /// Cancels what is being sent.
    pub cut: CancellationToken,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It gets each part that it lacks.
    Sending,
    /// It gets no more parts. Those being sent may still arrive, and another attempt resumes from there. `None`: the
    /// target fell behind.
    Leaving(Option<Failure>),
    Completing,
    /// The target has its result.
    Answered(UploadRemains),
}

/// What an upload leaves at the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UploadRemains {
    /// Parts that the next attempt resumes from.
    Parts,
    /// Parts that no attempt can use.
    Unusable,
    Nothing,
}

impl<'t> Upload<'t> {
    fn new(target: &'t Target, id: UploadId, entry: UploadEntry, parts: Vec<UploadedPart>) -> Self {
        let parts = parts.into_iter().map(|part| (part.number, part)).collect();
        let (gained, under_way, state) = (0, 0, State::Sending);
        let (is_new, cut) = (false, CancellationToken::new());
        Self { target, id, entry, is_new, parts, gained, under_way, state, cut }
    }

    /// Stops sending parts to it.
    pub(super) fn leave(&mut self, why: Option<Failure>) {
        if self.state == State::Sending {
            self.state = State::Leaving(why);
        }
    }

    pub(super) fn is_answered(&self) -> bool {
        matches!(self.state, State::Answered(_))
    }

    /// Returns what the upload leaves if everything ends here. For one that is being completed that is unknown: its
    /// parts are recorded.
    pub(super) fn leaves(&self) -> UploadRemains {
        match self.state {
            State::Answered(UploadRemains::Parts) | State::Sending | State::Leaving(_) if self.parts.is_empty() => {
                UploadRemains::Unusable
            }
            State::Answered(leaves) => leaves,
            State::Sending | State::Leaving(_) | State::Completing => UploadRemains::Parts,
        }
    }

    pub(super) fn wants(&self, number: u32) -> bool {
        self.state == State::Sending && !self.parts.contains_key(&number)
    }
}

impl Copy<'_> {
    /// Begins at one target, or goes on with what was begun there. `Err(None)`: we were stopped first.
    pub(super) async fn begin<'t>(
        &self,
        target: &'t Target,
        opened: &OpenedSource,
        parts: Parts,
        unfinished: Option<ResumableUpload>,
        older: &[OlderUpload],
    ) -> Result<UploadStart<'t>, Option<Failure>> {
        let (store, key) = (&*target.store, &self.job.key);
        if let OnExisting::Adopt { older_than } = target.existing
            && let Some(there) =
                self.or_stop(verify::look(store, key, older_than)).await.map_err(|Cancelled| None)??
        {
            let same_size = there.size_bytes == opened.head().size_bytes;
            return if same_size { Ok(UploadStart::Taken(there)) } else { Err(Some(verify::in_the_way(store))) };
        }
        for one in older.iter().filter(|one| one.replica == *store.name()) {
            self.or_stop(self.end_older(target, one)).await.map_err(|Cancelled| None)?;
        }
        if let Some(unfinished) = unfinished
            && let Some(upload) = self.go_on(target, parts, unfinished).await.map_err(|Cancelled| None)?
        {
            return Ok(UploadStart::Upload(upload));
        }
        if let Some(content) = self.job.content
            && let Some(proof) = self
                .or_stop(verify::left_by_us(target, key, &content, opened.metadata()))
                .await
                .map_err(|Cancelled| None)??
        {
            return Ok(UploadStart::There(proof));
        }
        self.create(target, opened, parts).await.map(UploadStart::Upload)
    }

    /// Has an upload of an older content thrown away before a newer is sent: completed late, it would replace that.
    ///
    /// The store's word that it was aborted is not enough, because a completion may have been under way. Where it is
    /// not seen to be gone, the entry in `unsettled` that its completion left has the copy read later.
    async fn end_older(&self, target: &Target, older: &OlderUpload) {
        let (store, key) = (&target.store, &self.job.key);
        let gone = async {
            store.abort_multipart(key, &older.upload).await?;
            store.upload_exists(key, &older.upload).await.map(|known| !known)
        };
        let why = match tokio::time::timeout(CLEAN_UP_WITHIN, gone).await {
            Ok(Ok(true)) => return self.job.journal.over(older.entry),
            Ok(Ok(false)) => "the store still knows it".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CLEAN_UP_WITHIN.as_secs()),
        };
        self.job.journal.spoil(older.entry);
        warn!(object.key = %key, replica.id = %store.name(), why, "An unfinished upload of an older content of {key} is not seen to be gone, and may still be completed");
    }

    /// What is left of an earlier attempt, if it can be gone on with.
    async fn go_on<'t>(
        &self,
        target: &'t Target,
        parts: Parts,
        unfinished: ResumableUpload,
    ) -> Result<Option<Upload<'t>>, Cancelled> {
        let (store, key) = (&target.store, &self.job.key);
        let ResumableUpload { entry, upload, shape, parts: done, .. } = unfinished;
        let fits = shape.part_bytes == parts.part_bytes();
        let known = if fits { self.or_stop(store.upload_exists(key, &upload)).await? } else { Ok(true) };
        let complete = done.len() == parts.count() as usize;
        match known {
            // Of a store that cannot say we trust our own notes: what is wrong shows at the end.
            Ok(true) | Err(_) if fits => {}
            // Perhaps it is unknown because it was completed.
            Ok(false) if complete => {}
            Ok(false) => {
                info!(object.key = %key, replica.id = %store.name(), "{} has forgotten an unfinished upload of {key}: it begins anew", store.name());
                self.job.journal.over(entry);
                return Ok(None);
            }
            Ok(true) | Err(_) => {
                let upload = Upload::new(target, upload, entry, Vec::new());
                self.or_stop(abort_upload(Arc::clone(&self.job.journal), key.clone(), &upload)).await?;
                return Ok(None);
            }
        }
        info!(
            object.key = %key, replica.id = %store.name(), parts = done.len(), of = parts.count(),
            "Going on with an upload of {key} to {}: {} of {} parts are there",
            store.name(), done.len(), parts.count()
        );
        Ok(Some(Upload::new(target, upload, entry, done)))
    }

    async fn create<'t>(
        &self,
        target: &'t Target,
        opened: &OpenedSource,
        parts: Parts,
    ) -> Result<Upload<'t>, Option<Failure>> {
        let (store, key, journal) = (&*target.store, &self.job.key, &self.job.journal);
        if let Some(why) = store.profile().refuses_key_in_parts(key) {
            return Err(Some(refused(store, &why)));
        }
        let shape = UploadShape {
            size_bytes: parts.size_bytes(),
            part_bytes: parts.part_bytes(),
            origin: opened.mark(parts.mode()).unwrap_or_default(),
        };
        let entry = self.or_stop(journal.intend(store.name(), &shape)).await.map_err(|Cancelled| None)?;
        // Not dropped on a stop: an upload whose id never arrives costs storage until the clean-up finds it.
        let mut creating = pin!(store.create_multipart(key, opened.metadata()));
        let created = tokio::select! {
            biased;
            created = &mut creating => Some(created),
            () = self.stop.cancelled() => tokio::time::timeout(CLEAN_UP_WITHIN, creating).await.ok(),
        };
        let id = created.ok_or(None)?.map_err(|error| {
            let why = of_target(store, error);
            // Whose answer was lost may have been begun.
            if why.class != FailureClass::Transient {
                journal.over(entry);
            }
            why
        })?;
        let upload = Upload { is_new: true, ..Upload::new(target, id, entry, Vec::new()) };
        if self.or_stop(journal.began(entry, &upload.id)).await.is_err() {
            abort_upload(Arc::clone(journal), key.clone(), &upload).await;
            return Err(None);
        }
        Ok(upload)
    }
}

/// Asks the store to abort the upload. If that fails, the upload is still in the journal, and the clean-up finds it
/// there. A failure is only logged, because the first error explains it.
pub(super) fn abort_upload(
    journal: Arc<dyn Journal>,
    key: ObjectKey,
    upload: &Upload<'_>,
) -> impl Future<Output = ()> + Send + 'static {
    let (store, id, entry) = (Arc::clone(&upload.target.store), upload.id.clone(), upload.entry);
    journal.spoil(entry);
    async move {
        let why = match tokio::time::timeout(CLEAN_UP_WITHIN, store.abort_multipart(&key, &id)).await {
            Ok(Ok(())) => return journal.over(entry),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CLEAN_UP_WITHIN.as_secs()),
        };
        warn!(object.key = %key, replica.id = %store.name(), why, "An unfinished upload of {key} stays behind for now");
    }
}
