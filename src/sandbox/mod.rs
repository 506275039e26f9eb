//! PostgreSQL and S3 in a box, for the demo, the tests and the benchmarks.
//! Never part of a daemon at work.

mod account;
pub mod demo;
mod guardian;
pub mod postgres;
pub mod s3;
