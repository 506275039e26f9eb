//! The connections that a process has, by its configuration.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::{Access, Connections, Era, Outage, Target};
use crate::settings::ConnectionSettings;

/// The connections of one process: six at most, the listener's included.
#[derive(Debug, Clone)]
pub struct Pools {
    /// Claims, completions, sweeps, figures.
    pub work: Connections,
    /// Heartbeats alone, so that leases are renewed while everything else waits for a connection.
    pub heartbeat: Connections,
    era: Era,
    outage: Outage,
}

const WORK_CONNECTIONS: u32 = 4;
/// By then PostgreSQL has ended any statement of ours.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long making a separate connection may take.
const DIRECT_WITHIN: Duration = Duration::from_secs(10);

impl Pools {
    /// Prepares the pools of a daemon; connections are made when they are first needed, so this works while PostgreSQL
    /// is unavailable.
    #[must_use]
    pub fn new(database: &ConnectionSettings) -> Self {
        Self::with(database, Access::Write)
    }

    /// As [`Self::new`], for a command that also reads from a read-only server.
    #[must_use]
    pub fn with(database: &ConnectionSettings, access: Access) -> Self {
        let (era, outage) = (Era::default(), Outage::default());
        let pool = |most| Connections::new(target(database, &era, &outage), access, most);
        Self { work: pool(WORK_CONNECTIONS), heartbeat: pool(1), era, outage }
    }

    /// Checks whether the servers' names and the files beside them are valid. It does not connect.
    pub fn check(&self) -> Result<(), sqlx::Error> {
        self.work.target().servers().map(drop)
    }

    /// The target of the connection that listens: it ends together with the pools' connections when their server is
    /// read-only.
    #[must_use]
    pub fn listen_target(&self, database: &ConnectionSettings) -> Target {
        direct_in(database, self.era.clone(), self.outage.clone())
    }

    /// The state of an outage.
    #[must_use]
    pub fn outage(&self) -> &Outage {
        &self.outage
    }

    /// Ends all connections.
    pub async fn close(&self) {
        tokio::join!(self.work.close(), self.heartbeat.close());
    }
}

fn target(database: &ConnectionSettings, era: &Era, outage: &Outage) -> Target {
    let pooled = database.listen_url.is_some();
    Target::new(database.url.clone(), database.password.clone(), pooled, era.clone(), outage.clone())
}

/// Makes a separate connection to the database itself, not to a pooler: for LISTEN and for migrations.
pub async fn direct(database: &ConnectionSettings) -> Result<PgConnection, sqlx::Error> {
    direct_target(database).connect(Access::Write, Instant::now() + DIRECT_WITHIN).await
}

/// How to reach the database itself, not a pooler, with one connection: for LISTEN and for migrations.
#[must_use]
pub fn direct_target(database: &ConnectionSettings) -> Target {
    direct_in(database, Era::default(), Outage::default())
}

fn direct_in(database: &ConnectionSettings, era: Era, outage: Outage) -> Target {
    let (url, listen_url) = (&database.url, &database.listen_url);
    // A pooler may refuse start-up options, so the role has to carry them: docs/postgresql.md has the ALTER ROLE.
    let pooled = listen_url.is_some();
    Target::new(listen_url.as_ref().unwrap_or(url).clone(), database.password.clone(), pooled, era, outage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::SESSION_SETTINGS;

    #[test]
    fn the_limit_of_a_statement_is_what_others_count_with() {
        let limit = SESSION_SETTINGS.iter().find(|(name, _)| *name == "statement_timeout");
        assert_eq!(limit.unwrap().1, format!("{}ms", STATEMENT_TIMEOUT.as_millis()));
    }
}
