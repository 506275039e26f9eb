//! A connection that listens: to a server that is the primary, or to none.

use std::time::Duration;

use sqlx::{
    Acquire as _,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};

use super::{
    error::{ConnectError, ReadOnlyCause},
    guarded::guarded,
    session,
    target::{Target, name},
};

impl Target {
    /// Connects in order to LISTEN, which a server in recovery does not allow. One that is read-only by a setting does.
    pub async fn listener(&self, within: Duration) -> Result<PgListener, sqlx::Error> {
        let mut read_only = None;
        let mut last = None;
        for (at, options) in self.servers()? {
            let name = name(&options);
            match guarded(Box::pin(one(&options, &name, within))).await {
                Ok((listener, None)) => {
                    self.prefer(at);
                    return Ok(listener);
                }
                Ok((_, Some(server))) => read_only = read_only.or(Some(server)),
                Err(error) => last = Some(error),
            }
        }
        Err(match (read_only, last) {
            (read_only @ Some(_), _) => ConnectError { read_only, unreachable: Vec::new() }.into(),
            (None, Some(error)) => error,
            (None, None) => sqlx::Error::PoolTimedOut,
        })
    }
}

async fn one(
    options: &PgConnectOptions,
    name: &str,
    within: Duration,
) -> Result<(PgListener, Option<super::ReadOnlyServer>), sqlx::Error> {
    // A pool of its own for each: one that has died without a word is given back only when the kernel gives it up,
    // which takes a quarter of an hour, and until then no other could be had from the same pool.
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(within).connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    // What is lost is to be seen as lost.
    listener.eager_reconnect(false);
    let looked = tokio::time::timeout(within, async { session::look(listener.acquire().await?, name, false).await });
    let server = looked.await.map_err(|_| sqlx::Error::PoolTimedOut)??;
    Ok((listener, server.filter(|server| server.cause == ReadOnlyCause::Recovery)))
}
