//! Private PostgreSQL and S3 servers, for the demo, the tests and the benchmarks.
//! No daemon in production uses it.

pub mod demo;
mod error;
pub mod postgres;
mod process_guard;
#[expect(clippy::disallowed_methods, reason = "a store has a clock of its own")]
pub mod s3;
mod system_user;
