//! Copyhold keeps a verified copy of every object of a primary bucket in every
//! other bucket. PostgreSQL is its only coordinator.
//!
//! The order of modules; each may use those to the right of it, none those to the left:
//!
//! `cli → {daemon, audit} → {scan, import, http} → {worker, sweeper, listener, events, figures} → {sleeper, config} →
//! {metrics, wake, ears, herd, lifecycle, regular_file}`
//!
//! To the right of all of them are the crates: `copy → store`, `queue`, and below those `domain` and `timer`. `copy` does not
//! know `queue`, `queue` does not know `store`. The list below is alphabetical; `tests/it/walls.rs` holds the order.

pub mod audit;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod ears;
pub mod events;
pub mod figures;
pub mod herd;
pub mod http;
pub mod import;
pub mod lifecycle;
pub mod listener;
pub mod metrics;
pub mod scan;
pub mod sleeper;
pub mod sweeper;
pub mod wake;
pub mod worker;

pub use copyhold_core::{domain, regular_file, timer};
pub use copyhold_db::queue;
pub use copyhold_s3::{copy, store};
#[cfg(feature = "sandbox")]
pub use copyhold_sandbox as sandbox;
