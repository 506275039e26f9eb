//! Waits out a PostgreSQL that is away in the middle of a command. It says at once that it does.

use std::{
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use rand::RngExt as _;

use crate::error::DatabaseError;

/// How long PostgreSQL may be away before a command gives up.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// Between two questions whether it is back.
pub const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often it is said.
const SAY_EVERY: Duration = Duration::from_secs(10);

type Say = fn(&DatabaseError);

/// How a command says what it waits for.
static SAY: OnceLock<Say> = OnceLock::new();
static SAID: Mutex<Option<Instant>> = Mutex::new(None);

/// Decides how it is said that PostgreSQL is away; until then it is not.
pub fn report_with(say: Say) {
    // The first one stands.
    let _ = SAY.set(say);
}

/// Whether it is worth waiting: PostgreSQL is away for less than [`GIVE_UP_AFTER`], and was there before. Says so.
pub fn should_retry(error: &DatabaseError, since: Instant) -> bool {
    if !error.is_unavailable() || error.is_first_contact() || since.elapsed() >= GIVE_UP_AFTER {
        return false;
    }
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.is_none_or(|at| at.elapsed() > SAY_EVERY) {
        *said = Some(Instant::now());
        if let Some(say) = SAY.get() {
            say(error);
        }
    }
    true
}

/// Asks PostgreSQL again while it is away, for so long. Only for what may be asked twice: an answer that is lost is no
/// sign that nothing was done.
pub async fn retry_while_down<T>(ask: impl AsyncFn() -> Result<T, DatabaseError>) -> Result<T, DatabaseError> {
    let begun = Instant::now();
    loop {
        match ask().await {
            Err(error) if should_retry(&error, begun) => tokio::time::sleep(RETRY_PAUSE).await,
            answer => return answer,
        }
    }
}

/// ± 50 %.
pub(crate) fn jittered(about: Duration) -> Duration {
    about.mul_f64(rand::rng().random_range(0.5..1.5))
}
