//! The table `imports`: how far an import has come, and which process runs it.

use std::time::Duration;

use copyhold_core::domain::{Fence, micros};
use serde_json::Value;
use sqlx::{Row as _, postgres::PgRow};

use super::{ImportPlan, ImportTally};
use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::trusted_sql,
};

const ROW: &str = "import::row";
const TAKE: &str = "import::claim";
const KEEP: &str = "import::renew";
const LEAVE: &str = "import::release";

/// The process that imports renews its claim at least this often, or is presumed dead.
pub const IMPORT_LEASE: Duration = Duration::from_secs(10);

/// The progress of the import of a table.
#[derive(Debug, Clone)]
pub struct ImportRow {
    arguments: Value,
    table_is: Value,
    /// `None`: no row is imported yet.
    pub reached: Option<String>,
    pub tally: ImportTally,
    pub ended: bool,
    /// The process that holds the import, or held it last.
    pub held_by: Option<Fence>,
    /// Its machine and process.
    pub holder: Option<String>,
    /// Until it is presumed dead; `None`: it has ended, in order or not.
    pub alive_for: Option<Duration>,
}

impl ImportRow {
    /// It was begun with the same arguments.
    #[must_use]
    pub fn is_of(&self, plan: &ImportPlan) -> bool {
        self.arguments == plan.arguments()
    }

    /// Its position is valid: it is the same table, read in the same order.
    #[must_use]
    pub fn is_placed_in(&self, plan: &ImportPlan) -> bool {
        self.table_is == plan.table_is()
    }

    /// The arguments that it was begun with, for messages.
    #[must_use]
    pub fn arguments(&self) -> String {
        self.arguments.to_string()
    }
}

impl Database {
    /// Returns the progress of the import of this table; `None`: there was no import.
    pub async fn import_row(&self, plan: &ImportPlan) -> Result<Option<ImportRow>, DatabaseError> {
        let sql = trusted_sql(format!(
            "-- {ROW}
SELECT arguments::text, table_is::text, reached, tally::text, examples::text, ended_at IS NOT NULL AS ended, held_by, holder,
       CASE WHEN alive_until <= {schema}.now_utc_micro_seconds() + {longest}
            THEN alive_until - {schema}.now_utc_micro_seconds() END AS alive_us
FROM {schema}.imports WHERE source = $1",
            schema = self.schema().quoted(),
            // A later time comes from a clock that was ahead.
            longest = 2 * micros(IMPORT_LEASE),
        ));
        let row = with_timeout(ROW, sqlx::query(sql).bind(&plan.table.name).fetch_optional(&self.pool)).await?;
        row.as_ref().map(parse).transpose().map_err(DatabaseError::database(ROW))
    }

    /// Claims the import for this process, if `before` is still the last holder; `anew`: from the first row on. Returns
    /// false while another process holds it.
    pub async fn claim_import(
        &self,
        plan: &ImportPlan,
        fence: Fence,
        holder: &str,
        before: Option<Fence>,
        anew: bool,
    ) -> Result<bool, DatabaseError> {
        let schema = self.schema().quoted();
        let sql = trusted_sql(format!(
            "-- {TAKE}
INSERT INTO {schema}.imports AS i (source, table_is, arguments, held_by, holder, alive_until)
VALUES ($1, $2::jsonb, $3::jsonb, $4, $5, {schema}.now_utc_micro_seconds() + $6)
ON CONFLICT (source) DO UPDATE
   SET held_by = excluded.held_by, holder = excluded.holder, alive_until = excluded.alive_until,
       table_is = excluded.table_is, arguments = excluded.arguments,
       reached = CASE WHEN $8 THEN NULL ELSE i.reached END,
       tally = CASE WHEN $8 THEN '{{}}' ELSE i.tally END,
       examples = CASE WHEN $8 THEN '{{}}' ELSE i.examples END,
       started_at = CASE WHEN $8 THEN excluded.started_at ELSE i.started_at END,
       ended_at = CASE WHEN $8 THEN NULL ELSE i.ended_at END
 WHERE i.held_by IS NOT DISTINCT FROM $7
   AND (i.alive_until IS NULL OR i.alive_until <= {schema}.now_utc_micro_seconds()
        OR i.alive_until > {schema}.now_utc_micro_seconds() + 2 * $6)"
        ));
        let query = sqlx::query(sql)
            .bind(&plan.table.name)
            .bind(plan.table_is().to_string())
            .bind(plan.arguments().to_string())
            .bind(fence.0)
            .bind(holder)
            .bind(micros(IMPORT_LEASE))
            .bind(before.map(|before| before.0))
            .bind(anew);
        match with_timeout(TAKE, query.execute(&self.pool)).await {
            Ok(done) => Ok(done.rows_affected() == 1),
            // The process that holds it is writing the row.
            Err(error) if error.is_lock_timeout() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Renews this process's claim. Returns whether it still holds the import; while one of its own batches has the row
    /// locked, nothing is written.
    pub async fn renew_import(&self, plan: &ImportPlan, fence: Fence) -> Result<bool, DatabaseError> {
        let schema = self.schema().quoted();
        let sql = trusted_sql(format!(
            "-- {KEEP}
WITH held AS MATERIALIZED (
    SELECT source FROM {schema}.imports WHERE source = $1 AND held_by = $2 FOR NO KEY UPDATE SKIP LOCKED
),
kept AS (
    UPDATE {schema}.imports i SET alive_until = {schema}.now_utc_micro_seconds() + $3 FROM held WHERE i.source = held.source
)
SELECT EXISTS (SELECT FROM {schema}.imports WHERE source = $1 AND held_by = $2)"
        ));
        let query = sqlx::query_scalar(sql).bind(&plan.table.name).bind(fence.0).bind(micros(IMPORT_LEASE));
        with_timeout(KEEP, query.fetch_one(&self.pool)).await
    }

    /// Releases the import, so that the next process need not wait.
    pub async fn release_import(&self, plan: &ImportPlan, fence: Fence) -> Result<(), DatabaseError> {
        let sql = trusted_sql(format!(
            "-- {LEAVE}
UPDATE {}.imports SET alive_until = NULL WHERE source = $1 AND held_by = $2",
            self.schema().quoted()
        ));
        with_timeout(LEAVE, sqlx::query(sql).bind(&plan.table.name).bind(fence.0).execute(&self.pool)).await?;
        Ok(())
    }
}

fn parse(row: &PgRow) -> Result<ImportRow, sqlx::Error> {
    let json = |column: &str| {
        serde_json::from_str(row.try_get(column)?).map_err(|error: serde_json::Error| sqlx::Error::Decode(error.into()))
    };
    let alive: Option<i64> = row.try_get("alive_us")?;
    Ok(ImportRow {
        arguments: json("arguments")?,
        table_is: json("table_is")?,
        reached: row.try_get("reached")?,
        tally: ImportTally::parse(row)?,
        ended: row.try_get("ended")?,
        held_by: row.try_get::<Option<i64>, _>("held_by")?.map(Fence),
        holder: row.try_get("holder")?,
        alive_for: alive.and_then(|us| u64::try_from(us).ok()).map(Duration::from_micros),
    })
}
