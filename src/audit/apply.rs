//! Writes what a verification has concluded, if the row has not changed since it was read.

use std::time::{Duration, Instant};

use copyhold_core::domain::ReplicaName;
use copyhold_db::{
    DatabaseError,
    lease::FencedWrite,
    notify::Notification,
    retry_while_down::{RETRY_PAUSE, retry_while_down, should_retry},
    walk::RecordedObject,
};
use tokio_util::sync::CancellationToken;

use super::{counts::Action, inspect::Observation, run::Audit};

/// A locked row is tried again for so long, after these pauses.
const BUSY_FOR: Duration = Duration::from_secs(30);
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const BUSY_PAUSE_AT_MOST: Duration = Duration::from_secs(2);

/// The result of a write.
#[derive(Debug)]
pub(super) enum ApplyResult {
    Answered(FencedWrite),
    Failed(DatabaseError),
    /// It would have been written.
    DryRun,
}

impl ApplyResult {
    /// `done`, if it was written; `None`: the row has changed, so what was seen does not count.
    pub(super) fn of(&self, done: Action) -> Option<Action> {
        match self {
            Self::Answered(FencedWrite::Applied) => Some(done),
            Self::Answered(FencedWrite::Superseded | FencedWrite::FailureWritten) => None,
            Self::Answered(FencedWrite::RowLocked) => {
                Some(Action::NotWritten("a daemon holds the object at this moment: verify it again later".into()))
            }
            Self::Failed(error) => Some(Action::NotWritten(error.to_string())),
            Self::DryRun => Some(Action::DryRun),
        }
    }
}

impl Audit {
    /// Writes it, or in a dry run only checks that it could be. While the row is locked it is tried again.
    pub(super) async fn write(
        &self,
        stop: &CancellationToken,
        object: &RecordedObject,
        seen: &[(ReplicaName, i64, Observation)],
        write: impl AsyncFn() -> Result<FencedWrite, DatabaseError>,
    ) -> ApplyResult {
        if self.dry_run {
            let row =
                retry_while_down(async || self.database.recorded_of(std::slice::from_ref(&object.key)).await).await;
            let same = |row: &RecordedObject| {
                let recorded =
                    |(replica, at, _): &(ReplicaName, i64, Observation)| row.recorded.contains(&(replica.clone(), *at));
                row.generation == object.generation && seen.iter().all(recorded)
            };
            return match row {
                Ok(rows) if rows.iter().any(same) => ApplyResult::DryRun,
                Ok(_) => ApplyResult::Answered(FencedWrite::Superseded),
                Err(error) => ApplyResult::Failed(error),
            };
        }
        let (begun, mut pause) = (Instant::now(), BUSY_PAUSE);
        loop {
            match write().await {
                // It was not sent. After one that may have been executed, this process could not tell its own write
                // from another.
                Err(error) if !error.outcome_unknown() && should_retry(&error, begun) => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Ok(FencedWrite::RowLocked) if begun.elapsed() < BUSY_FOR => {
                    if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return ApplyResult::Answered(FencedWrite::RowLocked);
                    }
                    pause = (pause * 2).min(BUSY_PAUSE_AT_MOST);
                }
                Ok(answer) => {
                    if answer == FencedWrite::Applied {
                        // A hint, which may be lost.
                        let _ = self.database.notify(Notification::Work).await;
                    }
                    return ApplyResult::Answered(answer);
                }
                Err(error) => return ApplyResult::Failed(error),
            }
        }
    }
}
