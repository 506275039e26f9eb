//! What tests and benchmarks share and what depends on the product: failures by seed, damaged bytes, gaps in the event
//! log, a pooler and a proxy in front of PostgreSQL.

#![expect(missing_debug_implementations, reason = "nothing prints what tests and benchmarks play on")]

pub mod chaos;
pub mod damage;
pub mod fuzz;
pub mod gap_detector;
pub mod pooler;
pub mod proxy;
