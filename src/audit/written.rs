//! Writes what a verification has concluded, if the row is still what was looked at.

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

use super::{look::Seen, run::Audit, tally::Then};

/// A row that somebody holds is tried again for so long, after these pauses.
const BUSY_FOR: Duration = Duration::from_secs(30);
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const BUSY_PAUSE_AT_MOST: Duration = Duration::from_secs(2);

/// What became of a write.
#[derive(Debug)]
pub(super) enum Written {
    Answered(FencedWrite),
    Failed(DatabaseError),
    /// It would have been written.
    NotToBe,
}

impl Written {
    /// `done`, if it was written; `None`: the row has changed, so what was seen does not count.
    pub(super) fn of(&self, done: Then) -> Option<Then> {
        match self {
            Self::Answered(FencedWrite::Applied) => Some(done),
            Self::Answered(FencedWrite::Superseded | FencedWrite::FailureWritten) => None,
            Self::Answered(FencedWrite::RowLocked) => {
                Some(Then::NotWritten("a daemon holds the object at this moment: verify it again later".into()))
            }
            Self::Failed(error) => Some(Then::NotWritten(error.to_string())),
            Self::NotToBe => Some(Then::DryRun),
        }
    }
}

impl Audit {
    /// Has it written, or only sees that it could be. While somebody holds the row it is tried again.
    pub(super) async fn write(
        &self,
        stop: &CancellationToken,
        object: &RecordedObject,
        seen: &[(ReplicaName, i64, Seen)],
        write: impl AsyncFn() -> Result<FencedWrite, DatabaseError>,
    ) -> Written {
        if self.dry_run {
            let row = retry_while_down(async || self.queue.recorded_of(std::slice::from_ref(&object.key)).await).await;
            let same = |row: &RecordedObject| {
                let recorded =
                    |(replica, at, _): &(ReplicaName, i64, Seen)| row.recorded.contains(&(replica.clone(), *at));
                row.generation == object.generation && seen.iter().all(recorded)
            };
            return match row {
                Ok(rows) if rows.iter().any(same) => Written::NotToBe,
                Ok(_) => Written::Answered(FencedWrite::Superseded),
                Err(error) => Written::Failed(error),
            };
        }
        let (begun, mut pause) = (Instant::now(), BUSY_PAUSE);
        loop {
            match write().await {
                // It was not sent; of one that may have been carried out nobody could tell whose work it is.
                Err(error) if !error.outcome_unknown() && should_retry(&error, begun) => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Ok(FencedWrite::RowLocked) if begun.elapsed() < BUSY_FOR => {
                    if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return Written::Answered(FencedWrite::RowLocked);
                    }
                    pause = (pause * 2).min(BUSY_PAUSE_AT_MOST);
                }
                Ok(answer) => {
                    if answer == FencedWrite::Applied {
                        // A hint, which may be lost.
                        let _ = self.queue.notify(Notification::Work).await;
                    }
                    return Written::Answered(answer);
                }
                Err(error) => return Written::Failed(error),
            }
        }
    }
}
