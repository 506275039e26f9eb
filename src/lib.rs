//! Copyhold keeps a verified copy of every object of a primary bucket in every
//! other bucket. PostgreSQL is its only coordinator.
//!
//! The order of modules; each may use those to the right of it, none those to the left:
//!
//! `cli → {daemon, audit} → {scan, import, http} → {worker, sweeper, events, figures} → wakeup → {config, metrics}`
//!
//! To the right of all of them are the crates: `copyhold_s3` and `copyhold_db`, which do not know each other, and below
//! those `copyhold_core`. The list below is alphabetical; `tests/it/walls.rs` holds the order.

pub mod audit;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod events;
pub mod figures;
pub mod http;
pub mod import;
pub mod metrics;
pub mod scan;
pub mod sweeper;
pub mod wakeup;
pub mod worker;
