//! The database as one process sees it: its connections, its replicas, and the statements that were built for them.
//!
//! It owns no statement of its own; each folder adds the methods of its subject.

use std::{ops::Deref, sync::Arc};

use copyhold_core::domain::{EventKinds, ReplicaName, SchemaName};
use sqlx::SqlStr;

use crate::{
    connections::{Connections, OpenTransaction, Outage, ReadOnlyServer},
    split_batch::RefusedRows,
    sql::{PLANNER_SETTINGS, trusted_sql},
};

/// The database as one process uses it: a pool, and the statements for its replicas, built once from checked and quoted
/// identifiers.
///
/// A clone costs two reference counts: the pool and all else are shared.
#[derive(Debug, Clone)]
pub struct Database {
    pub(crate) pool: Connections,
    shared: Arc<Shared>,
}

/// What all clones of a [`Database`] share, whichever pool they use.
#[derive(Debug)]
pub struct Shared {
    pub(crate) schema: SchemaName,
    pub(crate) replicas: Vec<ReplicaName>,
    /// The kinds of events that it writes.
    pub(crate) kinds: EventKinds,
    pub(crate) statements: Statements,
    pub(crate) refused: RefusedRows,
}

impl Deref for Database {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

#[derive(Debug)]
pub(crate) struct Statements {
    /// One per replica, in their order.
    pub(crate) claims: Vec<SqlStr>,
    pub(crate) fresh_claims: Vec<SqlStr>,
    pub(crate) claim_these: SqlStr,
    pub(crate) peeks: Vec<SqlStr>,
    pub(crate) next_due: SqlStr,
    pub(crate) renew: SqlStr,
    pub(crate) complete: SqlStr,
    pub(crate) release: SqlStr,
    pub(crate) reclaim: SqlStr,
    pub(crate) reclaim_these: SqlStr,
    pub(crate) unclaim: SqlStr,
    pub(crate) claim_unsettled: SqlStr,
    pub(crate) begin_generation: SqlStr,
    /// One per replica, in their order.
    pub(crate) check_uploads: Vec<SqlStr>,
    pub(crate) log_tail: SqlStr,
    pub(crate) log_page: SqlStr,
}

/// A statement of the hot paths.
#[derive(Debug, Clone)]
pub struct HotStatement {
    pub name: String,
    pub sql: String,
    /// A function runs it, under [`PLANNER_SETTINGS`]; or a transaction that sets them.
    pub by_function: bool,
}

impl Database {
    pub(crate) fn from_parts(pool: Connections, shared: Shared) -> Self {
        Self { pool, shared: Arc::new(shared) }
    }

    /// The same database over another pool.
    #[must_use]
    pub fn over(&self, pool: Connections) -> Self {
        Self { pool, shared: Arc::clone(&self.shared) }
    }

    /// The replicas whose columns the statements name.
    #[must_use]
    pub fn replicas(&self) -> &[ReplicaName] {
        &self.replicas
    }

    /// Begins a transaction for one statement that no function runs, with the functions' planner settings and with
    /// `also`.
    pub(crate) async fn begin_planned(&self, also: &[(&str, &str)]) -> Result<OpenTransaction, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let settings = PLANNER_SETTINGS.iter().chain(also).map(|(name, value)| format!("SET LOCAL {name} = '{value}'"));
        let settings = settings.collect::<Vec<_>>().join("; ");
        sqlx::raw_sql(trusted_sql(settings)).execute(&mut *transaction).await?;
        Ok(transaction)
    }

    /// The read-only server, if the last connection was made to one.
    #[must_use]
    pub fn read_only_server(&self) -> Option<ReadOnlyServer> {
        self.pool.target().read_only()
    }

    /// The state of an outage of PostgreSQL.
    #[must_use]
    pub fn outage(&self) -> &Outage {
        &self.pool.target().outage
    }

    #[must_use]
    pub fn schema(&self) -> &SchemaName {
        &self.schema
    }
}
