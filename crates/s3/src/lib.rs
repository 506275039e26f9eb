//! S3 stores, and copying one object from one store to others. It does not use PostgreSQL.
//!
//! The order of modules; each may use those to the right of it, none those to the left: `copy → store → {settings,
//! metrics}`.

pub mod copy;
pub mod metrics;
pub mod settings;
pub mod store;
