//! The result of an import, as one document.

mod text;

use std::{collections::BTreeMap, time::Duration};

use copyhold_core::domain::ReplicaName;
use copyhold_db::{
    import::{ImportAnomaly, ImportPlan, ImportTally},
    replica::ReplicaRow,
};
use serde::Serialize;

use crate::{config::Config, import::ImportEnded};

/// The result of a run, as one document. Keys are unescaped.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    table: String,
    outcome: Outcome,
    dry_run: bool,
    /// Rows of the table, those of earlier runs of the same import included; as all counts.
    read: u64,
    /// Of them, rows that an earlier run had read.
    read_before: u64,
    imported: u64,
    /// Left as they are.
    already_registered: u64,
    /// Rows and objects that were not registered, and should be.
    left_out: u64,
    replicas: Vec<ReplicaReport>,
    oddities: BTreeMap<&'static str, OddValue>,
    seconds: f64,
    rows_per_second: f64,
    #[serde(skip)]
    next: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Complete,
    /// The same command continues.
    EndedEarly,
}

/// The imported objects at one replica, by state.
#[derive(Debug, Serialize)]
struct ReplicaReport {
    replica: String,
    primary: bool,
    /// `None`: there is none, so that all objects are wanted there.
    column: Option<String>,
    recorded: u64,
    wanted: u64,
    not_wanted: u64,
}

#[derive(Debug, Serialize)]
struct OddValue {
    count: u64,
    /// 200 characters of it at most.
    example_key: Option<String>,
}

impl Report {
    pub(super) fn new(
        plan: &ImportPlan,
        ended: &ImportEnded,
        config: &Config,
        rows: &[ReplicaRow],
        primary: &ReplicaName,
        daemon_is_alive: bool,
    ) -> Self {
        let tally = &ended.tally;
        let oddity = |odd: ImportAnomaly| {
            let (count, example) = tally.odd(odd);
            (count > 0).then(|| (odd.as_str(), OddValue { count, example_key: example.map(str::to_owned) }))
        };
        Self {
            table: plan.table.name.clone(),
            outcome: if ended.complete { Outcome::Complete } else { Outcome::EndedEarly },
            dry_run: false,
            read: tally.read(),
            read_before: ended.before,
            imported: tally.imported(),
            already_registered: tally.registered(),
            left_out: tally.left_out(),
            replicas: rows.iter().map(|row| of_replica(plan, tally, &row.name, primary)).collect(),
            oddities: ImportAnomaly::ALL.into_iter().filter_map(oddity).collect(),
            seconds: 0.0,
            rows_per_second: 0.0,
            next: next(plan, ended, config, rows, primary, daemon_is_alive),
        }
    }

    pub(super) fn took(self, took: Duration) -> Self {
        let seconds = took.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "to be read by people")]
        let rate = self.read.saturating_sub(self.read_before) as f64 / seconds.max(0.001);
        Self { seconds: (seconds * 1000.0).round() / 1000.0, rows_per_second: rate.round(), ..self }
    }

    pub(super) fn dry_run(self, dry_run: bool) -> Self {
        Self { dry_run, ..self }
    }
}

fn of_replica(plan: &ImportPlan, tally: &ImportTally, replica: &ReplicaName, primary: &ReplicaName) -> ReplicaReport {
    let column = plan.columns.iter().find(|column| column.replica == *replica).map(|column| column.column.clone());
    let of = tally.of(replica);
    ReplicaReport {
        replica: replica.to_string(),
        primary: primary == replica,
        column,
        recorded: of.recorded,
        wanted: of.wanted,
        not_wanted: of.not_wanted,
    }
}

/// What is to be done after it.
fn next(
    plan: &ImportPlan,
    ended: &ImportEnded,
    config: &Config,
    rows: &[ReplicaRow],
    primary: &ReplicaName,
    daemon_is_alive: bool,
) -> Vec<String> {
    let tally = &ended.tally;
    let mut next = Vec::new();
    if ended.complete && tally.odd(ImportAnomaly::Nowhere).0 > 0 {
        next.push(format!(
            "the same with --assume-primary      registers those that are recorded nowhere, if {primary} has them"
        ));
    }
    for row in rows.iter().filter(|row| row.name != *primary && row.admission.is_none()) {
        let undecided = config.replica(&row.name).is_some_and(|replica| replica.existing.is_none());
        if undecided && tally.of(&row.name).recorded > 0 {
            next.push(format!(
                "existing = \"adopt\"                  in [replicas.{0}]: {0} holds copies, and is not written to without it",
                row.name
            ));
        }
    }
    if !daemon_is_alive {
        next.push("copyhold run                        copies what is missing: no daemon is alive".into());
    }
    next.push("copyhold status                     shows how far that is".into());
    if plan.columns.iter().any(|column| tally.of(&column.replica).recorded > 0) {
        next.push(
            "copyhold verify --sample 1%         reads recorded copies again, of objects that a daemon has read by then".into(),
        );
    }
    next
}
