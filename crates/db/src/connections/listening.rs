//! Makes a connection that listens: only to a server that is not in recovery.

use std::time::Duration;

use sqlx::{
    Acquire as _, Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};

use super::{
    catch_panics::catch_panics,
    error::{ConnectError, ReadOnlyCause},
    session,
    target::{Target, name},
};

/// Where a connection is refused, the client library tries again until its time is up, and then reports only that.
/// After this time a second attempt finds the reason.
const ASKED_WHY: Duration = Duration::from_millis(300);

impl Target {
    /// Connects in order to LISTEN, which a server in recovery does not allow. A server that is read-only by a setting
    /// does.
    pub async fn listener(&self, within: Duration) -> Result<PgListener, sqlx::Error> {
        let mut read_only = None;
        let mut failed = Vec::new();
        for server in self.servers()? {
            let name = name(&server.options);
            let connected = catch_panics(Box::pin(one(&server.options, &name, within)));
            let outcome = tokio::select! {
                outcome = connected => outcome,
                error = why_not(&server.options) => Err(error),
            };
            match outcome {
                Ok((listener, None)) => {
                    self.prefer(server.at);
                    return Ok(listener);
                }
                Ok((_, Some(server))) => read_only = read_only.or(Some(server)),
                Err(error) => failed.push((name, error)),
            }
        }
        Err(match read_only {
            Some(server) => ConnectError::read_only(server).into(),
            None => self.none_of(None, &failed),
        })
    }
}

/// Ends when a connection of its own is refused, with the reason.
async fn why_not(options: &PgConnectOptions) -> sqlx::Error {
    tokio::time::sleep(ASKED_WHY).await;
    match catch_panics(Box::pin(PgConnection::connect_with(options))).await {
        Ok(connection) => drop(connection.close().await),
        Err(error) => return error,
    }
    // The server is reachable: the other attempt will succeed or report.
    std::future::pending().await
}

async fn one(
    options: &PgConnectOptions,
    name: &str,
    within: Duration,
) -> Result<(PgListener, Option<super::ReadOnlyServer>), sqlx::Error> {
    // A pool of its own for each connection. A dead connection is returned only when the kernel gives it up, after a
    // quarter of an hour; until then the same pool could lend no other.
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(within).connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    // A lost connection must not be hidden by a reconnect: notifications may be lost with it.
    listener.eager_reconnect(false);
    let looked = tokio::time::timeout(within, async { session::look(listener.acquire().await?, name, false).await });
    let server = looked.await.map_err(|_| sqlx::Error::PoolTimedOut)??;
    Ok((listener, server.filter(|server| server.cause == ReadOnlyCause::Recovery)))
}
