//! A connection that listens to all channels of a schema. It does not reconnect.

use std::time::Duration;

use copyhold_core::domain::SchemaName;
use sqlx::{Row as _, postgres::PgListener};
use tokio::time::timeout;

use super::notification::{Channels, ListenEvent};
use crate::{
    connections::{ConnectError, READ_ONLY, Target, catch_panics},
    error::{DatabaseError, with_timeout},
    handle::Database,
};

/// Why a connection does not listen, or no longer does.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The server is in recovery: it is a standby, and does not allow LISTEN.
    #[error("the server is in recovery, and cannot LISTEN")]
    Recovery,
    #[error("{0}")]
    Connection(sqlx::Error),
    /// A statement on another connection failed.
    #[error("{0}")]
    Query(#[from] DatabaseError),
}

impl From<sqlx::Error> for ListenError {
    fn from(error: sqlx::Error) -> Self {
        let recovers = error.as_database_error().is_some_and(|refused| refused.code().as_deref() == Some(READ_ONLY))
            || ConnectError::of(&error).is_some_and(|none| none.read_only.is_some());
        if recovers { Self::Recovery } else { Self::Connection(error) }
    }
}

/// When a silent connection that listens has to prove that it is alive.
#[derive(Debug, Clone, Copy)]
pub struct ProbeTiming {
    /// After so long without a notification it must prove that it is alive.
    pub every: Duration,
    /// The time limit of that proof, and of any other request.
    pub within: Duration,
}

/// A connection that listens to all channels of a schema, and is probed when it is silent.
#[derive(Debug)]
pub struct ListenConnection {
    listener: PgListener,
    channels: Channels,
    target: Target,
    era: u64,
    probing: ProbeTiming,
}

impl ListenConnection {
    /// Connects and listens.
    pub async fn open(target: &Target, schema: &SchemaName, probing: ProbeTiming) -> Result<Self, ListenError> {
        let (target, era) = (target.clone(), target.era.now());
        let mut listener = target.listener(probing.within).await?;
        let channels = Channels::of(schema);
        let listen = timeout(probing.within, catch_panics(listener.listen_all(channels.all())));
        listen.await.map_err(|_| silent())??;
        Ok(Self { listener, channels, target, era, probing })
    }

    /// The next notification; `None`: none came for so long that the connection must prove that it is alive.
    pub async fn next(&mut self) -> Result<Option<ListenEvent>, ListenError> {
        let target = self.target.clone();
        // `try_recv` and not `recv`, which hides that notifications may have been lost.
        let received = timeout(self.probing.every, catch_panics(self.listener.try_recv()));
        tokio::select! {
            received = received => match received {
                Ok(Ok(Some(notice))) => Ok(Some(self.channels.parse(notice.channel(), notice.payload()))),
                Ok(Ok(None)) => Err(closed("the connection was closed").into()),
                Ok(Err(error)) => Err(error.into()),
                Err(_silence) => Ok(None),
            },
            () = target.era.ended(self.era) => {
                Err(closed("the server can only be read, another may be the primary now").into())
            }
        }
    }

    /// A round trip that only the server itself can answer. A server in recovery, to which a pooler may have moved this
    /// connection, receives no notifications.
    pub async fn probe(&mut self) -> Result<(), ListenError> {
        let is_in_recovery: bool = self.ask("SELECT pg_is_in_recovery() -- listener::probe").await?;
        if is_in_recovery { Err(closed("the server is in recovery").into()) } else { Ok(()) }
    }

    /// The number of prepared transactions that the server allows: it refuses them to transactions that have notified.
    pub async fn prepared_transactions(&mut self) -> Result<i32, ListenError> {
        Ok(self
            .ask("SELECT current_setting('max_prepared_transactions')::int -- listener::prepared_transactions")
            .await?)
    }

    /// Returns whether it leads to the same database on the same server as the connections of `database`.
    pub async fn reaches_database_of(&mut self, database: &Database) -> Result<bool, ListenError> {
        let there: String = self.ask(PLACE).await?;
        let here: String = with_timeout("listener::place", sqlx::query_scalar(PLACE).fetch_one(&database.pool)).await?;
        Ok(there == here)
    }

    /// Unlistens the channel of the self-test, which other daemons use as well.
    pub async fn end_trial(&mut self) -> Result<(), ListenError> {
        let echo = self.channels.echo.clone();
        timeout(self.probing.within, self.listener.unlisten(&echo)).await.map_err(|_| silent())??;
        Ok(())
    }

    async fn ask<T>(&mut self, sql: &'static str) -> Result<T, sqlx::Error>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        // Not prepared: a pooler may stand in between.
        let row = catch_panics(sqlx::Executor::fetch_one(&mut self.listener, sqlx::raw_sql(sql)));
        timeout(self.probing.within, row).await.map_err(|_| silent())??.try_get(0)
    }
}

/// The same answer on each connection to the same database.
const PLACE: &str =
    "SELECT current_database() || ' of the server that runs since ' || pg_postmaster_start_time() -- listener::place";

fn closed(why: &'static str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, why))
}

fn silent() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer on a connection that is open"))
}
