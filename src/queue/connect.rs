use std::{str::FromStr as _, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    Connection as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::config::Database;

/// The connections of one process: six at most, the listener's included.
#[derive(Debug, Clone)]
pub struct Pools {
    /// Claims, completions, sweeps, figures.
    pub work: PgPool,
    /// Heartbeats alone, so that leases live on while everything else waits for a connection.
    pub heartbeat: PgPool,
}

const WORK_CONNECTIONS: u32 = 4;
/// After this time PostgreSQL has ended any statement of ours.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
const ACQUIRE: Duration = Duration::from_secs(5);

impl Pools {
    /// Prepares the pools; connections are made when they are first needed, so this works while PostgreSQL is away.
    pub fn new(database: &Database) -> Result<Self, sqlx::Error> {
        let options = options(&database.url, database)?;
        let pool = |most| {
            PgPoolOptions::new()
                .max_connections(most)
                .acquire_timeout(ACQUIRE)
                // Bounds what a connection left in an open transaction could do (sqlx 0.9.0 may give back such a one
                // when `begin` is cancelled; no hot path of ours begins a transaction).
                .max_lifetime(Duration::from_mins(5))
                .connect_lazy_with(options.clone())
        };
        Ok(Self { work: pool(WORK_CONNECTIONS), heartbeat: pool(1) })
    }

    /// Ends all connections.
    pub async fn close(&self) {
        tokio::join!(self.work.close(), self.heartbeat.close());
    }
}

/// A connection of its own to the database itself, not to a pooler: for LISTEN and for migrations.
pub async fn direct(database: &Database) -> Result<PgConnection, sqlx::Error> {
    PgConnection::connect_with(&direct_options(database)?).await
}

/// How to reach the database itself, not a pooler, with one connection: for LISTEN and for migrations.
pub fn direct_options(database: &Database) -> Result<PgConnectOptions, sqlx::Error> {
    options(database.listen_url.as_ref().unwrap_or(&database.url), database)
}

fn options(url: &SecretString, database: &Database) -> Result<PgConnectOptions, sqlx::Error> {
    let mut options = PgConnectOptions::from_str(url.expose_secret())?
        .application_name("copyhold")
        // Of no use to us, who read floats in binary, and refused by poolers unless told otherwise.
        .extra_float_digits(None);
    if let Some(password) = &database.password {
        options = options.password(password.expose_secret());
    }
    // In any conflict it is we who give up, well before PostgreSQL looks for deadlocks (1 s). Behind a pooler, which
    // may refuse start-up options, the role has to carry them: docs/postgresql.md has the ALTER ROLE.
    if database.listen_url.is_none() {
        options = options.options([
            ("lock_timeout", "200ms"),
            ("statement_timeout", &format!("{}ms", STATEMENT_TIMEOUT.as_millis())),
            ("idle_in_transaction_session_timeout", "30s"),
            // With millions of rows missing, the count of the backlog is so dear in the planner's eyes that it is
            // compiled first, and by every daemon every two seconds, also where then nothing is to be counted:
            // half a second of a core each time.
            ("jit", "off"),
        ]);
    }
    Ok(options)
}

/// One round trip, to see whether PostgreSQL answers.
pub async fn probe(pool: &PgPool) -> Result<(), super::QueueError> {
    super::error::limited("queue::probe", sqlx::query("SELECT 1").execute(pool)).await?;
    Ok(())
}
