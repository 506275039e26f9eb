//! Every statement that changes a copy, one verb a file.
//!
//! Owns the table `object_copies` and its side tables; never calls a store.
//! The rule: a statement that touches several rows takes them with SKIP LOCKED
//! before it writes, so that it never waits for a row while it holds another,
//! and a fenced write finds its row by key alone and then compares the fence.

mod anew;
mod answer;
mod backlog;
mod breaker;
mod claim;
mod complete;
mod connect;
mod daemons;
mod ddl;
mod error;
mod explain;
mod forget;
mod lanes;
mod migrate;
mod notice;
mod park;
mod pause;
mod reclaim;
mod register;
mod release;
mod renew;
mod replicas;
mod retry;
mod seek;
mod status;
mod swept;
mod turn;
mod version;

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgPool, SqlSafeStr as _, SqlStr};

pub use anew::Unregistered;
pub use answer::{Answer, Answered};
pub use breaker::{Breaker, Probed};
pub use claim::{Claimed, Position};
pub use complete::Report;
pub use connect::{Pools, direct_options, probe};
pub use daemons::{Daemon, DaemonId};
pub use error::QueueError;
pub use explain::{Abandoned, CopyStory, FailureStory, Holder, State, Story};
pub use forget::Forgotten;
pub use lanes::{Derived, lane_index};
pub use migrate::{MigrateError, Migrated, migrate};
pub use notice::Notice;
pub use pause::Pause;
pub use reclaim::Reclaimed;
pub use register::Registered;
pub use replicas::{Admission, Pin, ReplicaRow};
pub use retry::Which;
pub use seek::Sought;
pub use status::{DaemonStatus, FailingCopy, ReplicaStatus, Status};
pub use turn::{PARKED_BY_HAND, Turned};
pub use version::{SCHEMA_VERSION, SchemaFit};

use crate::domain::{ReplicaName, SchemaName};

/// A copy with this time in its `due` column is parked.
pub const PARKED: i64 = 9_000_000_000_000_000_000;

/// The queue as one daemon sees it: a pool and the statements for its replicas,
/// built once from checked and quoted identifiers.
#[derive(Debug, Clone)]
pub struct Queue {
    pool: PgPool,
    schema: SchemaName,
    replicas: Vec<ReplicaName>,
    statements: Statements,
}

#[derive(Debug, Clone)]
struct Statements {
    /// One per replica, in their order.
    claims: Vec<SqlStr>,
    fresh_claims: Vec<SqlStr>,
    claim_these: SqlStr,
    seeks: Vec<SqlStr>,
    next_due: SqlStr,
    renew: SqlStr,
    complete: SqlStr,
    release: SqlStr,
    reclaim: SqlStr,
    take_unverified: SqlStr,
    conclude: SqlStr,
    begin_generation: SqlStr,
}

impl Queue {
    /// Builds the statements for `replicas`; nothing is sent yet.
    #[must_use]
    pub fn new(pool: PgPool, schema: SchemaName, replicas: Vec<ReplicaName>) -> Self {
        let statements = Statements {
            claims: replicas.iter().map(|lane| claim::oldest_first(&schema, &replicas, lane)).collect(),
            fresh_claims: replicas.iter().map(|lane| claim::fresh(&schema, &replicas, lane)).collect(),
            claim_these: claim::these(&schema, &replicas),
            seeks: replicas.iter().map(|lane| seek::statement(&schema, &replicas, lane)).collect(),
            next_due: claim::next_due_statement(&schema, &replicas),
            renew: renew::statement(&schema),
            complete: complete::statement(&schema, &replicas),
            release: release::statement(&schema),
            reclaim: reclaim::statement(&schema, &replicas),
            take_unverified: swept::take(&schema),
            conclude: swept::conclude(&schema, &replicas),
            begin_generation: anew::statement(&schema, &replicas),
        };
        Self { pool, schema, replicas, statements }
    }

    /// The replicas whose columns the statements name.
    #[must_use]
    pub fn replicas(&self) -> &[ReplicaName] {
        &self.replicas
    }

    /// The statements of the hot paths by name, for whoever wants to see their plans.
    #[must_use]
    pub fn statements<'a>(&'a self) -> Vec<(String, &'a str)> {
        let s = &self.statements;
        let each = |what: &'static str, of: &'a [SqlStr]| {
            self.replicas.iter().zip(of).map(move |(lane, sql)| (format!("{what} {lane}"), sql.as_str()))
        };
        let claims = each("claim", &s.claims).chain(each("claim_fresh", &s.fresh_claims)).chain(each("seek", &s.seeks));
        let others = [
            ("claim_these", &s.claim_these),
            ("next_due", &s.next_due),
            ("renew", &s.renew),
            ("complete", &s.complete),
            ("release", &s.release),
            ("reclaim", &s.reclaim),
            ("take_unverified", &s.take_unverified),
            ("conclude", &s.conclude),
            ("begin_generation", &s.begin_generation),
        ];
        claims.chain(others.map(|(name, sql)| (name.to_owned(), sql.as_str()))).collect()
    }

    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    #[must_use]
    pub fn schema(&self) -> &SchemaName {
        &self.schema
    }
}

/// Keeps a statement made of identifiers that [`ReplicaName`] and [`SchemaName`] have checked and quoted.
/// Values are always bound.
fn built(text: String) -> SqlStr {
    AssertSqlSafe(text).into_sql_str()
}

/// Whole microseconds, as every time in the tables.
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
