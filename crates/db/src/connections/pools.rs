//! Which connections a process has, by its configuration.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::{
    Queue, QueueError,
    connections::{Access, Connections, Era, Outage, ReadOnlyCause, ReadOnlyServer, SESSION_SETTINGS, Target},
    error::limited,
};
use crate::settings::Database;

/// The connections of one process: six at most, the listener's included.
#[derive(Debug, Clone)]
pub struct Pools {
    /// Claims, completions, sweeps, figures.
    pub work: Connections,
    /// Heartbeats alone, so that leases live on while everything else waits for a connection.
    pub heartbeat: Connections,
    era: Era,
    outage: Outage,
}

const WORK_CONNECTIONS: u32 = 4;
/// After this time PostgreSQL has ended any statement of ours.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection of its own may take.
const DIRECT_WITHIN: Duration = Duration::from_secs(10);

impl Pools {
    /// Prepares the pools of a daemon; connections are made when they are first needed, so this works while PostgreSQL is
    /// away.
    #[must_use]
    pub fn new(database: &Database) -> Self {
        Self::with(database, Access::Write)
    }

    /// The same for a command that also looks at a server that can only be read.
    #[must_use]
    pub fn with(database: &Database, access: Access) -> Self {
        let (era, outage) = (Era::default(), Outage::default());
        let pool = |most| Connections::new(target(database, &era, &outage), access, most);
        Self { work: pool(WORK_CONNECTIONS), heartbeat: pool(1), era, outage }
    }

    /// Whether the servers' names and the files beside them can be understood. Nothing is connected to.
    pub fn check(&self) -> Result<(), sqlx::Error> {
        self.work.target().servers().map(drop)
    }

    /// Where the connection that listens leads: it ends when those of the pools do, because their server is read-only.
    #[must_use]
    pub fn listen_target(&self, database: &Database) -> Target {
        direct_in(database, self.era.clone(), self.outage.clone())
    }

    /// What the process knows of an outage.
    #[must_use]
    pub fn outage(&self) -> &Outage {
        &self.outage
    }

    /// Ends all connections.
    pub async fn close(&self) {
        tokio::join!(self.work.close(), self.heartbeat.close());
    }
}

fn target(database: &Database, era: &Era, outage: &Outage) -> Target {
    let pooled = database.listen_url.is_some();
    Target::new(database.url.clone(), database.password.clone(), pooled, era.clone(), outage.clone())
}

/// A connection of its own to the database itself, not to a pooler: for LISTEN and for migrations.
pub async fn direct(database: &Database) -> Result<PgConnection, sqlx::Error> {
    direct_target(database).connect(Access::Write, Instant::now() + DIRECT_WITHIN).await
}

/// How to reach the database itself, not a pooler, with one connection: for LISTEN and for migrations.
#[must_use]
pub fn direct_target(database: &Database) -> Target {
    direct_in(database, Era::default(), Outage::default())
}

fn direct_in(database: &Database, era: Era, outage: Outage) -> Target {
    let (url, listen_url) = (&database.url, &database.listen_url);
    // Behind a pooler, which may refuse start-up options, the role has to carry them: docs/postgresql.md has the ALTER ROLE.
    let pooled = listen_url.is_some();
    Target::new(listen_url.as_ref().unwrap_or(url).clone(), database.password.clone(), pooled, era, outage)
}

impl Queue {
    /// Settings of this role's sessions on which statements rely and that are others, each in a clause: behind a pooler nobody
    /// can set them.
    pub async fn session_flaws(&self) -> Result<Vec<String>, QueueError> {
        const NAME: &str = "queue::session_flaws";
        let sql = "-- queue::session_flaws
SELECT w.name, current_setting(w.name) FROM unnest($1::text[], $2::text[]) AS w(name, value)
 WHERE current_setting(w.name) <> w.value";
        // Limits are matters of taste, and are shown in other units.
        let of_taste = |name: &str| name.ends_with("_timeout") || ["jit", "client_min_messages"].contains(&name);
        let relied_on = SESSION_SETTINGS.iter().filter(|(name, _)| !of_taste(name));
        let (names, values): (Vec<_>, Vec<_>) = relied_on.copied().unzip();
        let query = sqlx::query_as(sql).bind(&names).bind(values).fetch_all(&self.pool);
        let found: Vec<(String, String)> = limited(NAME, query).await?;
        Ok(found.into_iter().map(|(name, value)| format!("{name} is {value}")).collect())
    }
}

/// One round trip, to see whether PostgreSQL answers, and whether it can be written to.
pub async fn probe(pool: &Connections) -> Result<Option<ReadOnlyServer>, QueueError> {
    const NAME: &str = "queue::probe";
    let sql = "-- queue::probe
SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'";
    let (recovers, read_only) = limited(NAME, sqlx::query_as(sql).fetch_one(pool)).await?;
    let cause = match (recovers, read_only) {
        (true, _) => ReadOnlyCause::Recovery,
        (false, true) => ReadOnlyCause::Setting,
        (false, false) => return Ok(None),
    };
    let known = pool.read_only().filter(|known| known.cause == cause);
    Ok(Some(known.unwrap_or_else(|| ReadOnlyServer { at: "the end of database.url".to_owned(), cause })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_a_statement_is_what_others_count_with() {
        let limit = SESSION_SETTINGS.iter().find(|(name, _)| *name == "statement_timeout");
        assert_eq!(limit.unwrap().1, format!("{}ms", STATEMENT_TIMEOUT.as_millis()));
    }
}
