//! Runs an import batch by batch, while no other process runs it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use copyhold_core::domain::{Fence, escape};
use copyhold_db::{
    Database, DatabaseError,
    import::{BatchEnd, ImportPlan, ImportRow, ImportTally},
    retry_while_down::{RETRY_PAUSE, retry_while_down, should_retry},
};
use tokio_util::sync::CancellationToken;

/// How often it renews its claim.
const KEEP_EVERY: Duration = Duration::from_secs(2);
/// How often it checks whether another run is alive, and how far its claim must have been extended to count as such.
const WATCH_EVERY: Duration = Duration::from_millis(300);
const LIVES: Duration = Duration::from_secs(1);
/// Attempts to claim an import that no process seems to hold, before it is clear that another process holds it.
const TAKES: u32 = 20;
/// While another transaction holds what it needs, it is tried again after these pauses.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const BUSY_PAUSE_AT_MOST: Duration = Duration::from_secs(1);
/// After so long it reports what it waits for.
const REPORT_AFTER: Duration = Duration::from_secs(3);

/// What is to be done, and what has come of it so far.
#[derive(Debug)]
pub struct Import {
    database: Database,
    plan: ImportPlan,
    /// Of one batch, about.
    rows: u32,
    holder: String,
    fence: Fence,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    tally: ImportTally,
    /// Rows that were read before this run.
    before: u64,
    waits: Option<String>,
}

/// How far it came.
#[derive(Debug)]
pub struct ImportEnded {
    /// It came to the last row; otherwise a signal ended it.
    pub complete: bool,
    pub tally: ImportTally,
    /// Of them, rows that an earlier run had read.
    pub before: u64,
}

/// Why it could not continue.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("{holder} is at work on an import of this table; it can be gone on with when that has ended")]
    AtWork { holder: String },
    #[error(
        "an import of this table was begun with other arguments ({arguments}) and got to \"{}\": go on with those, or begin with \
         the first row again with --anew; what is registered by then stays as it is",
        Escaped(reached)
    )]
    OtherArguments { arguments: String, reached: String },
    #[error(
        "another process has taken the import over; this one ends, and has left nothing undone up to where that began"
    )]
    TakenOver,
}

/// Untrusted text.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        escape(self.0, f)
    }
}

/// Up to where the table is imported.
struct Position {
    reached: Option<String>,
    ended: bool,
}

impl Import {
    /// `rows`: of one batch, about. `holder`: this machine and process, for people.
    #[must_use]
    pub fn new(database: Database, plan: ImportPlan, rows: u32, holder: String) -> Self {
        Self { database, plan, rows, holder, fence: Fence(rand::random()), progress: Mutex::default() }
    }

    #[must_use]
    pub fn plan(&self) -> &ImportPlan {
        &self.plan
    }

    /// Rows that are read by now.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.lock().tally.read()
    }

    /// What it waits for, if that has lasted for some time.
    #[must_use]
    pub fn waits(&self) -> Option<String> {
        self.lock().waits.clone()
    }

    /// Imports from where an earlier run has ended, or from the first row on if that was complete, or if `anew`; until
    /// `stop`, which ends it after a batch.
    pub async fn run(&self, anew: bool, stop: &CancellationToken) -> Result<ImportEnded, ImportError> {
        let Some(place) = self.take(anew, stop).await? else { return Ok(self.ended(false)) };
        let ended = tokio::select! {
            ended = self.go_on(place, stop) => ended,
            () = self.until_lost() => Err(ImportError::TakenOver),
        };
        // The error that ended it is the one to report; without this release the next run waits for a moment.
        let _ = self.database.release_import(&self.plan, self.fence).await;
        ended
    }

    /// Counts what [`Import::run`] would do from the first row on. Writes nothing.
    pub async fn count(&self, stop: &CancellationToken) -> Result<ImportEnded, ImportError> {
        let mut after: Option<String> = None;
        while !stop.is_cancelled() {
            let bound =
                retry_while_down(async || self.database.import_bound(&self.plan, after.as_deref(), self.rows).await)
                    .await?;
            let counted =
                retry_while_down(async || self.database.import_count(&self.plan, after.as_deref(), &bound).await)
                    .await?;
            self.lock().tally.add(counted);
            match bound {
                BatchEnd::Key(key) => after = Some(key),
                BatchEnd::End => return Ok(self.ended(true)),
            }
        }
        Ok(self.ended(false))
    }

    /// Returns where to begin; `None`: it was stopped. A process that died a moment ago is waited for, a living one is
    /// not.
    async fn take(&self, anew: bool, stop: &CancellationToken) -> Result<Option<Position>, ImportError> {
        let mut alive: Option<(Option<Fence>, Instant)> = None;
        for takes in 0.. {
            if stop.is_cancelled() {
                return Ok(None);
            }
            let row = retry_while_down(async || self.database.import_row(&self.plan).await).await?;
            if let Some(row) = row.as_ref().filter(|row| row.held_by == Some(self.fence)) {
                return Ok(Some(self.place(row, true)));
            }
            let holder = || row.as_ref().and_then(|row| row.holder.clone()).unwrap_or_else(|| "another process".into());
            if let Some((by, left)) = row.as_ref().and_then(|row| Some((row.held_by, row.alive_for?))) {
                let until = Instant::now() + left;
                let (first_by, first_until) = *alive.get_or_insert((by, until));
                if by != first_by || until > first_until + LIVES {
                    return Err(ImportError::AtWork { holder: holder() });
                }
                self.report_wait(Some(format!(
                    "{} was at work on it a moment ago: waiting whether it still is",
                    holder()
                )));
                tokio::time::sleep(WATCH_EVERY).await;
                continue;
            }
            // It writes to the row for longer than its claim lasts.
            if takes > TAKES && alive.is_none() {
                return Err(ImportError::AtWork { holder: holder() });
            }
            let usable = row.as_ref().filter(|row| !anew && !row.ended && row.is_placed_in(&self.plan));
            if let Some((row, reached)) = usable.and_then(|row| Some((row, row.reached.clone()?)))
                && !row.is_of(&self.plan)
            {
                return Err(ImportError::OtherArguments { arguments: row.arguments(), reached });
            }
            let before = row.as_ref().and_then(|row| row.held_by);
            let take = async || {
                let anew = usable.is_none();
                self.database.claim_import(&self.plan, self.fence, &self.holder, before, anew).await
            };
            if !retry_while_down(take).await? {
                tokio::time::sleep(WATCH_EVERY).await;
            }
        }
        Ok(None)
    }

    async fn go_on(&self, place: Position, stop: &CancellationToken) -> Result<ImportEnded, ImportError> {
        let Position { mut reached, mut ended } = place;
        let mut rows = self.rows;
        let (mut busy, mut away): (Option<Instant>, Option<Instant>) = (None, None);
        while !ended {
            if stop.is_cancelled() {
                return Ok(self.ended(false));
            }
            match self.batch(reached.as_deref(), rows).await {
                Ok(Some((bound, tally))) => {
                    (busy, away) = (None, None);
                    rows = rows.saturating_mul(2).min(self.rows);
                    let mut progress = self.lock();
                    (progress.tally, progress.waits) = (tally, None);
                    match bound {
                        BatchEnd::Key(key) => reached = Some(key),
                        BatchEnd::End => ended = true,
                    }
                }
                // An answer was lost, and the batch was not; or another process has the import by now.
                Ok(None) => {
                    let row = retry_while_down(async || self.database.import_row(&self.plan).await).await?;
                    let row = row.filter(|row| row.held_by == Some(self.fence)).ok_or(ImportError::TakenOver)?;
                    Position { reached, ended } = self.place(&row, false);
                }
                Err(error) if is_too_much(&error, rows) => {
                    let since = *busy.get_or_insert_with(Instant::now);
                    rows = (rows / 4).max(1);
                    self.report_busy(since, reached.as_deref());
                    let pause = (BUSY_PAUSE + since.elapsed() / 4).min(BUSY_PAUSE_AT_MOST);
                    stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                }
                Err(error)
                    if error.is_unavailable() && should_retry(&error, *away.get_or_insert_with(Instant::now)) =>
                {
                    self.report_wait(Some(format!("{error}; waiting for it")));
                    stop.run_until_cancelled(tokio::time::sleep(RETRY_PAUSE)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.ended(true))
    }

    async fn batch(&self, after: Option<&str>, rows: u32) -> Result<Option<(BatchEnd, ImportTally)>, DatabaseError> {
        let bound = self.database.import_bound(&self.plan, after, rows).await?;
        let tally = self.database.import_batch(&self.plan, self.fence, after, &bound).await?;
        Ok(tally.map(|tally| (bound, tally)))
    }

    /// Ends when another process has taken the import.
    async fn until_lost(&self) {
        loop {
            tokio::time::sleep(KEEP_EVERY).await;
            // An error here occurs with the next batch too, which reports it.
            if let Ok(false) = self.database.renew_import(&self.plan, self.fence).await {
                return;
            }
        }
    }

    fn place(&self, row: &ImportRow, first: bool) -> Position {
        let mut progress = self.lock();
        progress.tally = row.tally.clone();
        progress.waits = None;
        if first {
            progress.before = row.tally.read();
        }
        Position { reached: row.reached.clone(), ended: row.ended }
    }

    fn ended(&self, complete: bool) -> ImportEnded {
        let progress = self.lock();
        ImportEnded { complete, tally: progress.tally.clone(), before: progress.before }
    }

    fn report_busy(&self, since: Instant, after: Option<&str>) {
        if since.elapsed() > REPORT_AFTER {
            let behind = after.map(|key| format!(" behind \"{}\"", Escaped(key))).unwrap_or_default();
            let table = &self.plan.table.name;
            self.report_wait(Some(format!(
                "another transaction registers the next key{behind}, or holds {table}: waiting for it to end"
            )));
        }
    }

    fn report_wait(&self, waits: Option<String>) {
        self.lock().waits = waits;
    }

    /// A poisoned lock only means that a task panicked between two of these short steps.
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether some of the rows are locked, or take too long: a smaller batch may succeed.
fn is_too_much(error: &DatabaseError, rows: u32) -> bool {
    let timed_out = error.sqlstate().as_deref() == Some("57014");
    error.is_lock_timeout() || (timed_out && rows > 1)
}
