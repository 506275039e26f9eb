//! One object's upload at one target: begun or gone on with, completed, kept or thrown away.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use copyhold_core::domain::{Failure, FailureClass, ObjectKey, Verified};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::super::{
    Cancelled, Copy, Entry, Journal, Older, OnExisting, Part, Shape, Target, Unfinished, failure::of_target,
    plan::Parts, refused, source::Opened, verify,
};
use crate::store::{Head, UploadId};

/// How long a store is given to throw parts away, or to say that it began an upload
/// that nobody wants any more.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(5);

/// How a target begins.
pub(super) enum Begun<'t> {
    Upload(Upload<'t>),
    /// It holds an object from before, which is compared at the end.
    Taken(Head),
    /// An earlier attempt of ours got further than anybody heard.
    There(Verified),
}

/// An upload at one target.
pub(super) struct Upload<'t> {
    pub target: &'t Target,
    pub id: UploadId,
    pub entry: Entry,
    /// It was begun in this attempt.
    pub is_new: bool,
    /// What the store has taken, by number.
    pub parts: BTreeMap<u32, Part>,
    /// Parts that it has taken in this attempt.
    pub gained: u32,
    /// Parts on their way to it.
    pub under_way: u32,
    pub state: State,
    /// Cuts off what is on its way.
    pub cut: CancellationToken,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It gets each part that it lacks.
    Sending,
    /// It gets no more: what is on its way may still arrive, and it goes on from there another time. `None`: because it
    /// fell behind.
    Leaving(Option<Failure>),
    Completing,
    /// Its target has its answer.
    Answered(Leaves),
}

/// What an upload leaves at the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaves {
    /// Parts that whoever comes next can go on with.
    Parts,
    /// Parts that are of no use to anybody.
    Waste,
    Nothing,
}

impl<'t> Upload<'t> {
    fn new(target: &'t Target, id: UploadId, entry: Entry, parts: Vec<Part>) -> Self {
        let parts = parts.into_iter().map(|part| (part.number, part)).collect();
        let (gained, under_way, state) = (0, 0, State::Sending);
        let (is_new, cut) = (false, CancellationToken::new());
        Self { target, id, entry, is_new, parts, gained, under_way, state, cut }
    }

    /// It gets no more parts.
    pub(super) fn leave(&mut self, why: Option<Failure>) {
        if self.state == State::Sending {
            self.state = State::Leaving(why);
        }
    }

    pub(super) fn is_answered(&self) -> bool {
        matches!(self.state, State::Answered(_))
    }

    /// What it leaves when everything ends here. Of one that is being completed nobody knows: its parts are written down.
    pub(super) fn leaves(&self) -> Leaves {
        match self.state {
            State::Answered(Leaves::Parts) | State::Sending | State::Leaving(_) if self.parts.is_empty() => {
                Leaves::Waste
            }
            State::Answered(leaves) => leaves,
            State::Sending | State::Leaving(_) | State::Completing => Leaves::Parts,
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
        opened: &Opened,
        parts: Parts,
        unfinished: Option<Unfinished>,
        older: &[Older],
    ) -> Result<Begun<'t>, Option<Failure>> {
        let (store, key) = (&*target.store, &self.job.key);
        if let OnExisting::Adopt { older_than } = target.existing
            && let Some(there) =
                self.or_stop(verify::look(store, key, older_than)).await.map_err(|Cancelled| None)??
        {
            let same_size = there.size_bytes == opened.head().size_bytes;
            return if same_size { Ok(Begun::Taken(there)) } else { Err(Some(verify::in_the_way(store))) };
        }
        for one in older.iter().filter(|one| one.replica == *store.name()) {
            self.or_stop(self.end_older(target, one)).await.map_err(|Cancelled| None)?;
        }
        if let Some(unfinished) = unfinished
            && let Some(upload) = self.go_on(target, parts, unfinished).await.map_err(|Cancelled| None)?
        {
            return Ok(Begun::Upload(upload));
        }
        if let Some(content) = self.job.content
            && let Some(proof) = self
                .or_stop(verify::left_by_us(target, key, &content, opened.metadata()))
                .await
                .map_err(|Cancelled| None)??
        {
            return Ok(Begun::There(proof));
        }
        self.create(target, opened, parts).await.map(Begun::Upload)
    }

    /// Has an upload of an older content thrown away before a newer is sent: completed late, it would replace that.
    ///
    /// The store's word that it was aborted is not enough, because a completion may have been under way. Where it is not
    /// seen to be gone, the entry in `unsettled` that its completion left has the copy read later.
    async fn end_older(&self, target: &Target, older: &Older) {
        let (store, key) = (&target.store, &self.job.key);
        let gone = async {
            store.abort_multipart(key, &older.upload).await?;
            store.knows_upload(key, &older.upload).await.map(|known| !known)
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
        unfinished: Unfinished,
    ) -> Result<Option<Upload<'t>>, Cancelled> {
        let (store, key) = (&target.store, &self.job.key);
        let Unfinished { entry, upload, shape, parts: done, .. } = unfinished;
        let fits = shape.part_bytes == parts.part_bytes();
        let known = if fits { self.or_stop(store.knows_upload(key, &upload)).await? } else { Ok(true) };
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
                self.or_stop(throw_away(Arc::clone(&self.job.journal), key.clone(), &upload)).await?;
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
        opened: &Opened,
        parts: Parts,
    ) -> Result<Upload<'t>, Option<Failure>> {
        let (store, key, journal) = (&*target.store, &self.job.key, &self.job.journal);
        if let Some(why) = store.profile().refuses_key_in_parts(key) {
            return Err(Some(refused(store, &why)));
        }
        let shape = Shape {
            size_bytes: parts.size_bytes(),
            part_bytes: parts.part_bytes(),
            origin: opened.mark(parts.way()).unwrap_or_default(),
        };
        let entry = self.or_stop(journal.intend(store.name(), &shape)).await.map_err(|Cancelled| None)?;
        // Not dropped when we are stopped: an upload of which we never hear the name costs until somebody finds it.
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
            throw_away(Arc::clone(journal), key.clone(), &upload).await;
            return Err(None);
        }
        Ok(upload)
    }
}

/// Has the store throw the parts away. If it does not, they are still in the journal, and found there by whoever cleans
/// up; a failure is only logged, since the first one tells why.
pub(super) fn throw_away(
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
