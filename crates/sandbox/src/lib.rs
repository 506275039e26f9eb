//! PostgreSQL and S3 in a box, for the demo, the tests and the benchmarks.
//! Never part of a daemon at work.

mod account;
pub mod demo;
mod error;
mod guardian;
pub mod postgres;
#[expect(clippy::disallowed_methods, reason = "a store has a clock of its own")]
pub mod s3;
