//! What `copyhold check` tests in PostgreSQL beyond a connection: that rows can be written, that this role has all
//! rights of a daemon, and that no sequence would assign its numbers again. It leaves no change behind.

use super::{sequences::BehindSequence, version::SchemaFit};
use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::trusted_sql,
};

/// The rights of a daemon's role on tables; `deploy/roles.sql` grants them.
const TABLES: [(&str, &str); 17] = [
    ("object_copies", "SELECT,UPDATE"),
    ("replicas", "SELECT,UPDATE"),
    ("copy_failures", "SELECT,INSERT,UPDATE,DELETE"),
    ("daemons", "SELECT,INSERT,UPDATE,DELETE"),
    ("swept_leases", "SELECT,INSERT,UPDATE,DELETE"),
    ("unsettled", "SELECT,INSERT,UPDATE,DELETE"),
    ("claims_intact", "SELECT,INSERT,UPDATE,DELETE"),
    ("multipart_uploads", "SELECT,INSERT,UPDATE,DELETE"),
    ("multipart_parts", "SELECT,INSERT,UPDATE,DELETE"),
    ("backlog", "SELECT,INSERT,UPDATE,DELETE"),
    ("resets", "SELECT,INSERT,UPDATE,DELETE"),
    ("log", "SELECT,INSERT"),
    ("log_inbox", "SELECT,INSERT,UPDATE,DELETE"),
    ("log_state", "SELECT,UPDATE"),
    ("rules", "SELECT"),
    ("rules_state", "SELECT,UPDATE"),
    ("schema_version", "SELECT"),
];
const SEQUENCES: [&str; 2] = ["daemon_ids", "log_ids"];

/// One test: its name, and its result or what is wrong.
pub type Inspected = (&'static str, Result<String, String>);

/// Runs all tests; on a schema that fits this program.
pub async fn inspect(database: &Database) -> Vec<Inspected> {
    if !matches!(database.schema_fit().await, Ok(SchemaFit::Fits)) {
        return Vec::new();
    }
    let outcome =
        |result: Result<Result<String, String>, DatabaseError>| result.unwrap_or_else(|error| Err(error.to_string()));
    vec![
        ("write", outcome(database.try_write().await)),
        ("rights", outcome(database.missing_rights().await)),
        ("sequences", outcome(database.sequences().await)),
    ]
}

impl Database {
    /// Returns whether this program can work with the schema of the database.
    pub async fn schema_fit(&self) -> Result<SchemaFit, DatabaseError> {
        SchemaFit::of(&self.pool, &self.schema).await
    }

    /// Writes a row that is large enough to need room on the disk, and rolls it back.
    async fn try_write(&self) -> Result<Result<String, String>, DatabaseError> {
        const NAME: &str = "schema::try_write";
        let sql = format!(
            "-- {NAME}
INSERT INTO {}.copy_failures (object_key, replica, generation, attempts, class, message, first_at, last_at)
SELECT 'copyhold check ' || random(), 'copyhold check', 0, 0, 'parked',
       (SELECT string_agg(md5(random()::text || n), '') FROM generate_series(1, 8192) n), 0, 0",
            self.schema.quoted()
        );
        let written = async {
            let mut transaction = self.pool.begin().await?;
            sqlx::query(trusted_sql(sql)).execute(&mut *transaction).await?;
            transaction.rollback().await
        };
        with_timeout(NAME, written).await?;
        Ok(Ok("a row was written and taken back".into()))
    }

    /// The rights of a daemon that this role lacks.
    async fn missing_rights(&self) -> Result<Result<String, String>, DatabaseError> {
        const NAME: &str = "schema::missing_rights";
        let sql = format!(
            "-- {NAME}
SELECT w.privilege || ' on ' || t.name
  FROM unnest($2::text[], $3::text[]) AS t(name, privileges)
 CROSS JOIN LATERAL unnest(string_to_array(t.privileges, ',')) AS w(privilege)
 WHERE NOT has_table_privilege(to_regclass($1 || '.' || t.name), w.privilege)
UNION ALL
SELECT 'USAGE on sequence ' || s.name FROM unnest($4::text[]) AS s(name)
 WHERE NOT has_sequence_privilege(to_regclass($1 || '.' || s.name), 'USAGE')
UNION ALL
SELECT 'EXECUTE on function ' || p.proname FROM pg_proc p
 WHERE p.pronamespace = to_regnamespace($1) AND p.prorettype <> 'trigger'::regtype
   AND NOT has_function_privilege(p.oid, 'EXECUTE')"
        );
        let (tables, rights): (Vec<_>, Vec<_>) = TABLES.into_iter().unzip();
        let query = sqlx::query_scalar(trusted_sql(sql)).bind(self.schema.quoted()).bind(tables).bind(rights);
        let query = query.bind(SEQUENCES.to_vec());
        let missing: Vec<String> = with_timeout(NAME, query.fetch_all(&self.pool)).await?;
        Ok(if missing.is_empty() {
            Ok("this role may do all that a daemon does".into())
        } else {
            let missing = missing.join(", ");
            Err(format!("this role lacks {missing}: run deploy/roles.sql, as docs/postgresql.md says"))
        })
    }

    async fn sequences(&self) -> Result<Result<String, String>, DatabaseError> {
        let behind = self.sequences_behind().await?;
        Ok(if behind.is_empty() {
            Ok("no sequence gives a number again".into())
        } else {
            Err(format!(
                "sequences are behind their tables, as after a switch-over by logical replication: {}; run `copyhold \
                 migrate`, or start a daemon, which mends them too",
                BehindSequence::list(&behind)
            ))
        })
    }
}
