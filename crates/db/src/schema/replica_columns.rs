//! Adds what the configuration requires beyond the fixed tables: two columns and two indexes per replica, and the
//! functions and views that name them. It removes nothing: a replica that the configuration no longer names keeps its
//! columns.

use std::fmt::Write as _;

use copyhold_core::domain::{EventKind, ReplicaName, SchemaName};
use sqlx::PgConnection;
use tracing::{info, warn};

use super::{
    ddl::{execute, execute_politely},
    functions, register_functions,
};
use crate::{
    error::DatabaseError,
    log::append,
    settings::SchemaPlan,
    sql::{PARKED, trusted_sql},
};

/// What was added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemaAdditions {
    pub columns_added: Vec<ReplicaName>,
    pub indexes_built: Vec<String>,
    /// Added replicas that no existing object is wanted at yet, because rules are in force.
    pub unfilled: Vec<ReplicaName>,
}

/// Creates columns, lanes and functions for the replicas of the configuration and for every replica that the schema has
/// ever had. `newer`: the schema is newer than this program.
pub(crate) async fn derive(
    connection: &mut PgConnection,
    plan: &SchemaPlan,
    newer: bool,
) -> Result<SchemaAdditions, DatabaseError> {
    let schema = &plan.database.schema;
    let wanted: Vec<ReplicaName> = plan.names().cloned().collect();
    let mut derived = SchemaAdditions::default();
    for replica in &wanted {
        if !has_columns(connection, schema, replica).await? {
            derived.columns_added.push(replica.clone());
        }
    }
    if !derived.columns_added.is_empty() {
        // Rules decide about the new replica too: they name it, or leave it out.
        if !plan.rules.is_empty() {
            derived.unfilled.clone_from(&derived.columns_added);
        }
        let mut known = known_replicas(connection, schema).await?;
        known.extend(derived.columns_added.iter().filter(|r| !known.contains(r)).cloned().collect::<Vec<_>>());
        let functions = if newer { String::new() } else { register_functions::all(schema, &known) };
        add_columns(connection, plan, &derived.columns_added, &functions).await?;
    }
    enter_replicas(connection, schema, &wanted, &plan.primary).await?;
    let all = known_replicas(connection, schema).await?;
    // Before the lanes are built, which may take hours: objects registered meanwhile follow the rules too.
    if !newer {
        execute(connection, register_functions::all(schema, &all)).await?;
    }
    for replica in &all {
        for (name, definition) in indexes(replica) {
            if build_index(connection, schema, &name, &definition).await? {
                derived.indexes_built.push(name);
            }
        }
    }
    // Only a newer program can create its own functions and views anew.
    if newer {
        warn!("The schema was made by a newer copyhold: run its `copyhold migrate` as well if a replica was added");
        return Ok(derived);
    }
    // Replacing a function in use needs no lock that others wait for. Replacing a view needs an exclusive one, and a
    // count would queue behind another session that has the view open.
    let view = format!("{}.backlog_exact", schema.quoted());
    execute_politely(connection, &view, &crate::stats::backlog::exact_view(schema, &all)).await?;
    // The lanes exist: without them, no setting would keep a claim from reading the whole table.
    execute(connection, functions::create_all(schema, &all)).await?;
    Ok(derived)
}

/// The name of the lane's index: a good plan of a claim scans it.
#[must_use]
pub fn lane_index(replica: &ReplicaName) -> String {
    format!("object_copies_{replica}_lane")
}

/// It ends in id and not in the key: a quarter of the size, and a claim reads neighbouring rows.
pub(crate) fn lane_definition(replica: &ReplicaName) -> String {
    let (copy, due) = (replica.column(), replica.due_column());
    format!("({due}, id) WHERE {copy} IS NULL AND {due} < {PARKED} AND lock IS NULL")
}

pub(crate) async fn has_columns(
    connection: &mut PgConnection,
    schema: &SchemaName,
    replica: &ReplicaName,
) -> Result<bool, DatabaseError> {
    sqlx::query_scalar(
        "-- schema::replica_columns
SELECT count(*) = 2 FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = ANY ($2) AND NOT attisdropped",
    )
    .bind(format!("{}.object_copies", schema.quoted()))
    .bind(vec![replica.to_string(), format!("due_{replica}")])
    .fetch_one(connection)
    .await
    .map_err(DatabaseError::database("schema::replica_columns"))
}

/// Instant on any size: the default 0 of old rows lives in the catalogue, and makes all of them due in order of
/// arrival. With rules in force the default is NULL, and no copy is wanted until the rules are applied.
/// The same transaction creates the functions that register objects anew: functions without the new column would leave
/// it to its default, which wants every copy.
async fn add_columns(
    connection: &mut PgConnection,
    plan: &SchemaPlan,
    replicas: &[ReplicaName],
    functions: &str,
) -> Result<(), DatabaseError> {
    let schema = plan.database.schema.quoted();
    let table = format!("{schema}.object_copies");
    let by_rule = !plan.rules.is_empty();
    let old_rows = if by_rule { "" } else { " DEFAULT 0" };
    let add = |replica: &ReplicaName| {
        let (copy, due) = (replica.column(), replica.due_column());
        // One of them may exist: the other was dropped by hand.
        format!(
            "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {copy} bigint, ADD COLUMN IF NOT EXISTS {due} bigint{old_rows};
         ALTER TABLE {table} ALTER COLUMN {due} SET DEFAULT {schema}.now_utc_micro_seconds();
         COMMENT ON COLUMN {table}.{copy} IS
             'µs since the epoch at which the copy of this generation was verified at {replica}; NULL: not recorded.';
         COMMENT ON COLUMN {table}.{due} IS
             'NULL: no copy is wanted at {replica}; {PARKED}: parked; else µs before which it is not tried.';
         "
        )
    };
    let mut sql: String = replicas.iter().map(add).collect();
    if by_rule {
        let unnamed = replicas.iter().filter(|r| !plan.rules.iter().any(|rule| rule.replicas.contains(r)));
        let unnamed: Vec<_> = unnamed.map(|r| format!("'{r}'")).collect();
        write!(
            sql,
            "UPDATE {schema}.rules_state
            SET version = version + 1, changed_at = {schema}.now_utc_micro_seconds(),
                newcomers = newcomers || ARRAY[{}]::text[],
                applied = CASE WHEN EXISTS (SELECT FROM {table}) THEN applied ELSE version + 1 END;
         ",
            unnamed.join(", ")
        )
        .expect("writing to a String cannot fail");
    }
    execute_politely(connection, &table, &format!("{sql}{functions}")).await?;
    for replica in replicas {
        info!("Added the columns of replica {replica}");
    }
    Ok(())
}

async fn enter_replicas(
    connection: &mut PgConnection,
    schema: &SchemaName,
    wanted: &[ReplicaName],
    primary: &ReplicaName,
) -> Result<(), DatabaseError> {
    let table = format!("{}.replicas", schema.quoted());
    let added = format!("{} FROM entered", append::event(EventKind::ReplicaAdded, "'replica', name"));
    let insert = trusted_sql(format!(
        "-- schema::replica_columns
WITH entered AS (
    INSERT INTO {table} (name) SELECT unnest($1::text[]) ON CONFLICT (name) DO NOTHING RETURNING name
),
{}
SELECT FROM entered CROSS JOIN logged",
        append::logged(&schema.quoted(), &added, &[])
    ));
    let names: Vec<_> = wanted.iter().map(ReplicaName::as_str).collect();
    sqlx::query(insert)
        .bind(names)
        .execute(&mut *connection)
        .await
        .map_err(DatabaseError::database("schema::replica_columns"))?;
    let fill = trusted_sql(format!(
        "-- schema::replica_columns
UPDATE {table} SET primary_since = {}.now_utc_micro_seconds()
WHERE name = $1 AND NOT EXISTS (SELECT FROM {table} WHERE primary_since IS NOT NULL)",
        schema.quoted()
    ));
    sqlx::query(fill)
        .bind(primary.as_str())
        .execute(connection)
        .await
        .map_err(DatabaseError::database("schema::replica_columns"))?;
    Ok(())
}

pub(crate) async fn known_replicas(
    connection: &mut PgConnection,
    schema: &SchemaName,
) -> Result<Vec<ReplicaName>, DatabaseError> {
    let sql =
        trusted_sql(format!("-- schema::replica_columns\nSELECT name FROM {}.replicas ORDER BY name", schema.quoted()));
    let names: Vec<String> = sqlx::query_scalar(sql)
        .fetch_all(connection)
        .await
        .map_err(DatabaseError::database("schema::replica_columns"))?;
    let name = |n: String| {
        ReplicaName::new(&n).map_err(|e| DatabaseError::Inconsistent {
            statement: "schema::replica_columns",
            what: format!("replica \"{n}\": {e}"),
        })
    };
    names.into_iter().map(name).collect()
}

fn indexes(replica: &ReplicaName) -> [(String, String); 2] {
    let (copy, due) = (replica.column(), replica.due_column());
    let parked = format!("(id) WHERE {copy} IS NULL AND {due} = {PARKED}");
    [(lane_index(replica), lane_definition(replica)), (format!("object_copies_{replica}_parked"), parked)]
}

/// Whether an index has the expected definition. PostgreSQL writes it with parentheses, quotes and casts of its own.
pub(crate) fn is_defined_as(found: &str, wanted: &str) -> bool {
    let bare = |text: &str| text.replace("::bigint", "").replace(['(', ')', '"', '\'', ' '], "");
    bare(found).ends_with(&bare(wanted))
}

/// The state of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IndexState {
    Good,
    Absent,
    /// Left by an interrupted build.
    HalfBuilt,
    /// Its definition is another.
    Other,
}

/// A replica's indexes and their states.
pub(crate) async fn standing(
    connection: &mut PgConnection,
    schema: &SchemaName,
    replica: &ReplicaName,
) -> Result<Vec<(String, IndexState)>, DatabaseError> {
    let mut all = Vec::new();
    for (name, definition) in indexes(replica) {
        let standing = index_standing(connection, schema, &name, &definition).await?;
        all.push((name, standing));
    }
    Ok(all)
}

async fn index_standing(
    connection: &mut PgConnection,
    schema: &SchemaName,
    name: &str,
    definition: &str,
) -> Result<IndexState, DatabaseError> {
    let sql = "-- schema::replica_columns
SELECT indisvalid, pg_get_indexdef(indexrelid) FROM pg_index WHERE indexrelid = to_regclass($1)";
    let found: Option<(bool, String)> = sqlx::query_as(sql)
        .bind(format!("{}.\"{name}\"", schema.quoted()))
        .fetch_optional(connection)
        .await
        .map_err(DatabaseError::database("schema::replica_columns"))?;
    Ok(match found {
        Some((true, found)) if is_defined_as(&found, definition) => IndexState::Good,
        Some((true, _)) => IndexState::Other,
        Some((false, _)) => IndexState::HalfBuilt,
        None => IndexState::Absent,
    })
}

/// Builds the index concurrently. An invalid index of an interrupted build, or one with another definition, is dropped
/// first: IF NOT EXISTS would skip it and leave it so for ever.
pub(crate) async fn build_index(
    connection: &mut PgConnection,
    schema: &SchemaName,
    name: &str,
    definition: &str,
) -> Result<bool, DatabaseError> {
    let index = format!("{}.\"{name}\"", schema.quoted());
    let why = match index_standing(connection, schema, name, definition).await? {
        IndexState::Good => return Ok(false),
        IndexState::Absent => None,
        IndexState::HalfBuilt => Some("was left half-built by an earlier migration"),
        IndexState::Other => Some("is not what it should be"),
    };
    // lock_timeout would also end the build's wait for old snapshots, and leave the index invalid.
    execute(connection, "SET lock_timeout = 0".into()).await?;
    if let Some(why) = why {
        info!("Index {name} {why}, building it again");
        execute(connection, format!("DROP INDEX CONCURRENTLY {index}")).await?;
    }
    let table = format!("{}.object_copies", schema.quoted());
    execute(connection, format!("CREATE INDEX CONCURRENTLY \"{name}\" ON {table} {definition}")).await?;
    info!("Built index {name}");
    Ok(true)
}
