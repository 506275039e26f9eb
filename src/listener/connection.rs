//! A connection that listens to all channels of a schema. It decides nothing about the next one.

use sqlx::{
    Row as _,
    postgres::{PgListener, PgNotification},
};
use tokio::time::timeout;

use super::Pace;
use crate::{
    domain::SchemaName,
    queue::{Channels, Heard, Target, guarded},
};

/// A connection that listens to all channels of a schema, and is never believed for long.
#[derive(Debug)]
pub(super) struct Connection {
    listener: PgListener,
    channels: Channels,
    target: Target,
    era: u64,
    pub pace: Pace,
}

impl Connection {
    /// Connects and listens.
    pub async fn open(target: &Target, schema: &SchemaName, pace: Pace) -> Result<Self, sqlx::Error> {
        let (target, era) = (target.clone(), target.era.now());
        let mut listener = target.listener(pace.probe_within).await?;
        let channels = Channels::of(schema);
        let listen = timeout(pace.probe_within, guarded(listener.listen_all(channels.all())));
        listen.await.map_err(|_| silent())??;
        Ok(Self { listener, channels, target, era, pace })
    }

    /// The next notice; `None`: there was none for so long that the connection must prove that it is alive.
    pub async fn next(&mut self) -> Result<Option<PgNotification>, sqlx::Error> {
        let target = self.target.clone();
        // `try_recv` and not `recv`, which hides that notices may have been lost.
        let received = timeout(self.pace.probe_every, guarded(self.listener.try_recv()));
        tokio::select! {
            received = received => match received {
                Ok(Ok(Some(notice))) => Ok(Some(notice)),
                Ok(Ok(None)) => Err(closed("the connection was closed")),
                Ok(Err(error)) => Err(error),
                Err(_silence) => Ok(None),
            },
            () = target.era.ended(self.era) => Err(closed("the server can only be read, another may be the primary now")),
        }
    }

    pub fn parse<'a>(&self, notice: &'a PgNotification) -> Heard<'a> {
        self.channels.parse(notice.channel(), notice.payload())
    }

    /// A round trip, which nobody but the server itself can answer. A server in recovery, of which a pooler may have made
    /// this connection's, hears nothing.
    pub async fn probe(&mut self) -> Result<(), sqlx::Error> {
        let is_in_recovery: bool = self.ask("SELECT pg_is_in_recovery() -- listener::probe").await?;
        if is_in_recovery { Err(closed("the server is in recovery")) } else { Ok(()) }
    }

    /// Which database this is, of which server.
    pub async fn place(&mut self) -> Result<String, sqlx::Error> {
        self.ask(PLACE).await
    }

    /// Hears no more of the word that it was tried with; other daemons are tried as well.
    pub async fn end_trial(&mut self) -> Result<(), sqlx::Error> {
        let echo = self.channels.echo.clone();
        timeout(self.pace.probe_within, self.listener.unlisten(&echo)).await.map_err(|_| silent())?
    }

    async fn ask<T>(&mut self, sql: &'static str) -> Result<T, sqlx::Error>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        // Not prepared: a pooler may stand in between.
        let row = guarded(sqlx::Executor::fetch_one(&mut self.listener, sqlx::raw_sql(sql)));
        timeout(self.pace.probe_within, row).await.map_err(|_| silent())??.try_get(0)
    }
}

/// One answer on each connection to the same database.
pub(super) const PLACE: &str =
    "SELECT current_database() || ' of the server that runs since ' || pg_postmaster_start_time() -- listener::place";

fn closed(why: &'static str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, why))
}

fn silent() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer on a connection that is open"))
}
