//! The errors that end a scan early.

use copyhold_core::domain::ReplicaName;
use copyhold_db::DatabaseError;

use super::error::ListingError;

/// Why a scan ended early.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("told to stop")]
    Stopped,
    #[error("replica {0}: {1}")]
    Listing(ReplicaName, ListingError),
    #[error("{0}")]
    Database(DatabaseError),
    #[error("another process is at this scan, and goes on with it: there is nothing to do here")]
    AtWork,
    #[error("another process has taken this scan over, and goes on with it")]
    Elsewhere,
}
