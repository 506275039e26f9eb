//! The baseline: table, indexes and statement of the essay that this queue comes from, with one row per claim.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Row as _};
use tokio::task::JoinSet;

use crate::common::{
    comparison::{ComparisonResult, StopCondition},
    database::{BenchDatabase, CONNECTIONS},
};

const CLAIM: &str = "UPDATE object_copies SET lock = now_utc_micro_seconds()
WHERE object_key = (
SELECT object_key FROM object_copies
WHERE (wasabi IS NULL OR scw IS NULL) AND lock IS NULL
LIMIT 1
FOR UPDATE SKIP LOCKED)
RETURNING object_key, wasabi, scw";

/// The essay has no statement for completion; this is the simplest one.
const COMPLETE: &str = "UPDATE object_copies
SET wasabi = now_utc_micro_seconds(), scw = now_utc_micro_seconds(), lock = NULL WHERE object_key = $1";

/// Whether a scan of the table begins where the last one was, which is PostgreSQL's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scans {
    Synchronized,
    FromTheBeginning,
}

/// Makes the essay's table with the same objects.
pub(super) async fn fill(ground: &BenchDatabase, rows: u32, key: &str, missing: &str) -> anyhow::Result<()> {
    ground
        .execute(format!(
            "CREATE FUNCTION now_utc_micro_seconds() RETURNS bigint LANGUAGE sql
                 AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint $$;
             CREATE TABLE object_copies (
                 object_key text PRIMARY KEY, b2 bigint, wasabi bigint, scw bigint, lock bigint);
             INSERT INTO object_copies
             SELECT {key}, 1, CASE WHEN {missing} THEN NULL ELSE 1 END, CASE WHEN {missing} THEN NULL ELSE 1 END, NULL
             FROM generate_series(1, {rows}) i;
             CREATE INDEX ON object_copies (wasabi) WHERE wasabi IS NULL;
             CREATE INDEX ON object_copies (scw) WHERE scw IS NULL"
        ))
        .await?;
    ground.execute("VACUUM ANALYZE object_copies").await
}

pub(super) async fn play(
    ground: &BenchDatabase,
    goal: &StopCondition,
    scans: Scans,
) -> anyhow::Result<ComparisonResult> {
    if scans == Scans::FromTheBeginning {
        let sql = format!("ALTER DATABASE \"{}\" SET synchronize_seqscans = off", ground.name);
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&ground.pool).await?;
    }
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        // New connections begin with the setting.
        connections.push(ground.connect().await?);
    }
    let run = goal.begin();
    let mut workers = JoinSet::new();
    for mut connection in connections {
        let run = Arc::clone(&run);
        workers.spawn(async move {
            while run.goes_on() {
                let Some(row) = sqlx::query(CLAIM).fetch_optional(&mut connection).await? else { break };
                let key: String = row.try_get("object_key")?;
                sqlx::query(COMPLETE).bind(key).execute(&mut connection).await?;
                run.did(1);
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(run.score())
}
