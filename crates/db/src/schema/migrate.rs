//! `copyhold migrate`: the fixed tables, then what the configuration adds to them.
//!
//! Safe while daemons and the application run and while two migrate at once. Nothing here waits in PostgreSQL for
//! a lock that others queue behind: locks are tried for 30 ms and tried again, and the migration's own advisory lock
//! is polled from here, because a waiting statement holds a snapshot that CREATE INDEX CONCURRENTLY waits for.

use std::{borrow::Cow, time::Duration};

use copyhold_core::domain::SchemaName;
use sqlx::{
    Connection as _, PgConnection, SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};
use tracing::{info, warn};

use super::{
    ddl::execute,
    replica_columns::{self, SchemaAdditions},
    sequences::{self, BehindSequence},
    version::{SCHEMA_VERSION, SchemaFit},
};
use crate::{
    connections::pools::direct,
    error::DatabaseError,
    retry_while_down::jittered,
    rules::{self, RulesChanged},
    settings::SchemaPlan,
    sql::trusted_sql,
};

/// The version that each file makes of the schema. Versions 1 to 7 were seven files of development versions.
const MIGRATIONS: [(i64, &str, &str); 1] = [(8, "initial", include_str!("../../../../migrations/0001_initial.sql"))];
/// A schema of this version was made by the development versions' files, and is the one that the first file makes.
const SAME_AS_INITIAL: i32 = 7;

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("{0}")]
    Fit(SchemaFit),
    #[error("the database's encoding is {0}; keys are byte-exact UTF-8, so it must be UTF8: create another database")]
    Encoding(String),
    #[error(
        "the role \"{role}\" may not create in database \"{database}\": GRANT CREATE ON DATABASE \"{database}\" TO \"{role}\", or create the schema \"{schema}\" for it"
    )]
    MayNotCreate { role: String, database: String, schema: SchemaName },
    #[error(
        "the schema \"{schema}\" is at version {found}, of a development version that this copyhold cannot migrate; \
         first run `copyhold migrate` of the last build with schema version {SAME_AS_INITIAL} (commit 58e441b), then this one"
    )]
    TooOld { schema: SchemaName, found: i32 },
    #[error("{0}")]
    Fixed(sqlx::migrate::MigrateError),
}

impl From<sqlx::migrate::MigrateError> for MigrateError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        match error {
            // A refusal of PostgreSQL is reported as everywhere, with the remedy.
            sqlx::migrate::MigrateError::Execute(cause) | sqlx::migrate::MigrateError::ExecuteMigration(cause, _) => {
                Self::Database(DatabaseError::database("schema::migrate")(cause))
            }
            other => Self::Fixed(other),
        }
    }
}

/// What a migration found to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateResult {
    /// 0: there was no schema.
    pub from_version: i32,
    pub derived: SchemaAdditions,
    /// The configuration's rules were others than those in force, and are in force now.
    pub rules: Option<RulesChanged>,
    /// When [`SchemaAdditions::unfilled`] are filled, all objects are where the rules want them.
    pub filling_settles: bool,
}

/// Brings the schema to this program's version and the configuration's replicas. Idempotent.
pub async fn migrate(plan: impl Into<SchemaPlan>) -> Result<MigrateResult, MigrateError> {
    let plan = &plan.into();
    let mut connection = direct(&plan.database).await.map_err(DatabaseError::database("schema::migrate"))?;
    let schema = &plan.database.schema;
    alone(&mut connection, schema).await?;
    let migrated = migrate_alone(&mut connection, plan).await;
    // The session's end would free the lock as well; a failure here changes nothing that was done.
    let _ = connection.close().await;
    migrated
}

async fn migrate_alone(connection: &mut PgConnection, plan: &SchemaPlan) -> Result<MigrateResult, MigrateError> {
    let schema = &plan.database.schema;
    // CREATE INDEX CONCURRENTLY runs for as long as the table is large and as others' snapshots are old.
    execute(connection, "SET statement_timeout = 0".into()).await?;
    check_encoding(connection).await?;
    create_schema(connection, schema).await?;
    let from_version = fixed_tables(connection, schema).await?;
    let settled = rules::all_applied(connection, schema).await?;
    let changed = rules::put_in_force(connection, schema, &plan.rules).await?;
    let derived = replica_columns::derive(connection, plan, from_version > SCHEMA_VERSION).await?;
    if from_version <= SCHEMA_VERSION {
        let mended = sequences::mend_on(connection, schema).await?;
        if !mended.is_empty() {
            warn!(
                "Sequences were behind their tables, as after a switch-over by logical replication, and are set behind the \
                 numbers in use: {}",
                BehindSequence::list(&mended)
            );
        }
    }
    let filling_settles = settled && changed.is_none_or(|changed| !changed.unapplied);
    Ok(MigrateResult { from_version, derived, rules: changed, filling_settles })
}

/// Waits, without a statement that waits, until no other migration is at work.
pub(crate) async fn alone(connection: &mut PgConnection, schema: &SchemaName) -> Result<(), DatabaseError> {
    let mut logged = false;
    loop {
        let mine: bool = sqlx::query_scalar("-- schema::migrate\nSELECT pg_try_advisory_lock(hashtextextended($1, 0))")
            .bind(format!("{schema}:migrate"))
            .fetch_one(&mut *connection)
            .await
            .map_err(DatabaseError::database("schema::migrate"))?;
        if mine {
            return Ok(());
        }
        if !std::mem::replace(&mut logged, true) {
            info!("Another migration of this schema is at work, waiting for it to end");
        }
        tokio::time::sleep(jittered(Duration::from_millis(200))).await;
    }
}

async fn check_encoding(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let encoding: String = sqlx::query_scalar("-- schema::migrate\nSELECT current_setting('server_encoding')")
        .fetch_one(connection)
        .await
        .map_err(DatabaseError::database("schema::migrate"))?;
    if encoding == "UTF8" { Ok(()) } else { Err(MigrateError::Encoding(encoding)) }
}

/// CREATE SCHEMA asks for a right on the database even where the schema exists, so look first.
async fn create_schema(connection: &mut PgConnection, schema: &SchemaName) -> Result<(), MigrateError> {
    let (there, may, role, database): (bool, bool, String, String) = sqlx::query_as(
        "-- schema::migrate
SELECT to_regnamespace($1) IS NOT NULL, has_database_privilege(current_database(), 'CREATE'),
       current_user::text, current_database()::text",
    )
    .bind(schema.quoted())
    .fetch_one(&mut *connection)
    .await
    .map_err(DatabaseError::database("schema::migrate"))?;
    if there {
        return Ok(());
    }
    if !may {
        return Err(MigrateError::MayNotCreate { role, database, schema: schema.clone() });
    }
    Ok(execute(connection, format!("CREATE SCHEMA IF NOT EXISTS {}", schema.quoted())).await?)
}

/// Applies the migrations in `migrations/`; returns the version before.
async fn fixed_tables(connection: &mut PgConnection, schema: &SchemaName) -> Result<i32, MigrateError> {
    let before = version_before(connection, schema).await?;
    upgradable(schema, before)?;
    if before == SAME_AS_INITIAL {
        take_over(connection, schema).await?;
    }
    migrator(schema, &MIGRATIONS).run_direct(None, connection, false).await?;
    Ok(before)
}

/// Refuses a schema of a development version that the migrations do not start from. 0: there is no schema.
pub(super) fn upgradable(schema: &SchemaName, found: i32) -> Result<(), MigrateError> {
    if (1..SAME_AS_INITIAL).contains(&found) {
        Err(MigrateError::TooOld { schema: schema.clone(), found })
    } else {
        Ok(())
    }
}

/// Records the first migration as applied where the development versions' files have made the same schema. Idempotent:
/// after a crash between the two steps the next `migrate` repeats both. `oldest` stays, so that daemons of the
/// development version work on.
async fn take_over(connection: &mut PgConnection, schema: &SchemaName) -> Result<(), MigrateError> {
    migrator(schema, &MIGRATIONS[..1]).run_direct(None, &mut *connection, true).await?;
    let (table, first) = (format!("{}.schema_version", schema.quoted()), MIGRATIONS[0].0);
    let sql = format!("UPDATE {table} SET version = {first} WHERE version = {SAME_AS_INITIAL}");
    Ok(execute(connection, sql).await?)
}

fn migrator(schema: &SchemaName, migrations: &[(i64, &'static str, &'static str)]) -> Migrator {
    let mut migrator = Migrator::with_migrations(migrations.iter().map(|m| migration(schema, *m)).collect());
    migrator.dangerous_set_table_name(format!("{}._sqlx_migrations", schema.quoted()));
    // Ours is held; sqlx's waits inside PostgreSQL, which deadlocks with an index build of another migration.
    migrator.set_locking(false);
    // A newer program may have applied more; `version_before` has checked whether that is one too many.
    migrator.set_ignore_missing(true);
    migrator
}

async fn version_before(connection: &mut PgConnection, schema: &SchemaName) -> Result<i32, MigrateError> {
    let table = format!("{}.schema_version", schema.quoted());
    let query = |sql: String| sqlx::query_as(trusted_sql(sql));
    let known: (bool,) = query("-- schema::migrate\nSELECT to_regclass($1) IS NOT NULL".into())
        .bind(&table)
        .fetch_one(&mut *connection)
        .await
        .map_err(DatabaseError::database("schema::migrate"))?;
    if !known.0 {
        return Ok(0);
    }
    let (found, oldest): (i32, i32) =
        sqlx::query_as(trusted_sql(format!("-- schema::migrate\nSELECT version, oldest FROM {table}")))
            .fetch_one(connection)
            .await
            .map_err(DatabaseError::database("schema::migrate"))?;
    if oldest > SCHEMA_VERSION { Err(MigrateError::Fit(SchemaFit::TooNew { found, oldest })) } else { Ok(found) }
}

/// The checksum is the template's, so that it does not depend on what the schema is called.
fn migration(schema: &SchemaName, (version, description, template): (i64, &'static str, &'static str)) -> Migration {
    let sql = template.replace("{schema}", &schema.quoted()).replace("{channel}", schema.as_str());
    let mut migration =
        Migration::new(version, Cow::Borrowed(description), MigrationType::Simple, template.into_sql_str(), false);
    migration.sql = trusted_sql(sql);
    migration
}
