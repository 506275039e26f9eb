//! Aborts multipart uploads that no holder will continue.

use std::{fmt, sync::Arc, time::Duration};

use copyhold_core::domain::{ReplicaName, micros, micros_since_epoch};
use copyhold_db::{
    DatabaseError, Duties,
    lease::{CondemnedUpload, UPLOAD_CHECK_INTERVAL, UploadCheck},
};
use copyhold_s3::store::{Reason, Store, StoreError, UploadId};
use futures::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{metrics, wakeup::jitter::jittered};

/// An upload whose id its daemon never received is searched for from this long before its intent was recorded,
/// because the machines of a store differ, and whole seconds round, ...
const WINDOW_BEFORE: Duration = Duration::from_mins(1);
/// ... to this long after. The call that begins an upload is given up after a minute, its retry included; before it,
/// while the store throttles, it may have waited for its turn, some minutes at most where there is any progress.
/// Longer would be no safer: what is found in it is aborted, and it might be another program's.
const WINDOW_AFTER: Duration = Duration::from_mins(5);
/// An upload whose id can never be found out, because its store does not let us list, is forgotten.
const NAMELESS_FOR: Duration = Duration::from_hours(3 * 24);
/// An upload that the store has refused to abort for so long is forgotten.
const CONDEMNED_FOR: Duration = Duration::from_hours(30 * 24);
/// After so many failures in a row the store is not asked until the next round.
const FAILURES: u32 = 3;
/// Half of the time for which no other daemon checks the same uploads; one call more may take a minute.
const ROUND: Duration = UPLOAD_CHECK_INTERVAL.checked_div(2).expect("two is not zero");
/// How often rows of replicas that no daemon serves any more are searched for.
const UNSERVED_EVERY: Duration = Duration::from_hours(1);

/// Aborts the unfinished uploads that no daemon will continue. Every daemon checks; each upload is aborted by the one
/// that has claimed it in PostgreSQL, for a stated time. No transaction is open meanwhile.
///
/// Others' uploads are never touched: only those whose name is in a row of ours, and those that were begun of the same
/// key at the time of an intent of ours for which the store's answer was lost.
pub struct OrphanedUploads {
    pub duties: Duties,
    pub stores: Vec<Arc<Store>>,
    /// What may be done at a replica at the moment.
    pub scope: AbortScopes,
    pub every: Duration,
    /// After this time nothing that a dead holder has sent still arrives at a store, and no lease of it is in force.
    pub quiet: Duration,
}

pub type AbortScopes = Box<dyn Fn(&ReplicaName) -> AbortScope + Send + Sync>;

/// Whether uploads at a replica may be aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortScope {
    /// None: its bucket may be another one than ours, or its store is unhealthy.
    None,
    /// Those whose names we know. The application uploads there as well, perhaps the same key at the same time.
    Named,
    /// All of ours.
    All,
}

/// How the uploads of one replica were last found.
#[derive(Debug, Default)]
struct ReplicaLogState {
    failure_logged: bool,
    /// It was logged that uploads cannot be listed.
    unlistable_logged: bool,
}

/// What became of one upload.
enum AbortResult {
    /// So many were aborted, and its row may go.
    Over(usize),
    Failed(StoreError),
    /// Uploads cannot be listed there.
    Unlistable(StoreError),
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
        let mut log_state = ReplicaLogState::default();
        loop {
            if drain.run_until_cancelled(tokio::time::sleep(jittered(self.every))).await.is_none() {
                return;
            }
            match self.duties.count_uploads(store.name()).await {
                Ok(uploads) => metrics::uploads_unfinished(store.name(), uploads, self.every),
                Err(_) => metrics::database_error("lease::count_uploads"),
            }
            let scope = (self.scope)(store.name());
            if scope == AbortScope::None {
                continue;
            }
            // What is dropped here is condemned, and comes up again.
            match drain.run_until_cancelled(self.look(store, scope, &mut log_state)).await {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    metrics::database_error("lease::check_uploads");
                    if !error.is_unavailable() {
                        warn!(error = %error, "Could not query orphaned uploads; trying again");
                    }
                }
            }
        }
    }

    async fn look(
        &self,
        store: &Store,
        scope: AbortScope,
        log_state: &mut ReplicaLogState,
    ) -> Result<(), DatabaseError> {
        // While the window of an intent is open, an upload that another program begins now would be in it.
        let quiet = self.quiet.max(WINDOW_AFTER + WINDOW_BEFORE);
        loop {
            let UploadCheck { condemned, more } = self.duties.check_uploads(store.name(), quiet).await?;
            if !condemned.is_empty() && !self.clear(store, scope, condemned, log_state).await? {
                return Ok(());
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Aborts these. `false`: the store fails too often to continue.
    async fn clear(
        &self,
        store: &Store,
        scope: AbortScope,
        condemned: Vec<CondemnedUpload>,
        log_state: &mut ReplicaLogState,
    ) -> Result<bool, DatabaseError> {
        let (began, replica) = (Instant::now(), store.name());
        let example = condemned.first().map(|one| one.key.clone());
        let (mut over, mut aborted, mut forgotten, mut failures) = (Vec::new(), 0, 0, 0);
        for one in condemned {
            if failures >= FAILURES || began.elapsed() > ROUND {
                break;
            }
            let age = one.age + began.elapsed();
            match self.abort(store, scope, &one, age).await? {
                AbortResult::Over(uploads) => {
                    debug!(object.key = %one.key, replica.id = %replica, uploads, "The unfinished upload of {} at {replica} is thrown away", one.key);
                    over.push(one.id);
                    aborted += uploads;
                    failures = 0;
                    log_state.failure_logged = false;
                }
                AbortResult::Unlistable(error) => {
                    if !std::mem::replace(&mut log_state.unlistable_logged, true) {
                        warn!(replica.id = %replica, error = %error, "Unfinished uploads at {replica} cannot be listed: one whose name was lost with its daemon stays until the bucket's lifecycle rule aborts it: {error}");
                    }
                    if one.age > NAMELESS_FOR {
                        over.push(one.id);
                    }
                }
                AbortResult::Failed(error) => {
                    failures += 1;
                    if !std::mem::replace(&mut log_state.failure_logged, true) {
                        warn!(object.key = %one.key, replica.id = %replica, error = %error, "Could not abort an unfinished upload of {} at {replica}; trying again later: {error}", one.key);
                    }
                    if one.for_long > CONDEMNED_FOR {
                        over.push(one.id);
                        forgotten += 1;
                    }
                }
            }
        }
        // A locked one is condemned, and comes up again.
        self.duties.end_uploads(&over).await?;
        metrics::uploads_orphaned(replica, aborted);
        if let Some(key) = example.filter(|_| aborted > 0) {
            info!(object.key = %key, replica.id = %replica, uploads = aborted, "Aborted {aborted} orphaned uploads at {replica}, of {key} for one");
        }
        if forgotten > 0 {
            warn!(replica.id = %replica, uploads = forgotten, "{forgotten} unfinished uploads could not be aborted at {replica} for a month and are forgotten: a lifecycle rule of the bucket would abort them");
        }
        Ok(failures < FAILURES)
    }

    /// `age`: since its intent was recorded.
    async fn abort(
        &self,
        store: &Store,
        scope: AbortScope,
        one: &CondemnedUpload,
        age: Duration,
    ) -> Result<AbortResult, DatabaseError> {
        let uploads = match (&one.upload_id, scope) {
            (Some(id), _) => vec![UploadId::new(id)],
            (None, AbortScope::All) => match self.find(store, one, age).await? {
                Ok(found) => found,
                Err(error) if cannot_list(error.reason()) => return Ok(AbortResult::Unlistable(error)),
                Err(error) => return Ok(AbortResult::Failed(error)),
            },
            (None, AbortScope::Named | AbortScope::None) => Vec::new(),
        };
        for upload in &uploads {
            // For one that the store does not know any more, it answers that it is done.
            if let Err(error) = store.abort_multipart(&one.key, upload).await {
                return Ok(AbortResult::Failed(error));
            }
        }
        Ok(AbortResult::Over(uploads.len()))
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
        // By another clock than the store's own, another program's upload might be taken for ours.
        let Some(answered) = answered else { return Ok(Ok(Vec::new())) };
        // Asked after the listing: what is begun in the meantime is not in it.
        let known = self.duties.known_uploads(&one.key, store.name()).await?;
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
            match self.duties.forget_unserved_uploads().await {
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
            if drain.run_until_cancelled(tokio::time::sleep(jittered(UNSERVED_EVERY))).await.is_none() {
                return;
            }
        }
    }
}

/// Whether it is no transient error of the store: it does not know the call, or these credentials may not make it.
fn cannot_list(reason: Reason) -> bool {
    matches!(reason, Reason::Denied | Reason::Unsupported | Reason::Refused | Reason::RefusedOnTheWay)
}
