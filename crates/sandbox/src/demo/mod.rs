//! `copyhold demo`: runs the whole system on private servers.
//!
//! Two daemons, which are processes of their own, copy what an application uploads and registers; one of them is
//! killed, one store fails; an independent reader then compares everything. The rule: every result was read from the
//! database or from the stores, and nothing of the demo outlives it.

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

/// The replicas of every demo, the primary first.
pub const REPLICAS: [&str; 3] = ["b2", "wasabi", "scw"];

/// The options of a demo.
#[derive(Debug, Clone)]
pub struct Request {
    /// The program that the daemons run: this one.
    pub program: PathBuf,
    pub objects: usize,
    pub largest_bytes: u64,
    pub seed: u64,
    /// End after the comparison; otherwise a light load runs until `stop`.
    pub once: bool,
}

/// The receiver of the demo's reports.
pub trait ProgressDisplay: Send + Sync {
    /// Reports an event.
    fn say(&self, what: &str);
    /// Reports the progress, some times a second.
    fn show(&self, progress: &Progress);
    /// Reports the result; a background load may follow.
    fn sum_up(&self, summary: &Summary);
}

/// The progress of a demo.
#[derive(Debug, Clone)]
pub enum Progress {
    Copying {
        objects: usize,
        /// Objects uploaded to the primary and registered.
        registered: usize,
        /// Copies recorded there.
        wasabi: usize,
        scw: usize,
        /// Objects that daemons have leased.
        leased: usize,
        /// Copies that failed and are not recorded yet.
        failing: usize,
    },
    Comparing {
        done: usize,
        of: usize,
    },
    Trickling {
        registered: usize,
        /// Objects recorded at every replica, read back and compared.
        everywhere: usize,
        /// Copies that are wrong or missing.
        wrong: usize,
        /// Waits of the last minute.
        waits: Option<Waits>,
    },
}

/// Runs a demo to its end or until `stop`, and leaves nothing behind. `None`: it was stopped before the summary.
pub async fn run(
    request: Request,
    display: &dyn ProgressDisplay,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Summary>> {
    script::run(request, display, stop).await
}
