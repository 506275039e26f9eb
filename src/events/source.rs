//! The database behind the log, as a trait that tests replace.

use std::fmt;

use copyhold_db::{
    DatabaseError, EventLog,
    log::{LogHead, LogPart},
};
use futures::future::{BoxFuture, FutureExt as _};

/// Where events are read from: the log in the database, or a test's idea of it.
pub(super) trait Source: fmt::Debug + Send + Sync {
    fn head(&self) -> BoxFuture<'_, Result<LogHead, DatabaseError>>;
    fn tail(&self, after: i64, most_bytes: i64) -> BoxFuture<'_, Result<LogPart, DatabaseError>>;
    fn page(&self, from: i64, end: i64, most_bytes: i64) -> BoxFuture<'_, Result<LogPart, DatabaseError>>;
    fn raise_incarnation(&self, seen: i32) -> BoxFuture<'_, Result<bool, DatabaseError>>;
}

impl Source for EventLog {
    fn head(&self) -> BoxFuture<'_, Result<LogHead, DatabaseError>> {
        self.log_head().boxed()
    }

    fn tail(&self, after: i64, most_bytes: i64) -> BoxFuture<'_, Result<LogPart, DatabaseError>> {
        self.log_tail(after, most_bytes).boxed()
    }

    fn page(&self, from: i64, end: i64, most_bytes: i64) -> BoxFuture<'_, Result<LogPart, DatabaseError>> {
        self.log_page(from, end, most_bytes).boxed()
    }

    fn raise_incarnation(&self, seen: i32) -> BoxFuture<'_, Result<bool, DatabaseError>> {
        self.raise_log_incarnation(seen).boxed()
    }
}
