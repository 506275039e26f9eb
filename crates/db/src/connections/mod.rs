//! Owns the connections to PostgreSQL: how many there are, where they lead, and when one is not reused.
//!
//! A connection is closed when its server cannot be written to, when its protocol broke, or when its transaction did
//! not end. Tests: `tests/it/read_only.rs`, `tests/it/secrets.rs`, `tests/it/connecting.rs` and
//! `tests/it/broken_protocol.rs`.

mod catch_panics;
mod cause;
mod error;
mod executor;
mod listening;
mod log_throttle;
mod os_user;
mod outage;
mod pool;
pub(crate) mod pools;
mod session;
mod target;
mod transaction;

pub use catch_panics::catch_panics;
pub use cause::ConnectCause;
pub use error::{ConnectError, READ_ONLY, ReadOnlyCause, ReadOnlyServer};
pub use log_throttle::LogThrottle;
pub use outage::Outage;
pub use pool::{Connections, LentConnection};
pub use pools::{Pools, STATEMENT_TIMEOUT, direct_target};
pub use session::SESSION_SETTINGS;
pub use target::{Access, Era, Target};
pub use transaction::OpenTransaction;
