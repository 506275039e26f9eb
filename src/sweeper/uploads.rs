//! Aborts multipart uploads that no holder will continue.

use std::{fmt, sync::Arc, time::Duration};

use copyhold_core::domain::{ReplicaName, micros, micros_since_epoch};
use copyhold_db::{
    Database, DatabaseError,
    lease::{CondemnedUpload, UPLOAD_CHECK_INTERVAL, UploadCheck},
};
use copyhold_s3::store::{Reason, Store, StoreError, UploadId};
use futures::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::about;
use crate::metrics;

/// What was begun for somebody who never heard its name is looked for from this long before its intent was written
/// down, because the machines of a store differ, and whole seconds round, ...
const WINDOW_BEFORE: Duration = Duration::from_mins(1);
/// ... to this long after. The call that begins an upload is given up after a minute, its retry included; before it,
/// while the store throttles, it may have waited for its turn, some minutes at most where there is any progress.
/// Longer would be no safer: what is found in it is aborted, and it might be somebody else's.
const WINDOW_AFTER: Duration = Duration::from_mins(5);
/// An upload whose name can never be found out, because its store does not let us list, is forgotten.
const NAMELESS_FOR: Duration = Duration::from_hours(3 * 24);
/// What the store has refused to throw away for so long is forgotten.
const CONDEMNED_FOR: Duration = Duration::from_hours(30 * 24);
/// After so many failures in a row the store is left alone until the next look.
const FAILURES: u32 = 3;
/// Half of the time for which nobody else looks at the same uploads; one call more may take a minute.
const ROUND: Duration = UPLOAD_CHECK_INTERVAL.checked_div(2).expect("two is not zero");
/// How often it is looked for rows of replicas that nobody serves any more.
const UNSERVED_EVERY: Duration = Duration::from_hours(1);

/// Has the stores throw away the unfinished uploads that nobody will go on with. Every daemon looks; each upload is
/// aborted by the one that has taken it, for a stated time, in PostgreSQL. No transaction is open meanwhile.
///
/// Others' uploads are never touched: only those whose name is in a row of ours, and those that were begun of the same
/// key at the time of an intent of ours whose upload's name was never heard.
pub struct OrphanedUploads {
    pub queue: Database,
    pub stores: Vec<Arc<Store>>,
    /// What may be done at a replica at the moment.
    pub reach: Reaches,
    pub every: Duration,
    /// After this time nothing that a dead holder has sent still arrives at a store, and no lease of his stands.
    pub quiet: Duration,
}

pub type Reaches = Box<dyn Fn(&ReplicaName) -> Reach + Send + Sync>;

/// Whether uploads at a replica may be aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// None: its bucket may be another one than ours, or its store is not well.
    No,
    /// Those whose names we know. The application uploads there as well, perhaps the same key at the same time.
    Named,
    /// All of ours.
    All,
}

/// How the uploads of one replica were last found.
#[derive(Debug, Default)]
struct Mood {
    failing: bool,
    /// It has been said that uploads cannot be listed.
    blind: bool,
}

/// What became of one upload.
enum Came {
    /// So many were aborted, and its row may go.
    Over(usize),
    Failed(StoreError),
    /// Uploads cannot be listed there.
    Unseen(StoreError),
}

impl fmt::Debug for OrphanedUploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrphanedUploads").field("stores", &self.stores).finish_non_exhaustive()
    }
}

impl OrphanedUploads {
    /// Looks until `drain`: at each replica by itself, so that a store that does not answer delays no other.
    pub async fn run(self, drain: CancellationToken) {
        let each = join_all(self.stores.iter().map(|store| self.watch(store, &drain)));
        tokio::join!(each, self.forget_unserved(&drain));
    }

    async fn watch(&self, store: &Store, drain: &CancellationToken) {
        let mut mood = Mood::default();
        loop {
            if drain.run_until_cancelled(tokio::time::sleep(about(self.every))).await.is_none() {
                return;
            }
            match self.queue.count_uploads(store.name()).await {
                Ok(uploads) => metrics::uploads_unfinished(store.name(), uploads, self.every),
                Err(_) => metrics::database_error("lease::count_uploads"),
            }
            let reach = (self.reach)(store.name());
            if reach == Reach::No {
                continue;
            }
            // What is dropped here is condemned, and comes up again.
            match drain.run_until_cancelled(self.look(store, reach, &mut mood)).await {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    metrics::database_error("lease::check_uploads");
                    if !error.is_unavailable() {
                        warn!(error = %error, "Could not look for unfinished uploads that nobody goes on with, trying again");
                    }
                }
            }
        }
    }

    async fn look(&self, store: &Store, reach: Reach, mood: &mut Mood) -> Result<(), DatabaseError> {
        // While the window of an intent is open, what somebody begins now would be in it.
        let quiet = self.quiet.max(WINDOW_AFTER + WINDOW_BEFORE);
        loop {
            let UploadCheck { condemned, more } = self.queue.check_uploads(store.name(), quiet).await?;
            if !condemned.is_empty() && !self.clear(store, reach, condemned, mood).await? {
                return Ok(());
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Has these thrown away. Whether the store is well enough for more.
    async fn clear(
        &self,
        store: &Store,
        reach: Reach,
        condemned: Vec<CondemnedUpload>,
        mood: &mut Mood,
    ) -> Result<bool, DatabaseError> {
        let (began, replica) = (Instant::now(), store.name());
        let example = condemned.first().map(|one| one.key.clone());
        let (mut over, mut aborted, mut forgotten, mut failures) = (Vec::new(), 0, 0, 0);
        for one in condemned {
            if failures >= FAILURES || began.elapsed() > ROUND {
                break;
            }
            let age = one.age + began.elapsed();
            match self.abort(store, reach, &one, age).await? {
                Came::Over(uploads) => {
                    debug!(object.key = %one.key, replica.id = %replica, uploads, "The unfinished upload of {} at {replica} is thrown away", one.key);
                    over.push(one.id);
                    aborted += uploads;
                    failures = 0;
                    mood.failing = false;
                }
                Came::Unseen(error) => {
                    if !std::mem::replace(&mut mood.blind, true) {
                        warn!(replica.id = %replica, error = %error, "Unfinished uploads at {replica} cannot be listed: one whose name was lost with its daemon stays until the bucket's lifecycle rule aborts it: {error}");
                    }
                    if one.age > NAMELESS_FOR {
                        over.push(one.id);
                    }
                }
                Came::Failed(error) => {
                    failures += 1;
                    if !std::mem::replace(&mut mood.failing, true) {
                        warn!(object.key = %one.key, replica.id = %replica, error = %error, "An unfinished upload of {} at {replica} could not be aborted, it is tried again later: {error}", one.key);
                    }
                    if one.for_long > CONDEMNED_FOR {
                        over.push(one.id);
                        forgotten += 1;
                    }
                }
            }
        }
        // One that is in somebody's hands is condemned, and comes up again.
        self.queue.end_uploads(&over).await?;
        metrics::uploads_orphaned(replica, aborted);
        if let Some(key) = example.filter(|_| aborted > 0) {
            info!(object.key = %key, replica.id = %replica, uploads = aborted, "Aborted {aborted} unfinished uploads at {replica} that nobody goes on with, of {key} for one");
        }
        if forgotten > 0 {
            warn!(replica.id = %replica, uploads = forgotten, "{forgotten} unfinished uploads could not be aborted at {replica} for a month and are forgotten: a lifecycle rule of the bucket would abort them");
        }
        Ok(failures < FAILURES)
    }

    /// `age`: since its intent was written down.
    async fn abort(
        &self,
        store: &Store,
        reach: Reach,
        one: &CondemnedUpload,
        age: Duration,
    ) -> Result<Came, DatabaseError> {
        let uploads = match (&one.upload_id, reach) {
            (Some(id), _) => vec![UploadId::new(id)],
            (None, Reach::All) => match self.find(store, one, age).await? {
                Ok(found) => found,
                Err(error) if cannot_list(error.reason()) => return Ok(Came::Unseen(error)),
                Err(error) => return Ok(Came::Failed(error)),
            },
            (None, Reach::Named | Reach::No) => Vec::new(),
        };
        for upload in &uploads {
            // Of one that the store does not know any more it says that it is done.
            if let Err(error) = store.abort_multipart(&one.key, upload).await {
                return Ok(Came::Failed(error));
            }
        }
        Ok(Came::Over(uploads.len()))
    }

    /// The uploads of exactly this key that were begun when this one must have been, and that are in no row of ours.
    async fn find(
        &self,
        store: &Store,
        one: &CondemnedUpload,
        age: Duration,
    ) -> Result<Result<Vec<UploadId>, StoreError>, DatabaseError> {
        let (listed, answered) = match store.list_uploads_and_date(one.key.as_str()).await {
            Ok(listed) => listed,
            Err(error) => return Ok(Err(error)),
        };
        // By another clock than the store's own, the upload of somebody else may be the one that is looked for.
        let Some(answered) = answered else { return Ok(Ok(Vec::new())) };
        // Asked after the listing: what is begun in the meantime is not in it.
        let known = self.queue.known_uploads(&one.key, store.name()).await?;
        let begun = micros_since_epoch(answered) - micros(age);
        let window = begun - micros(WINDOW_BEFORE)..=begun + micros(WINDOW_AFTER);
        let ours = listed.into_iter().filter(|upload| {
            upload.key == one.key.as_str()
                && upload.initiated.is_some_and(|at| window.contains(&at))
                && !known.iter().any(|known| known == upload.id.as_str())
        });
        Ok(Ok(ours.map(|upload| upload.id).collect()))
    }

    async fn forget_unserved(&self, drain: &CancellationToken) {
        loop {
            match self.queue.forget_unserved_uploads().await {
                Ok(forgotten) => {
                    if let Some(replica) = forgotten.first() {
                        warn!(
                            uploads = forgotten.len(),
                            "{} unfinished uploads at replicas that no daemon serves any more, {replica} for one, are forgotten: a lifecycle rule of their buckets would abort them",
                            forgotten.len()
                        );
                    }
                }
                Err(_) => metrics::database_error("lease::forget_unserved_uploads"),
            }
            if drain.run_until_cancelled(tokio::time::sleep(about(UNSERVED_EVERY))).await.is_none() {
                return;
            }
        }
    }
}

/// It is no passing trouble of the store: it does not know the call, or these credentials may not make it.
fn cannot_list(reason: Reason) -> bool {
    matches!(reason, Reason::Denied | Reason::Unsupported | Reason::Refused | Reason::RefusedOnTheWay)
}
