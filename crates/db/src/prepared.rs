//! Builds the statements of the hot paths once per process, and shows them by name.
//!
//! It stands above all subjects, because it asks each of them for its statement.

use copyhold_core::domain::{EventKinds, ReplicaName, SchemaName};

use crate::{
    connections::Connections,
    handle::{Database, HotStatement, Shared, Statements},
    lease, log,
    schema::functions,
    split_batch::RefusedRows,
};

impl HotStatement {
    fn run_by(function: functions::Function) -> Self {
        Self { name: function.name, sql: function.statement, by_function: true }
    }
}

impl Database {
    /// Builds the statements for `replicas`; nothing is sent yet. Events of all kinds are written.
    #[must_use]
    pub fn new(pool: impl Into<Connections>, schema: SchemaName, replicas: Vec<ReplicaName>) -> Self {
        Self::with_events(pool, schema, replicas, EventKinds::all())
    }

    /// As [`Self::new`], with events of these kinds.
    #[must_use]
    pub fn with_events(
        pool: impl Into<Connections>,
        schema: SchemaName,
        replicas: Vec<ReplicaName>,
        kinds: EventKinds,
    ) -> Self {
        let statements = Statements {
            claims: replicas.iter().map(|lane| lease::function_calls::call_claim(&schema, lane)).collect(),
            fresh_claims: replicas.iter().map(|lane| lease::function_calls::call_fresh_claim(&schema, lane)).collect(),
            claim_these: lease::claim::statements::these(&schema, &replicas),
            next_due: lease::function_calls::call_next_due(&schema),
            peeks: replicas.iter().map(|lane| lease::function_calls::call_seek(&schema, lane)).collect(),
            renew: lease::renew::statement(&schema),
            complete: lease::complete::statement(&schema, &replicas, &kinds),
            release: lease::release::statement(&schema),
            reclaim: lease::reclaim::statement(&schema, &replicas, &kinds, lease::reclaim::ReclaimScope::All),
            reclaim_these: lease::reclaim::statement(&schema, &replicas, &kinds, lease::reclaim::ReclaimScope::These),
            unclaim: lease::function_calls::call_unclaim(&schema),
            claim_unsettled: lease::unsettled::take(&schema, &replicas),
            begin_generation: lease::begin_generation::call(&schema, &kinds),
            check_uploads: replicas
                .iter()
                .map(|replica| lease::orphaned_multipart::statement(&schema, replica))
                .collect(),
            log_tail: log::read::tail_statement(&schema),
            log_page: log::read::page_statement(&schema),
        };
        let shared = Shared { schema, replicas, kinds, statements, refused: RefusedRows::default() };
        Self::from_parts(pool.into(), shared)
    }

    /// Returns the statements of the hot paths by name, for a check of their plans. A function's statement is planned
    /// under its [`PLANNER_SETTINGS`](crate::sql::PLANNER_SETTINGS).
    #[must_use]
    pub fn statements(&self) -> Vec<HotStatement> {
        let s = &self.statements;
        let (schema, replicas) = (&self.schema, &self.replicas);
        let each =
            replicas.iter().flat_map(|lane| functions::of_lane(schema, replicas, lane).map(HotStatement::run_by));
        let others = [
            ("claim_these", &s.claim_these),
            ("renew", &s.renew),
            ("complete", &s.complete),
            ("release", &s.release),
            ("reclaim", &s.reclaim),
            ("claim_unsettled", &s.claim_unsettled),
        ];
        let looks = replicas.iter().zip(&s.check_uploads).map(|(r, sql)| (format!("check_uploads_{r}"), sql));
        let others = others.map(|(name, sql)| (name.to_owned(), sql)).into_iter().chain(looks);
        let others = others.map(|(name, sql)| HotStatement { name, sql: sql.as_str().into(), by_function: false });
        let without_lane = functions::of_all_lanes(schema, replicas).map(HotStatement::run_by);
        let revoke = HotStatement { name: "revoke".into(), sql: self.revoke_statement(), by_function: false };
        each.chain(without_lane).chain(others).chain(self.page_statements()).chain([revoke]).collect()
    }
}
