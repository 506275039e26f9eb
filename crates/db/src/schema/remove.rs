//! Removes a replica from the schema: its columns, its indexes, its functions, and its rows in side tables.
//! A later replica of the same name starts empty. Whether the replica is the only holder of an object can be decided
//! exactly only while no transaction writes. So an index of just these rows is built beforehand, and read in the
//! transaction that drops the columns, which holds the table's lock for some milliseconds.

use std::fmt;

use copyhold_core::domain::{EventKind, ObjectKey, ReplicaName, SchemaName};
use sqlx::{Connection as _, PgConnection};
use tracing::info;

use super::{
    ddl::{execute, execute_politely},
    functions,
    migrate::{MigrateError, alone as lock_migrations},
    register_functions, replica_columns,
    version::{SCHEMA_VERSION, SchemaFit},
};
use crate::{
    connections::pools::direct,
    error::{DatabaseError, key_of},
    handle::Database,
    lease::unsettled,
    log::append,
    settings::SchemaPlan,
    sql::{FENCE_RANDOM_BITS, trusted_sql},
    stats::{
        backlog,
        differences::{DaemonIds, list_daemons},
    },
    walk::holdings::alone,
};

const NAME: &str = "schema::remove";
/// The SQLSTATE that the transaction raises if an obstacle has appeared since the check.
const OBSTACLE: &str = "CPY01";
/// Rows of a side table that one statement deletes.
const PAGE: i64 = 1_000;

/// Why a replica cannot be removed yet, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemovalObstacle {
    /// It is the primary in force.
    Primary,
    NotDraining,
    /// These daemons live, and their configuration names it.
    Served(DaemonIds),
    /// The rules at these positions name it.
    Ruled(Vec<i32>),
    /// So many objects have no other copy.
    OnlyHolder {
        objects: i64,
        example: ObjectKey,
    },
    /// So many copies still have to be read again: a write of unknown outcome may arrive at them, or at this replica,
    /// which then belongs to no daemon.
    Unsettled {
        copies: i64,
        /// When the last of them is settled; 0 or less: they wait to be read.
        settled_in_us: i64,
    },
    /// PostgreSQL crashed lately, and claims may be lost with it: an unknown holder may still write to the replica, and
    /// to a later one of the same bucket.
    AfterCrash {
        settled_in_us: i64,
    },
    /// So many leases have expired and are not reclaimed yet: reclaiming them notes what their holders may have sent.
    NotSwept {
        leases: i64,
    },
}

/// A removed replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemovedReplica {
    /// Known unfinished multipart uploads: their parts are still in the bucket.
    pub uploads: u64,
}

/// The result of a removal.
#[derive(Debug)]
pub enum RemoveResult {
    Done(RemovedReplica),
    Prevented(Vec<RemovalObstacle>),
    /// The database has no such replica.
    Unknown,
}

impl RemovalObstacle {
    /// A message for the operator who wants to remove `replica`.
    #[must_use]
    pub fn says(&self, replica: &ReplicaName) -> String {
        struct Positions<'a>(&'a [i32]);
        impl fmt::Display for Positions<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
        }
        match self {
            Self::Primary => {
                format!("{replica} is the primary in force: `copyhold promote` another replica, then drain {replica}")
            }
            Self::NotDraining => format!("{replica} is not draining: `copyhold replica drain {replica}` first"),
            Self::Served(ids) => format!(
                "{} would go on using it: take [replicas.{replica}] out of the configuration of every daemon and restart them",
                list_daemons(ids)
            ),
            Self::Ruled(positions) => format!(
                "rule {} in force names it: take it out of [[rules]], then `copyhold migrate`",
                Positions(positions)
            ),
            Self::OnlyHolder { objects: 1, example } => format!(
                "it is the only holder of 1 object, \"{example}\": `copyhold explain` tells why there is no other copy"
            ),
            Self::OnlyHolder { objects, example } => format!(
                "it is the only holder of {objects} objects, \"{example}\" for one: `copyhold explain` tells why there is no \
                 other copy"
            ),
            Self::Unsettled { copies, settled_in_us } => format!(
                "{copies} copies elsewhere, or writes to it, are not settled: a write of unknown outcome may still arrive \
                 there. Try again {}",
                match settled_in_us.div_euclid(1_000_000) {
                    ..=0 => "when a daemon has read them".to_owned(),
                    seconds => format!("in {} s", seconds + 1),
                }
            ),
            Self::AfterCrash { settled_in_us } => format!(
                "PostgreSQL has crashed lately, and an unrecorded write to {replica} may still be under way. Try again in {} s",
                settled_in_us.div_euclid(1_000_000) + 1
            ),
            Self::NotSwept { leases } => format!(
                "{leases} leases have run out, or their daemons are gone, which may have written to it; a running daemon notes that within seconds, \
                 try again then"
            ),
        }
    }
}

impl Database {
    /// Returns the obstacles to removing the replica, except objects that it alone holds.
    pub async fn removal_obstacles(&self, replica: &ReplicaName) -> Result<Vec<RemovalObstacle>, DatabaseError> {
        let mut connection = self.pool.acquire().await.map_err(DatabaseError::database(NAME))?;
        let obstacles = obstacles(&mut connection, &self.schema, replica).await?;
        connection.give_back();
        Ok(obstacles)
    }
}

/// Removes a replica that the configuration no longer names. It may die at any point and be run again, beside another
/// removal and beside migrations: one runs at a time.
pub async fn remove(plan: impl Into<SchemaPlan>, replica: &ReplicaName) -> Result<RemoveResult, MigrateError> {
    let plan = &plan.into();
    let mut connection = direct(&plan.database).await.map_err(DatabaseError::database(NAME))?;
    lock_migrations(&mut connection, &plan.database.schema).await?;
    let removed = remove_alone(&mut connection, plan, replica).await;
    // The session's end would free the lock as well; a failure here changes nothing that was done.
    let _ = connection.close().await;
    removed
}

async fn remove_alone(
    connection: &mut PgConnection,
    plan: &SchemaPlan,
    replica: &ReplicaName,
) -> Result<RemoveResult, MigrateError> {
    let schema = &plan.database.schema;
    let (version, oldest): (i32, i32) = sqlx::query_as(trusted_sql(format!(
        "-- {NAME}\nSELECT version, oldest FROM {}.schema_version",
        schema.quoted()
    )))
    .fetch_one(&mut *connection)
    .await
    .map_err(DatabaseError::database(NAME))?;
    if version > SCHEMA_VERSION {
        // Only the program that has created its functions can create them anew.
        return Err(MigrateError::Fit(SchemaFit::TooNew { found: version, oldest }));
    }
    // The index takes as long as the table is large and as others' snapshots are old.
    execute(connection, "SET statement_timeout = 0; SET lock_timeout = 0".into()).await?;
    let all = replica_columns::known_replicas(connection, schema).await?;
    if !all.contains(replica) {
        return Ok(RemoveResult::Unknown);
    }
    let mut found = obstacles(connection, schema, replica).await?;
    if !found.is_empty() {
        return Ok(RemoveResult::Prevented(found));
    }
    let others: Vec<_> = all.into_iter().filter(|r| r != replica).collect();
    let index = only_index(replica);
    let definition = format!("(id) WHERE {}", alone(replica, &others));
    replica_columns::build_index(connection, schema, &index, &definition).await?;
    found.extend(only_holder(connection, schema, replica, &others).await?);
    if found.is_empty() {
        forget_failures(connection, schema, replica).await?;
        let uploads = forget_uploads(connection, schema, replica).await?;
        match drop_all(connection, plan, replica, &others).await {
            Ok(()) => {
                info!("Removed replica {replica}");
                return Ok(RemoveResult::Done(RemovedReplica { uploads }));
            }
            Err(error) if error.sqlstate().as_deref() == Some(OBSTACLE) => {
                found = obstacles(connection, schema, replica).await?;
                found.extend(only_holder(connection, schema, replica, &others).await?);
            }
            Err(error) => return Err(error.into()),
        }
    }
    execute(connection, format!("DROP INDEX CONCURRENTLY IF EXISTS {}.\"{index}\"", schema.quoted())).await?;
    Ok(RemoveResult::Prevented(found))
}

/// The index of rows that no other replica has. A leftover of a removal that died is dropped with the columns.
fn only_index(replica: &ReplicaName) -> String {
    format!("object_copies_{replica}_only")
}

async fn obstacles(
    connection: &mut PgConnection,
    of_schema: &SchemaName,
    replica: &ReplicaName,
) -> Result<Vec<RemovalObstacle>, DatabaseError> {
    let schema = of_schema.quoted();
    let sql = trusted_sql(format!(
        "-- {NAME}
SELECT r.primary_since IS NOT NULL, r.draining_since IS NOT NULL,
       ARRAY(SELECT d.id FROM {schema}.daemons d
              WHERE d.alive_until > {schema}.now_utc_micro_seconds() AND d.config -> 'replicas' ? $1 ORDER BY 1),
       ARRAY(SELECT position FROM {schema}.rules WHERE $1 = ANY (replicas) ORDER BY 1)
FROM {schema}.replicas r WHERE r.name = $1"
    ));
    let query = sqlx::query_as(sql).bind(replica.as_str());
    let row: Option<(bool, bool, Vec<i32>, Vec<i32>)> =
        query.fetch_optional(&mut *connection).await.map_err(DatabaseError::database(NAME))?;
    let Some((is_primary, is_draining, daemons, rules)) = row else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    if is_primary {
        found.push(RemovalObstacle::Primary);
    } else if !is_draining {
        found.push(RemovalObstacle::NotDraining);
    }
    if !daemons.is_empty() {
        found.push(RemovalObstacle::Served(daemons.into_iter().collect()));
    }
    if !rules.is_empty() {
        found.push(RemovalObstacle::Ruled(rules));
    }
    found.extend(not_settled(connection, of_schema, replica).await?);
    found.extend(of_lost_holders(connection, of_schema).await?);
    Ok(found)
}

/// Unsettled copies of objects that this replica has, and that no other replica has for certain. And writes that may
/// still arrive at this replica, where a later replica of the same bucket would find them.
async fn not_settled(
    connection: &mut PgConnection,
    schema: &SchemaName,
    replica: &ReplicaName,
) -> Result<Option<RemovalObstacle>, DatabaseError> {
    let mut others = replica_columns::known_replicas(connection, schema).await?;
    others.retain(|other| other != replica);
    let sql = trusted_sql(format!(
        "-- {NAME}
SELECT count(*), coalesce(max(u.settled_at) - {schema}.now_utc_micro_seconds(), 0)
  FROM {from}",
        from = unsettled_copies(schema, replica, &others),
        schema = schema.quoted(),
    ));
    let (copies, settled_in_us): (i64, i64) =
        sqlx::query_as(sql).fetch_one(connection).await.map_err(DatabaseError::database(NAME))?;
    Ok((copies > 0).then_some(RemovalObstacle::Unsettled { copies, settled_in_us }))
}

/// The FROM clause of the entries `u` that prevent the removal.
fn unsettled_copies(schema: &SchemaName, replica: &ReplicaName, others: &[ReplicaName]) -> String {
    let (schema, column) = (schema.quoted(), replica.column());
    let certain = others.iter().map(|other| {
        format!(
            " OR (o.{} IS NOT NULL AND NOT EXISTS (SELECT FROM {schema}.unsettled v
                   WHERE v.object_key = o.object_key AND v.replica = '{other}'))",
            other.column()
        )
    });
    let certain = certain.collect::<String>();
    format!(
        "{schema}.unsettled u LEFT JOIN {schema}.object_copies o ON o.object_key = u.object_key
 WHERE CASE WHEN u.replica = '{replica}' THEN u.settled_at > {schema}.now_utc_micro_seconds()
            ELSE o.{column} IS NOT NULL AND NOT (false{certain}) END"
    )
}

/// Rows whose holders may have sent writes that are noted only when the lease is reclaimed: the lease has expired, or
/// the daemon is gone. A claim extends the lease's end, a heartbeat only that of the daemon's entry.
fn leased_by_the_dead(schema: &str) -> String {
    format!(
        "{schema}.object_copies o
        WHERE o.lock IS NOT NULL
          AND (o.lock <= {schema}.now_utc_micro_seconds()
               OR NOT EXISTS (SELECT FROM {schema}.daemons d
                               WHERE d.id = o.lease >> {FENCE_RANDOM_BITS} AND d.alive_until > {schema}.now_utc_micro_seconds()))"
    )
}

/// Obstacles from holders whose writes are not noted yet: those whose claims a crash has lost, and those that have
/// died.
async fn of_lost_holders(
    connection: &mut PgConnection,
    schema: &SchemaName,
) -> Result<Vec<RemovalObstacle>, DatabaseError> {
    let sql = trusted_sql(format!(
        "-- {NAME}
SELECT lost.until - {schema}.now_utc_micro_seconds(),
       (SELECT count(*) FROM {leased})
  FROM ({until}) AS lost",
        until = unsettled::until(&schema.quoted()),
        leased = leased_by_the_dead(&schema.quoted()),
        schema = schema.quoted()
    ));
    let (settled_in_us, leases): (i64, i64) =
        sqlx::query_as(sql).fetch_one(connection).await.map_err(DatabaseError::database(NAME))?;
    let after_crash = (settled_in_us > 0).then_some(RemovalObstacle::AfterCrash { settled_in_us });
    let not_swept = (leases > 0).then_some(RemovalObstacle::NotSwept { leases });
    Ok(after_crash.into_iter().chain(not_swept).collect())
}

async fn only_holder(
    connection: &mut PgConnection,
    schema: &SchemaName,
    replica: &ReplicaName,
    others: &[ReplicaName],
) -> Result<Option<RemovalObstacle>, DatabaseError> {
    let sql = trusted_sql(format!(
        "-- {NAME}\nSELECT count(*), min(object_key) FROM {}.object_copies WHERE {}",
        schema.quoted(),
        alone(replica, others)
    ));
    let (objects, example): (i64, Option<String>) =
        sqlx::query_as(sql).fetch_one(connection).await.map_err(DatabaseError::database(NAME))?;
    let example = example.map(|key| key_of(NAME, key)).transpose()?;
    Ok(example.map(|example| RemovalObstacle::OnlyHolder { objects, example }))
}

/// Page by page through the whole table, which is ordered by object and not by replica.
async fn forget_failures(
    connection: &mut PgConnection,
    schema: &SchemaName,
    replica: &ReplicaName,
) -> Result<(), DatabaseError> {
    let mut after = Some(String::new());
    while let Some(key) = after {
        let sql = trusted_sql(format!(
            "-- {NAME}
WITH page AS MATERIALIZED (
    SELECT object_key, replica FROM {schema}.copy_failures WHERE object_key > $1 ORDER BY object_key, replica LIMIT {PAGE}
),
gone AS (
    DELETE FROM {schema}.copy_failures f
     WHERE f.replica = $2 AND f.object_key = ANY (ARRAY(SELECT object_key FROM page WHERE page.replica = $2))
)
-- An object that the page's end cuts in two is read again with the next page.
SELECT CASE WHEN count(*) = {PAGE} THEN coalesce(
           (SELECT max(object_key) FROM page WHERE object_key < (SELECT max(object_key) FROM page)), max(object_key)) END
FROM page",
            schema = schema.quoted()
        ));
        let query = sqlx::query_scalar(sql).bind(key).bind(replica.as_str());
        after = query.fetch_one(&mut *connection).await.map_err(DatabaseError::database(NAME))?;
    }
    Ok(())
}

/// Returns how many there were.
async fn forget_uploads(
    connection: &mut PgConnection,
    schema: &SchemaName,
    replica: &ReplicaName,
) -> Result<u64, DatabaseError> {
    let mut forgotten = 0;
    loop {
        let sql = trusted_sql(format!(
            "-- {NAME}
DELETE FROM {schema}.multipart_uploads WHERE id = ANY (ARRAY(
    SELECT id FROM {schema}.multipart_uploads WHERE replica = $1 LIMIT {PAGE}))",
            schema = schema.quoted()
        ));
        let query = sqlx::query(sql).bind(replica.as_str());
        let rows = query.execute(&mut *connection).await.map_err(DatabaseError::database(NAME))?.rows_affected();
        forgotten += rows;
        if rows == 0 {
            return Ok(forgotten);
        }
    }
}

/// All of it or nothing. The functions and the view that name the columns are created anew first: then the columns can
/// be dropped, and the exclusive lock is held no longer than that takes.
async fn drop_all(
    connection: &mut PgConnection,
    plan: &SchemaPlan,
    replica: &ReplicaName,
    others: &[ReplicaName],
) -> Result<(), DatabaseError> {
    let name = &plan.database.schema;
    let (schema, table) = (name.quoted(), format!("{}.object_copies", name.quoted()));
    let lane = functions::of_lane(name, others, replica);
    let drops: Vec<_> = lane.iter().map(|f| format!("DROP FUNCTION IF EXISTS {schema}.\"{}\";", f.name)).collect();
    let drops = drops.join("\n");
    let told = if plan.event_kinds.contains(EventKind::ReplicaRemoved) {
        let event = append::event(EventKind::ReplicaRemoved, &format!("'replica', '{replica}'"));
        format!("SELECT {schema}.append_log(array_agg(e)) FROM ({event}) AS e(e);")
    } else {
        String::new()
    };
    let sql = format!(
        "SET LOCAL enable_seqscan = off;
DO $check$
BEGIN
    PERFORM FROM {schema}.replicas
      WHERE name = '{replica}' AND primary_since IS NULL AND draining_since IS NOT NULL FOR UPDATE;
    IF NOT FOUND
       OR EXISTS (SELECT FROM {schema}.daemons d
                   WHERE d.alive_until > {schema}.now_utc_micro_seconds() AND d.config -> 'replicas' ? '{replica}')
       OR EXISTS (SELECT FROM {schema}.rules WHERE '{replica}' = ANY (replicas))
       OR (SELECT lost.until > {schema}.now_utc_micro_seconds() FROM ({until}) AS lost)
       OR EXISTS (SELECT FROM {leased})
       OR EXISTS (SELECT FROM {unsettled}) THEN
        RAISE EXCEPTION 'something has come in the way' USING ERRCODE = '{OBSTACLE}';
    END IF;
END $check$;
{register};
{view};
{functions}
{drops}
LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE;
DO $only$
BEGIN
    IF EXISTS (SELECT FROM {table} WHERE {alone}) THEN
        RAISE EXCEPTION 'it is the only holder of something' USING ERRCODE = '{OBSTACLE}';
    END IF;
END $only$;
ALTER TABLE {table} DROP COLUMN {copy}, DROP COLUMN {due};
DELETE FROM {schema}.resets WHERE replica = '{replica}';
DELETE FROM {schema}.unsettled WHERE replica = '{replica}';
UPDATE {schema}.rules_state SET newcomers = array_remove(newcomers, '{replica}') WHERE '{replica}' = ANY (newcomers);
DELETE FROM {schema}.backlog WHERE replica = '{replica}';
DELETE FROM {schema}.replicas WHERE name = '{replica}';
{told}",
        until = unsettled::until(&schema),
        leased = leased_by_the_dead(&schema),
        unsettled = unsettled_copies(name, replica, others),
        register = register_functions::all(name, others),
        view = backlog::exact_view(name, others),
        functions = functions::create_all(name, others),
        alone = alone(replica, others),
        copy = replica.column(),
        due = replica.due_column(),
    );
    execute_politely(connection, &table, &sql).await
}
