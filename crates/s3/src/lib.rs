//! S3 stores, and the copy of one object from one of them to others. It has never heard of PostgreSQL.
//!
//! The order of modules; each may use those to the right of it, none those to the left: `copy → store → settings`.

pub mod copy;
pub mod settings;
pub mod store;
