//! Repeats a command's statements while PostgreSQL is unavailable, and reports at once that it waits.

use std::{
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use rand::RngExt as _;

use crate::error::DatabaseError;

/// How long PostgreSQL may be unavailable before a command gives up.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// Between two attempts.
pub const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often the wait is reported.
const REPORT_EVERY: Duration = Duration::from_secs(10);

type Report = fn(&DatabaseError);

/// How a command reports that it waits.
static REPORT: OnceLock<Report> = OnceLock::new();
static REPORTED_AT: Mutex<Option<Instant>> = Mutex::new(None);

/// Sets how the wait is reported; until then it is not.
pub fn report_with(report: Report) {
    // The first call counts.
    let _ = REPORT.set(report);
}

/// Whether to try again: PostgreSQL has been unavailable for less than [`GIVE_UP_AFTER`], and was available before.
/// Reports the wait.
pub fn should_retry(error: &DatabaseError, since: Instant) -> bool {
    if !error.is_unavailable() || error.is_first_contact() || since.elapsed() >= GIVE_UP_AFTER {
        return false;
    }
    let mut reported_at = REPORTED_AT.lock().unwrap_or_else(PoisonError::into_inner);
    if reported_at.is_none_or(|at| at.elapsed() > REPORT_EVERY) {
        *reported_at = Some(Instant::now());
        if let Some(report) = REPORT.get() {
            report(error);
        }
    }
    true
}

/// Repeats a request while PostgreSQL is unavailable, for up to [`GIVE_UP_AFTER`]. Only for requests that may run
/// twice: a lost answer does not mean that nothing was done.
pub async fn retry_while_down<T>(request: impl AsyncFn() -> Result<T, DatabaseError>) -> Result<T, DatabaseError> {
    let begun = Instant::now();
    loop {
        match request().await {
            Err(error) if should_retry(&error, begun) => tokio::time::sleep(RETRY_PAUSE).await,
            answer => return answer,
        }
    }
}

/// ± 50 %.
pub(crate) fn jittered(about: Duration) -> Duration {
    about.mul_f64(rand::rng().random_range(0.5..1.5))
}
