//! Checks a table before its first row is imported, and reports all that is wrong at once. Pure.

use copyhold_core::domain::ReplicaName;
use copyhold_db::{
    import::{
        ImportPlan, ImportRights, MappedColumn, SourceColumn, SourceTable, TableKind, TimeKind, TimeSample, TimeUnit,
    },
    replica::ReplicaRow,
};

use crate::config::did_you_mean;

/// What the operator states about the table.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Columns and the names of their replicas; `None`: those that are called alike.
    pub map: Option<Vec<(String, String)>>,
    pub unit: TimeUnit,
    pub assume_primary: bool,
}

/// What the table is checked against.
#[derive(Debug)]
pub struct ImportContext<'a> {
    /// The schema of our own tables.
    pub schema: &'a str,
    /// Those of the configuration.
    pub replicas: &'a [ReplicaName],
    /// Those of the schema.
    pub rows: &'a [ReplicaRow],
    /// The one in force.
    pub primary: &'a ReplicaName,
    /// `None`: nothing is to be written.
    pub may: Option<&'a ImportRights>,
}

/// Returns how to import the table, or all obstacles.
pub fn check(
    table: SourceTable,
    options: &ImportOptions,
    context: &ImportContext<'_>,
) -> Result<ImportPlan, Vec<String>> {
    if let Some(why) = no_table(&table, context) {
        return Err(vec![why]);
    }
    let mut problems = Vec::new();
    if let Some(may) = context.may.filter(|may| !may.may) {
        problems.push(format!(
            "the role \"{}\" may not register objects for others, the daemon's by intent not: name the schema's owner in \
             COPYHOLD_DATABASE__URL for this command",
            may.role
        ));
    }
    problems.extend(key_problem(&table));
    let columns = columns(&table, options, context, &mut problems);
    let assume = options.assume_primary.then(|| context.primary.clone());
    if assume.is_none() && !columns.is_empty() && !columns.iter().any(|c| c.replica == *context.primary) {
        problems.push(format!(
            "no column stands for {0}, the primary in force: --map COLUMN={0} names it; with --assume-primary {0} is taken \
             to have every object of the table",
            context.primary
        ));
    }
    let spare = |name: &str| {
        let column = table.column(name).filter(|column| columns.iter().all(|c| c.column != column.quoted))?;
        Some((column, time_kind(column)?))
    };
    let (lock, attempt) = (spare("lock"), spare("last_attempt"));
    problems.extend(may_not_read(&table, &columns, [lock, attempt].into_iter().flatten().map(|(column, _)| column)));
    let order = table.key_index().cloned();
    if order.is_none() && table.column("object_key").is_some() {
        let there: Vec<_> = table.indexes.iter().map(|index| index.name.as_str()).collect();
        let but = match there.as_slice() {
            [] => String::new(),
            names => format!(" ({} is partial, or was left half-built)", names.join(", ")),
        };
        problems.push(format!(
            "no index of {0} begins with object_key{but}, so that each batch would read all of it: \
             CREATE INDEX CONCURRENTLY ON {0} (object_key)",
            table.name
        ));
    }
    let (lock, last_attempt) =
        (lock.map(|(column, _)| column.quoted.clone()), attempt.map(|(column, kind)| (column.quoted.clone(), kind)));
    match order.filter(|_| problems.is_empty()) {
        Some(order) => {
            let names = context.rows.iter().map(|row| row.name.clone());
            let others = names.filter(|name| columns.iter().all(|c| c.replica != *name)).collect();
            Ok(ImportPlan { table, order, columns, others, lock, last_attempt, unit: options.unit, assume })
        }
        None => Err(problems),
    }
}

/// Why nothing else need be looked at.
fn no_table(table: &SourceTable, context: &ImportContext<'_>) -> Option<String> {
    let name = &table.name;
    if table.schema == context.schema {
        return Some(format!("{name} is in Copyhold's own schema: name the other program's table"));
    }
    let what = match table.kind {
        TableKind::Table if table.has_heirs => {
            return Some(format!(
                "other tables inherit from {name}, and its index does not know their rows: import each by itself"
            ));
        }
        TableKind::Table | TableKind::Partitioned => {
            return table.row_security.then(|| {
                format!("row security decides which rows of {name} this role sees: name one that sees all, such as its owner")
            });
        }
        TableKind::View => "a view",
        TableKind::MaterializedView => "a materialized view",
        TableKind::ForeignTable => "a foreign table",
        TableKind::Other => "no table",
    };
    Some(format!("{name} is {what}: rows are read in the order of an index; name the table that they are in"))
}

fn key_problem(table: &SourceTable) -> Option<String> {
    let name = &table.name;
    match table.column("object_key") {
        None => {
            let names = table.columns.iter().map(|c| c.name.as_str());
            let meant = did_you_mean("object_key", names.clone()).map(|found| {
                format!(": ALTER TABLE {name} RENAME COLUMN {found} TO object_key, or copy keys and times into a table of this shape")
            });
            let has = || format!("; its columns are {}", names.collect::<Vec<_>>().join(", "));
            Some(format!("{name} has no column object_key{}", meant.unwrap_or_else(has)))
        }
        Some(key) if !["text", "character varying"].contains(&key.of.as_str()) => {
            Some(format!("{name}.object_key is {}: keys are text, or character varying", key.of))
        }
        Some(_) => None,
    }
}

/// Which column belongs to which replica.
fn columns(
    table: &SourceTable,
    options: &ImportOptions,
    context: &ImportContext<'_>,
    problems: &mut Vec<String>,
) -> Vec<MappedColumn> {
    let pairs: Vec<(String, ReplicaName)> = match &options.map {
        None => {
            let alike = |r: &&ReplicaName| table.column(r.as_str()).is_some();
            context.replicas.iter().filter(alike).map(|r| (r.to_string(), r.clone())).collect()
        }
        Some(pairs) => {
            pairs.iter().filter_map(|(column, name)| Some((column.clone(), known(name, context, problems)?))).collect()
        }
    };
    if pairs.is_empty() && problems.is_empty() {
        let names: Vec<_> = context.replicas.iter().map(ReplicaName::as_str).collect();
        problems.push(format!(
            "no column of {} is called as a replica ({}): --map COLUMN=REPLICA,… says what stands for what",
            table.name,
            names.join(", ")
        ));
    }
    let mut columns: Vec<MappedColumn> = Vec::new();
    for (name, replica) in pairs {
        if columns.iter().any(|c| c.replica == replica) {
            problems.push(format!("--map: {replica} is named twice"));
            continue;
        }
        if !context.rows.iter().any(|row| row.name == replica) {
            problems.push(format!("the database does not know replica {replica} yet; run `copyhold migrate`"));
        }
        let Some(column) = table.column(&name) else {
            let names = table.columns.iter().map(|c| c.name.as_str());
            let meant = did_you_mean(&name, names).map(|found| format!("; did you mean {found}?")).unwrap_or_default();
            problems.push(format!("{} has no column \"{}\"{meant}", table.name, name.escape_default()));
            continue;
        };
        let Some(kind) = time_kind(column) else {
            problems.push(format!(
                "{}.{} is {}: the time of a copy is bigint or timestamp with time zone",
                table.name, column.quoted, column.of
            ));
            continue;
        };
        if columns.iter().any(|c| c.column == column.quoted) {
            problems.push(format!("--map: column {} is named twice", column.quoted));
            continue;
        }
        let want = table.column(&format!("want_{name}"));
        if let Some(want) = want.filter(|want| want.of != "boolean") {
            problems
                .push(format!("{}.{} is {}: whether a copy is wanted is boolean", table.name, want.quoted, want.of));
        }
        columns.push(MappedColumn {
            replica,
            column: column.quoted.clone(),
            kind,
            want: want.map(|w| w.quoted.clone()),
        });
    }
    columns
}

/// The replica of this name.
fn known(name: &str, context: &ImportContext<'_>, problems: &mut Vec<String>) -> Option<ReplicaName> {
    let found = context.replicas.iter().find(|r| r.as_str() == name);
    if found.is_none() {
        let known: Vec<_> = context.replicas.iter().map(ReplicaName::as_str).collect();
        let todo = did_you_mean(name, known.iter().copied())
            .map_or_else(|| format!("the configuration has {}", known.join(", ")), |r| format!("did you mean {r}?"));
        problems.push(format!("--map: there is no replica \"{}\"; {todo}", name.escape_default()));
    }
    found.cloned()
}

fn time_kind(column: &SourceColumn) -> Option<TimeKind> {
    match column.of.as_str() {
        "bigint" => Some(TimeKind::Number),
        "timestamp with time zone" => Some(TimeKind::Timestamp),
        _ => None,
    }
}

fn may_not_read<'a>(
    table: &'a SourceTable,
    columns: &[MappedColumn],
    others: impl Iterator<Item = &'a SourceColumn>,
) -> Option<String> {
    let mapped = |c: &&SourceColumn| {
        c.name == "object_key" || columns.iter().any(|m| m.column == c.quoted || m.want.as_ref() == Some(&c.quoted))
    };
    let needed = table.columns.iter().filter(mapped).chain(others);
    let hidden: Vec<_> = needed.filter(|c| !c.may_read || !table.may_use_schema).map(|c| c.quoted.as_str()).collect();
    if hidden.is_empty() {
        return None;
    }
    let usage = if table.may_use_schema { "" } else { ", and GRANT USAGE ON its schema" };
    Some(format!("this role may not read {} of {1}: GRANT SELECT ON {1}{usage}", hidden.join(", "), table.name))
}

/// Compares the times in some of the rows with the stated unit.
#[must_use]
pub fn check_times(plan: &ImportPlan, sampled: &TimeSample, primary: &ReplicaName) -> Vec<String> {
    let mut problems = Vec::new();
    for (column, seen) in plan.columns.iter().zip(&sampled.columns) {
        let place = format!("{}.{}", plan.table.name, column.column);
        if let Some(looks_like) = seen.other_than(plan.unit).filter(|_| column.kind == TimeKind::Number) {
            let example = seen.example.map(|time| format!(", for example {time}")).unwrap_or_default();
            let todo = TimeUnit::ALL.into_iter().find(|unit| unit.in_words() == looks_like).map_or_else(
                || "no unit that can be imported".to_owned(),
                |unit| format!("--unit {} says so", unit.as_str()),
            );
            problems.push(format!(
                "{place} has times in {looks_like}, as it seems, and not in {}{example}: {todo}",
                plan.unit.in_words()
            ));
        }
        if seen.times == 0 && sampled.rows > 0 && column.replica == *primary && plan.assume.is_none() {
            problems.push(format!(
                "{place} has no time in any of {} rows that were looked at, and {primary} is the primary in force: if it has \
                 every object of the table, --assume-primary says so",
                sampled.rows
            ));
        }
    }
    problems
}
