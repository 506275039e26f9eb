//! Domain types and small helpers that every other crate uses. No wall clock; `async` only for sleeping.

pub mod did_you_mean;
pub mod domain;
pub mod loopback;
pub mod regular_file;
pub mod secret;
pub mod timer;
