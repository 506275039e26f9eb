//! Looks after the sequences: a switch-over by logical replication lets them begin again, at the start of a daemon or
//! while it runs.

use std::time::Duration;

use copyhold_db::{DatabaseError, Duties, schema::BehindSequence};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::metrics;

const EVERY: Duration = Duration::from_secs(30);

/// Finds, mends and logs sequences that are behind their tables.
pub async fn mend_sequences(duties: &Duties) -> Result<(), DatabaseError> {
    let behind = duties.sequences_behind().await?;
    if behind.is_empty() {
        return Ok(());
    }
    warn!(
        "Sequences are behind their tables, as after a switch-over by logical replication: {}. They are set behind the \
         numbers in use, for which the tables are read once",
        BehindSequence::list(&behind)
    );
    duties.mend_sequences().await.map(drop)
}

/// The same again and again until `drain`.
pub async fn watch_sequences(duties: Duties, drain: CancellationToken) {
    while drain.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        let Some(looked) = drain.run_until_cancelled(mend_sequences(&duties)).await else { return };
        if let Err(error) = looked {
            metrics::database_error("schema::sequences_behind");
            if !error.is_unavailable() && !error.is_conflict() {
                error!(error = %error, "Could not check whether sequences are behind their tables");
            }
        }
    }
}
