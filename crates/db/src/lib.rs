//! PostgreSQL: the schema and every statement. It never calls a store.
//!
//! The order of modules; each may use those to the right of it, none those to the left: `queue → settings → {database_url, pin}`.

pub mod database_url;
pub mod pin;
pub mod queue;
pub mod settings;
