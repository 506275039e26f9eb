use sqlx::{
    Row as _,
    postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions},
};
use tokio::time::timeout;

use super::Pace;
use crate::{
    domain::SchemaName,
    queue::{Channels, Heard},
};

/// A connection that listens to all channels of a schema, and is never believed for long.
#[derive(Debug)]
pub(super) struct Connection {
    listener: PgListener,
    channels: Channels,
    pub pace: Pace,
}

impl Connection {
    /// Connects and listens.
    pub async fn open(options: &PgConnectOptions, schema: &SchemaName, pace: Pace) -> Result<Self, sqlx::Error> {
        // A pool of its own for each: one that has died without a word is given back only when the kernel gives it up,
        // which takes a quarter of an hour, and until then no other could be had from the same pool.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(pace.probe_within)
            .connect_lazy_with(options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        // What is lost is to be seen as lost.
        listener.eager_reconnect(false);
        let channels = Channels::of(schema);
        let listen = timeout(pace.probe_within, listener.listen_all(channels.all()));
        listen.await.map_err(|_| silent())??;
        Ok(Self { listener, channels, pace })
    }

    /// The next notice; `None`: there was none for so long that the connection must prove that it is alive.
    pub async fn next(&mut self) -> Result<Option<PgNotification>, sqlx::Error> {
        // `try_recv` and not `recv`, which hides that notices may have been lost.
        match timeout(self.pace.probe_every, self.listener.try_recv()).await {
            Ok(Ok(Some(notice))) => Ok(Some(notice)),
            Ok(Ok(None)) => Err(closed()),
            Ok(Err(error)) => Err(error),
            Err(_silence) => Ok(None),
        }
    }

    pub fn parse<'a>(&self, notice: &'a PgNotification) -> Heard<'a> {
        self.channels.parse(notice.channel(), notice.payload())
    }

    /// A round trip, which nobody but the server itself can answer; returns how full the server's queue of notices is, 0 to 1:
    /// somebody who listens in a transaction that does not end keeps it from being emptied.
    pub async fn probe(&mut self) -> Result<f64, sqlx::Error> {
        self.ask("SELECT pg_notification_queue_usage() -- listener::probe").await
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
        let row = sqlx::Executor::fetch_one(&mut self.listener, sqlx::raw_sql(sql));
        timeout(self.pace.probe_within, row).await.map_err(|_| silent())??.try_get(0)
    }
}

/// One answer on each connection to the same database.
pub(super) const PLACE: &str =
    "SELECT current_database() || ' of the server that runs since ' || pg_postmaster_start_time() -- listener::place";

fn closed() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "the connection was closed"))
}

fn silent() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer on a connection that is open"))
}
