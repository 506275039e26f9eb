//! The words of Copyhold as types, for all other crates. No I/O of its own, no wall clock; `async` only for sleeping.

pub mod did_you_mean;
pub mod domain;
pub mod loopback;
pub mod regular_file;
pub mod secret;
pub mod timer;
