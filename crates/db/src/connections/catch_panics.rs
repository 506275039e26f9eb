//! Turns a panic of the client library into an error.

use std::{any::Any, panic::AssertUnwindSafe};

use futures::FutureExt as _;
use tracing::error;

/// Runs `work`. A malformed message from PostgreSQL, for example from a faulty proxy, panics in the client library. The
/// panic ends this statement and its connection, not the task.
pub async fn catch_panics<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    // Whatever state the panic left behind belongs to the connection, which is closed.
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| {
        let reason = message(panic.as_ref());
        error!(
            "The PostgreSQL client panicked, so a message from the server, or from a proxy before it, was broken; the \
             connection is closed and the statement fails: {reason}"
        );
        Err(sqlx::Error::Protocol(format!("a message from PostgreSQL is broken: {reason}")))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_the_client_library_is_an_error_of_the_statement() {
        let broken: Result<(), _> = catch_panics(async { panic!("advance out of bounds") }).await;
        assert!(matches!(broken, Err(sqlx::Error::Protocol(what)) if what.contains("advance out of bounds")));
        assert!(matches!(catch_panics(async { Ok(7) }).await, Ok(7)));
    }
}
