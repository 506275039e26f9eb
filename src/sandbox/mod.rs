//! PostgreSQL in a box, for the demo, the tests and the benchmarks.

pub mod postgres;
