//! PostgreSQL: the schema and every statement. It never calls a store.
//!
//! The order of modules; each may use those below it, none above:
//! {`handles`, `prepared`}, `schema`, {`stats`, `walk`}, {`object`, `replica`}, `lease`, `daemon`, `rules`, `log`,
//! {`import`, `notify`, `server`}, `handle`, {`retry_while_down`, `split_batch`}, `error`, `connections`, `settings`,
//! {`database_url`, `pin`, `sql`}. `tests/it/walls.rs` holds them to it.

pub mod connections;
pub mod daemon;
pub mod database_url;
mod error;
mod handle;
mod handles;
pub mod import;
pub mod lease;
pub mod log;
pub mod notify;
pub mod object;
pub mod pin;
mod prepared;
pub mod replica;
pub mod retry_while_down;
pub mod rules;
pub mod schema;
pub mod server;
pub mod settings;
mod split_batch;
pub mod sql;
pub mod stats;
pub mod walk;

pub use error::{DatabaseError, Refusal};
pub use handle::{Database, HotStatement};
pub use handles::{Bindings, Breakers, Duties, EventLog, Leases, Presence, Uploads};
