//! Applies the rules in force to all objects, page by page, from where an earlier run ended.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use copyhold_core::domain::ObjectKey;
use tokio_util::sync::CancellationToken;

use super::types::{ApplyScope, ObjectSelection, PAGE, RuleChanges, RulesPage, WalkPosition};
use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    notify::notification::Notification,
    retry_while_down::{RETRY_PAUSE, retry_while_down, should_retry},
    sql::trusted_sql,
};

/// Locked objects are tried again for so long, after these pauses.
const BUSY_FOR: Duration = Duration::from_secs(30);
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const BUSY_PAUSE_AT_MOST: Duration = Duration::from_secs(2);
/// With more of them, they are tried before the walk goes on.
const BUSY_AT_MOST: usize = 10_000;

/// Objects that were read so far, for a display of progress.
#[derive(Debug, Default)]
pub struct ApplyProgress(AtomicU64);

impl ApplyProgress {
    #[must_use]
    pub fn looked(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The result of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplyResult {
    /// The version of the rules.
    pub version: i64,
    pub judged: RuleChanges,
    /// It resumed after this key, where an earlier run had ended.
    pub resumed_after: Option<ObjectKey>,
    /// How often it started again because the rules changed.
    pub begun_again: u32,
    /// Objects that could not be written, because their rows stayed locked.
    pub held: Vec<ObjectKey>,
    /// Another run is active, and goes on.
    pub overtaken: bool,
    /// The rules are applied to all objects.
    pub complete: bool,
}

/// How a walk with one version of the rules ended.
enum WalkEnd {
    ToItsEnd,
    Stopped,
    Overtaken,
    RulesChanged,
}

impl Database {
    /// Applies the rules in force to all objects, in the order of keys, until `stop`. Its changes stay: another run
    /// resumes there. When the rules change meanwhile it starts again.
    pub async fn apply_rules(
        &self,
        scope: &ApplyScope,
        progress: &ApplyProgress,
        stop: &CancellationToken,
    ) -> Result<ApplyResult, DatabaseError> {
        let mut begun_again = 0;
        loop {
            progress.0.store(0, Ordering::Relaxed);
            let version = retry_while_down(async || self.rules_state().await).await?.version;
            let mut walk = Walk {
                database: self,
                scope,
                progress,
                stop,
                place: None,
                skipped: Vec::new(),
                applied: ApplyResult { version, begun_again, ..ApplyResult::default() },
            };
            let walked = walk.all().await?;
            let mut applied = walk.applied;
            match walked {
                WalkEnd::RulesChanged => begun_again += 1,
                WalkEnd::Stopped => return Ok(applied),
                WalkEnd::Overtaken => return Ok(ApplyResult { overtaken: true, ..applied }),
                WalkEnd::ToItsEnd => {
                    applied.complete = applied.held.is_empty();
                    let settles = scope.settles && applied.complete && !scope.dry_run;
                    if !settles || retry_while_down(async || self.end_walk(version).await).await? {
                        return Ok(applied);
                    }
                    begun_again += 1;
                }
            }
        }
    }

    /// Estimates the number of objects.
    pub async fn estimate_objects(&self) -> Result<u64, DatabaseError> {
        let sql = "-- rules::estimate_objects\nSELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = to_regclass($1)";
        let query = sqlx::query_scalar(sql).bind(format!("{}.object_copies", self.schema.quoted()));
        let objects: i64 = with_timeout("rules::estimate_objects", query.fetch_one(&self.pool)).await?;
        Ok(objects.unsigned_abs())
    }

    /// Where to resume with this version; `None`: it is not in force any more.
    async fn begin_walk(&self, version: i64) -> Result<Option<Option<ObjectKey>>, DatabaseError> {
        const NAME: &str = "rules::begin_walk";
        let sql = format!(
            "-- {NAME}
UPDATE {}.rules_state
   SET applying = version, applied_through = CASE WHEN applying = version THEN applied_through END
 WHERE version = $1
RETURNING applied_through",
            self.schema.quoted()
        );
        let place: Option<Option<String>> = unhurried(async || {
            let query = sqlx::query_scalar(trusted_sql(sql.clone())).bind(version);
            with_timeout(NAME, query.fetch_optional(&self.pool)).await
        })
        .await?;
        let key = |key| {
            ObjectKey::new(key)
                .map_err(|e| DatabaseError::Inconsistent { statement: NAME, what: format!("a key: {e}") })
        };
        place.map(|place| place.map(key).transpose()).transpose()
    }

    /// Records that this version is applied to all objects. Returns whether it is still in force.
    async fn end_walk(&self, version: i64) -> Result<bool, DatabaseError> {
        const NAME: &str = "rules::end_walk";
        let sql = format!(
            "-- {NAME}
UPDATE {}.rules_state SET applied = version, applying = NULL, applied_through = NULL, newcomers = '{{}}'
 WHERE version = $1",
            self.schema.quoted()
        );
        let ended = unhurried(async || {
            let query = sqlx::query(trusted_sql(sql.clone())).bind(version);
            with_timeout(NAME, query.execute(&self.pool)).await
        });
        Ok(ended.await?.rows_affected() == 1)
    }
}

/// One walk through all keys, with one version of the rules.
struct Walk<'w> {
    database: &'w Database,
    scope: &'w ApplyScope,
    progress: &'w ApplyProgress,
    stop: &'w CancellationToken,
    /// The position that the database has stored.
    place: Option<ObjectKey>,
    /// Objects whose rows were locked.
    skipped: Vec<ObjectKey>,
    applied: ApplyResult,
}

impl Walk<'_> {
    async fn all(&mut self) -> Result<WalkEnd, DatabaseError> {
        let (version, database) = (self.applied.version, self.database);
        let keeps_place = self.scope.whole && !self.scope.dry_run;
        if keeps_place {
            match retry_while_down(async || database.begin_walk(version).await).await? {
                Some(place) => self.place = place,
                None => return Ok(WalkEnd::RulesChanged),
            }
            self.applied.resumed_after.clone_from(&self.place);
        }
        let mut after = self.place.clone();
        // The page may have been written although its answer was lost.
        let mut away = None;
        loop {
            if self.stop.is_cancelled() {
                return Ok(WalkEnd::Stopped);
            }
            let standing = self.place.clone();
            let place = match () {
                () if !keeps_place => WalkPosition::Unkept,
                () if self.skipped.is_empty() => WalkPosition::MovedFrom(standing.as_ref()),
                () => WalkPosition::Stays,
            };
            match database.apply_page(version, ObjectSelection::After(after.as_ref()), place, self.scope).await {
                Err(error)
                    if error.is_unavailable() && should_retry(&error, *away.get_or_insert_with(Instant::now)) =>
                {
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
                Err(error) if error.is_lock_timeout() => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
                Ok(RulesPage::Elsewhere) => {
                    let state = retry_while_down(async || database.rules_state().await).await?;
                    if state.version != version {
                        return Ok(WalkEnd::RulesChanged);
                    }
                    match state.applying {
                        _ if !keeps_place => {}
                        Some((_, place)) if place == self.place => {}
                        Some((_, place)) if away.is_some() => (self.place, after) = (place.clone(), place),
                        _ => return Ok(WalkEnd::Overtaken),
                    }
                    // Another transaction has locked the row of the state.
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Ok(RulesPage::Done { last: None, .. }) => break,
                Ok(RulesPage::Done { judged, last, through, skipped }) => {
                    after = last;
                    self.place = through;
                    self.skipped.extend(skipped);
                    self.count(&judged).await;
                }
            }
            away = None;
            if self.skipped.len() > BUSY_AT_MOST {
                if !self.try_again().await? {
                    return Ok(WalkEnd::RulesChanged);
                }
                if self.skipped.len() > BUSY_AT_MOST {
                    break;
                }
            }
        }
        if !self.try_again().await? {
            return Ok(WalkEnd::RulesChanged);
        }
        self.applied.held = std::mem::take(&mut self.skipped);
        Ok(if self.stop.is_cancelled() { WalkEnd::Stopped } else { WalkEnd::ToItsEnd })
    }

    /// Tries the skipped objects until all are written, or none was unlocked for [`BUSY_FOR`]. Returns false if the
    /// rules have changed.
    async fn try_again(&mut self) -> Result<bool, DatabaseError> {
        let (mut since, mut pause) = (Instant::now(), BUSY_PAUSE);
        while !self.skipped.is_empty() && since.elapsed() < BUSY_FOR {
            if self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return Ok(true);
            }
            pause = (pause * 2).min(BUSY_PAUSE_AT_MOST);
            let mut still = Vec::new();
            for some in self.skipped.clone().chunks(PAGE) {
                let judge = async || {
                    self.database
                        .apply_page(
                            self.applied.version,
                            ObjectSelection::These(some),
                            WalkPosition::Unkept,
                            self.scope,
                        )
                        .await
                };
                match retry_while_down(judge).await? {
                    RulesPage::Done { judged, skipped, .. } => {
                        still.extend(skipped);
                        // They were counted before.
                        self.count(&RuleChanges { looked: 0, undecided: 0, ..judged }).await;
                    }
                    RulesPage::Elsewhere => {
                        let database = self.database;
                        if retry_while_down(async || database.rules_state().await).await?.version
                            != self.applied.version
                        {
                            return Ok(false);
                        }
                        still.extend_from_slice(some);
                    }
                }
            }
            if still.len() < self.skipped.len() {
                since = Instant::now();
            }
            self.skipped = still;
        }
        Ok(true)
    }

    async fn count(&mut self, judged: &RuleChanges) {
        self.applied.judged.add(judged);
        self.progress.0.fetch_add(judged.looked, Ordering::Relaxed);
        if !self.scope.dry_run && judged.changes.iter().any(|change| change.wanted > 0) {
            // A notification is a hint, which may be lost.
            let _ = self.database.notify(Notification::Work).await;
        }
    }
}

/// Repeats a write while its row is locked, as a rule by another page.
async fn unhurried<T>(write: impl AsyncFn() -> Result<T, DatabaseError>) -> Result<T, DatabaseError> {
    loop {
        match write().await {
            Err(error) if error.is_lock_timeout() => tokio::time::sleep(BUSY_PAUSE).await,
            answer => return answer,
        }
    }
}
