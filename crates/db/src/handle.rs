//! Every statement that changes a copy, one verb a file.
//!
//! Owns the table `object_copies` and its side tables; never calls a store.
//! A statement that changes several rows takes them with SKIP LOCKED before it writes, so that it
//! never waits for a row while it holds another. Those that register many objects wait, in the
//! order of keys, so that two of them cannot deadlock. A fenced write finds its row by key alone
//! and then compares the fence.

mod anew;
mod answer;
mod apart;
mod append;
mod append_events;
mod append_functions;
mod away;
mod backlog;
mod breaker;
mod change_guard;
mod claim;
mod clock;
mod complaint;
mod complete;
mod connect;
mod connections;
mod daemons;
mod ddl;
mod differences;
mod drain;
mod error;
mod explain;
mod failing;
mod foresee;
mod forget;
mod function_calls;
mod functions;
mod import;
mod inbox;
mod inspect;
mod lanes;
mod listed;
mod listen;
mod log;
mod look;
mod migrate;
mod notice;
mod orphans;
mod park;
mod pause;
mod plan;
mod promote;
mod reclaim;
mod register;
mod release;
mod remove;
mod renew;
mod replicas;
mod resets;
mod retention;
mod retry;
mod rules;
mod scan;
mod seek;
mod sequences;
mod server_time;
mod sleep;
mod sql;
mod status;
mod swept;
mod take_back;
mod trial;
mod turn;
mod twins;
mod unclaim;
mod unsettled;
mod uploads;
mod verify;
mod version;

use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

pub use anew::Unregistered;
pub use answer::{Answer, Answered};
pub use away::{AWAY_FOR, AWAY_PAUSE, say_with, still_away, while_away};
pub use backlog::{Missing, count_interval};
pub use breaker::{Breaker, Probed};
pub use change_guard::{CHANGES_AT_MOST, CHANGES_WITHIN, ChangeAdmission, changes_are_parked, too_many_changes};
pub use claim::{ClaimError, Claimed, Position};
pub use clock::PulledIn;
pub use complaint::Complaint;
pub use complete::Report;
pub use connect::{Pools, STATEMENT_TIMEOUT, direct_target, probe};
pub use connections::{
    Access, ConnectCause, ConnectError, Connected, Connections, Era, OpenTransaction, Outage, READ_ONLY, ReadOnlyCause,
    ReadOnlyServer, SESSION_SETTINGS, Target, guarded,
};
pub use daemons::{Daemon, DaemonId};
pub use differences::{Difference, Ids, Peer, Shared, list};
pub use drain::Drained;
pub use error::{QueueError, Refusal};
pub use explain::{Abandoned, CopyStory, FailureStory, Holder, State, Story, UnsettledStory};
pub use failing::{FailingCopy, FailingCount};
pub use foresee::{Foreseen, foresee};
pub use forget::Forgotten;
pub use functions::SETTINGS as FUNCTION_SETTINGS;
pub use import::{
    Bound, Compares, HELD_FOR as IMPORT_HELD_FOR, ImportPlan, ImportRow, ImportTally, KeyIndex, MappedColumn,
    MayImport, Odd, OfReplica, Sampled, SourceColumn, SourceTable, TableKind, TimeKind, TimesSeen, Unit,
};
pub use inbox::Moved;
pub use inspect::inspect;
pub use lanes::{Derived, lane_index};
pub use listen::{ListenConnection, ListenError, Probing};
pub use log::{LOG_PAGE, LogHead, LogMark, LogPart, LogStatus, LoggedEvent};
pub use look::Holdings;
pub use migrate::{MigrateError, Migrated, migrate};
pub use notice::{Channels, Heard, Notice};
pub use orphans::{Condemned, LOOK_EVERY, Looked};
pub use pause::{Pause, Resumed};
pub use plan::{Flaw, Planned};
pub use promote::{Primary, Promoted};
pub use reclaim::Reclaimed;
pub use register::{NewObject, Registered};
pub use remove::{Obstacle, Removal, Removed, remove};
pub use replicas::{Admission, CLEAR, Draining, Former, LOOK_HOLDS, ReplicaRow};
pub use resets::{Move, Reset, ResetOf, ResetPage};
pub use retention::{LogDuty, Retention};
pub use retry::Which;
pub use rules::{
    Applied, Change, Expected, Judged, Pace, Progress, RulesChanged, RulesState, Scope, Sizes, fingerprint,
};
pub use scan::{
    KeyRange, ListedKey, ListedKeys, PageAnswer, ScanArguments, ScanCounts, ScanHolder, ScanId, ScanPage, ScanPart,
    UnfinishedScan,
};
pub use seek::Sought;
pub use sequences::BehindSequence;
pub use sleep::SleepsFor;
pub use status::{BreakerStatus, DaemonStatus, Figures, NotKnown, ReplicaStatus, ResetStatus, Status};
pub use take_back::{Again, Refuted, TakeBack};
pub use trial::Pick;
pub use turn::{PARKED_BY_HAND, Turned};
pub use twins::Twin;
pub use unsettled::{TakenUnsettled, UnsettledAt, UnsettledWrite, Unverified};
pub use uploads::{Intent, TakenPart, UnfinishedUpload};
pub use verify::{Range, RecordedObject, RecordedPage, Sample};
pub use version::{SCHEMA_VERSION, SchemaFit};

use apart::RefusedRows;
use copyhold_core::domain::{EventKinds, ReplicaName, SchemaName, micros};

/// A copy with this time in its `due` column is parked.
pub const PARKED: i64 = 9_000_000_000_000_000_000;

/// The queue as one daemon sees it: a pool and the statements for its replicas,
/// built once from checked and quoted identifiers.
#[derive(Debug, Clone)]
pub struct Queue {
    pool: Connections,
    schema: SchemaName,
    replicas: Vec<ReplicaName>,
    /// The events that it writes.
    kinds: EventKinds,
    statements: Statements,
    refused: RefusedRows,
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
    reclaim_these: SqlStr,
    unclaim: SqlStr,
    take_unsettled: SqlStr,
    begin_generation: SqlStr,
    /// One per replica, in their order.
    look_at_uploads: Vec<SqlStr>,
    log_tail: SqlStr,
    log_page: SqlStr,
}

/// A statement of the hot paths.
#[derive(Debug, Clone)]
pub struct Hot {
    pub name: String,
    pub sql: String,
    /// A function runs it, under [`FUNCTION_SETTINGS`]; or a transaction that sets them.
    pub by_function: bool,
}

impl Hot {
    fn run_by(function: functions::Function) -> Self {
        Self { name: function.name, sql: function.statement, by_function: true }
    }
}

impl Queue {
    /// Builds the statements for `replicas`; nothing is sent yet. Events of all kinds are written.
    #[must_use]
    pub fn new(pool: impl Into<Connections>, schema: SchemaName, replicas: Vec<ReplicaName>) -> Self {
        Self::telling(pool, schema, replicas, EventKinds::all())
    }

    /// The same, with events of these kinds.
    #[must_use]
    pub fn telling(
        pool: impl Into<Connections>,
        schema: SchemaName,
        replicas: Vec<ReplicaName>,
        kinds: EventKinds,
    ) -> Self {
        let statements = Statements {
            claims: replicas.iter().map(|lane| function_calls::call_claim(&schema, lane)).collect(),
            fresh_claims: replicas.iter().map(|lane| function_calls::call_fresh_claim(&schema, lane)).collect(),
            claim_these: claim::statements::these(&schema, &replicas),
            next_due: function_calls::call_next_due(&schema),
            seeks: replicas.iter().map(|lane| function_calls::call_seek(&schema, lane)).collect(),
            renew: renew::statement(&schema),
            complete: complete::statement(&schema, &replicas, &kinds),
            release: release::statement(&schema),
            reclaim: reclaim::statement(&schema, &replicas, &kinds, reclaim::Of::All),
            reclaim_these: reclaim::statement(&schema, &replicas, &kinds, reclaim::Of::These),
            unclaim: function_calls::call_unclaim(&schema),
            take_unsettled: unsettled::take(&schema, &replicas),
            begin_generation: anew::call(&schema, &kinds),
            look_at_uploads: replicas.iter().map(|replica| orphans::statement(&schema, replica)).collect(),
            log_tail: log::tail_statement(&schema),
            log_page: log::page_statement(&schema),
        };
        Self { pool: pool.into(), schema, replicas, kinds, statements, refused: RefusedRows::default() }
    }

    /// The same over other connections.
    #[must_use]
    pub fn over(&self, pool: Connections) -> Self {
        Self { pool, ..self.clone() }
    }

    /// The replicas whose columns the statements name.
    #[must_use]
    pub fn replicas(&self) -> &[ReplicaName] {
        &self.replicas
    }

    /// The statements of the hot paths by name, for whoever wants to see their plans. Those that a function runs are
    /// planned under its [`FUNCTION_SETTINGS`].
    #[must_use]
    pub fn statements(&self) -> Vec<Hot> {
        let s = &self.statements;
        let (schema, replicas) = (&self.schema, &self.replicas);
        let each = replicas.iter().flat_map(|lane| functions::of_lane(schema, replicas, lane).map(Hot::run_by));
        let others = [
            ("claim_these", &s.claim_these),
            ("renew", &s.renew),
            ("complete", &s.complete),
            ("release", &s.release),
            ("reclaim", &s.reclaim),
            ("take_unsettled", &s.take_unsettled),
        ];
        let looks = replicas.iter().zip(&s.look_at_uploads).map(|(r, sql)| (format!("look_at_uploads_{r}"), sql));
        let others = others.map(|(name, sql)| (name.to_owned(), sql)).into_iter().chain(looks);
        let others = others.map(|(name, sql)| Hot { name, sql: sql.as_str().into(), by_function: false });
        let without_lane = functions::of_all_lanes(schema, replicas).map(Hot::run_by);
        let take_back = Hot { name: "take_back".into(), sql: self.take_back_statement(), by_function: false };
        each.chain(without_lane).chain(others).chain(self.page_statements()).chain([take_back]).collect()
    }

    /// A transaction for one statement that no function runs, with the planner settings of those, and with `also`.
    async fn begin_planned(&self, also: &[(&str, &str)]) -> Result<OpenTransaction, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let settings =
            FUNCTION_SETTINGS.iter().chain(also).map(|(name, value)| format!("SET LOCAL {name} = '{value}'"));
        let settings = settings.collect::<Vec<_>>().join("; ");
        sqlx::raw_sql(built(settings)).execute(&mut *transaction).await?;
        Ok(transaction)
    }

    /// One round trip, to see whether PostgreSQL answers, and whether it can be written to.
    pub async fn probe(&self) -> Result<Option<ReadOnlyServer>, QueueError> {
        probe(&self.pool).await
    }

    /// Whether this program can work with the schema that is there.
    pub async fn schema_fit(&self) -> Result<SchemaFit, QueueError> {
        SchemaFit::of(&self.pool, &self.schema).await
    }

    /// The server that was found to be read-only last, if the last one that was asked was.
    #[must_use]
    pub fn read_only_server(&self) -> Option<ReadOnlyServer> {
        self.pool.target().read_only()
    }

    /// What the process knows of an outage of PostgreSQL.
    #[must_use]
    pub fn outage(&self) -> &Outage {
        &self.pool.target().outage
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
