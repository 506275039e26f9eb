//! `copyhold demo`: the whole system as a play, on real parts.
//!
//! Two daemons, which are processes of their own, copy what an application uploads and registers; one of them is
//! killed, one store fails; an independent reader then compares everything. The rule: what is told at the end was
//! looked up in the database or read back from the stores, and nothing of the play outlives it.

mod application;
mod background_load;
mod client;
mod daemons;
mod environment;
mod failures;
mod keys;
mod memory;
mod objects;
mod reader;
mod scenario;
mod script;
mod summary;
mod table_view;

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

pub use summary::{Comparison, Daemons, FailingStore, Finding, Killed, Summary, Waits};

/// The replicas of every play, the primary first.
pub const REPLICAS: [&str; 3] = ["b2", "wasabi", "scw"];

/// What is to be played.
#[derive(Debug, Clone)]
pub struct Request {
    /// This program, which the daemons are to be.
    pub program: PathBuf,
    pub objects: usize,
    pub largest_bytes: u64,
    pub seed: u64,
    /// End after the comparison; else a trickle goes on until `stop`.
    pub once: bool,
}

/// Who is told how it goes.
pub trait ProgressDisplay: Send + Sync {
    /// Something has happened.
    fn say(&self, what: &str);
    /// How far it is, some times a second.
    fn show(&self, progress: &Progress);
    /// The result; with a trickle to follow it is not the end.
    fn sum_up(&self, summary: &Summary);
}

/// How far it is.
#[derive(Debug, Clone)]
pub enum Progress {
    Copying {
        objects: usize,
        /// Uploaded to the primary, and registered.
        registered: usize,
        /// On record there.
        wasabi: usize,
        scw: usize,
        /// Objects that daemons hold.
        leased: usize,
        /// Copies that failed and are not there yet.
        failing: usize,
    },
    Comparing {
        done: usize,
        of: usize,
    },
    Trickling {
        registered: usize,
        /// On record at every replica, read back and compared.
        everywhere: usize,
        /// Copies that are wrong or missing.
        wrong: usize,
        /// Of the last minute.
        waits: Option<Waits>,
    },
}

/// Plays until its end or until `stop`, and leaves nothing behind. `None`: it was stopped before the summary.
pub async fn run(
    request: Request,
    audience: &dyn ProgressDisplay,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Summary>> {
    script::run(request, audience, stop).await
}
