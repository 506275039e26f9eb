//! How to reach PostgreSQL, and what the schema is made for. It reads no file and no environment: the program does.

use std::fmt;

use copyhold_core::{
    domain::{EventKinds, ReplicaName, Rule, SchemaName},
    secret::Secret,
};
use secrecy::ExposeSecret as _;

use crate::{database_url::masked, pin::Pin};

#[derive(Clone)]
pub struct ConnectionSettings {
    /// `postgres://…`, of one server or several; may be a transaction pooler. Carries the password if there is one.
    pub url: Secret,
    /// A direct connection for LISTEN, where a pooler stands in front.
    pub listen_url: Option<Secret>,
    /// From `password_file`; used instead of a password in the URLs.
    pub password: Option<Secret>,
    pub schema: SchemaName,
    pub wakeup: Wakeup,
}

/// Shows no password.
impl fmt::Debug for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |url: &Secret| masked(url.expose_secret());
        f.debug_struct("Database")
            .field("url", &shown(&self.url))
            .field("listen_url", &self.listen_url.as_ref().map(shown))
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("schema", &self.schema)
            .field("wakeup", &self.wakeup)
            .finish()
    }
}

/// How daemons learn of new work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wakeup {
    /// As `Notify`; but as `Poll` where the server allows prepared transactions, which may not have notified.
    Auto,
    /// They listen for notifications, and poll besides.
    Notify,
    /// They only poll, once a second; no program ever sends a notification for them.
    Poll,
}

/// What `migrate` makes the schema for, and what all daemons have to agree on.
#[derive(Debug, Clone)]
pub struct SchemaPlan {
    pub database: ConnectionSettings,
    pub primary: ReplicaName,
    /// In the order of their names.
    pub replicas: Vec<(ReplicaName, Pin)>,
    pub rules: Vec<Rule>,
    /// The events that are written.
    pub event_kinds: EventKinds,
}

impl SchemaPlan {
    /// The names of its replicas.
    pub fn names(&self) -> impl Iterator<Item = &ReplicaName> {
        self.replicas.iter().map(|(name, _)| name)
    }
}
