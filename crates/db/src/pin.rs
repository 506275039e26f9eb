//! The bucket that a replica's recorded copies are in.

use std::fmt;

use copyhold_core::domain::ReplicaName;
use serde::{Deserialize, Serialize};

/// Where the copies of a replica are: another bucket must not inherit its proofs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub endpoint: String,
    pub bucket: String,
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bucket {} at {}", self.bucket, self.endpoint)
    }
}

impl Pin {
    /// Why a daemon with `configured` must leave the replica alone; `None`: it need not.
    #[must_use]
    pub fn forbids(&self, configured: &Self, replica: &ReplicaName) -> Option<String> {
        (self != configured).then(|| {
            format!(
                "its recorded copies are in {self}, the configuration names {configured}: restore the setting, give the \
                 other bucket a replica name of its own, or, if the replica has moved there, run \
                 `copyhold replica move {replica}`"
            )
        })
    }
}
