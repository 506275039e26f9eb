use sqlx::SqlStr;

use super::{Queue, QueueError, built, daemons::DaemonId, error::limited};
use crate::domain::{Fence, ObjectKey, SchemaName};

const NAME: &str = "queue::reclaim";
/// Rows that one statement frees at most, so that it stays short.
pub(super) const BATCH: i64 = 500;

/// A lease that ended without its holder.
#[derive(Debug, Clone)]
pub struct Reclaimed {
    pub key: ObjectKey,
    pub holder: DaemonId,
}

/// `$1` the key of the duty's advisory lock.
///
/// The lock is the transaction's own, so it cannot outlive a dead sweeper, not even behind a pooler. FOR UPDATE
/// re-reads each row that was just renewed, so a lease that its owner saved is not taken from it.
pub(super) fn statement(schema: &SchemaName) -> SqlStr {
    let schema = schema.quoted();
    built(format!(
        "-- queue::reclaim
WITH duty AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0)) AS mine
),
dead AS MATERIALIZED (
    SELECT o.object_key, o.lease FROM {schema}.object_copies o
    WHERE (SELECT mine FROM duty)
      AND o.lock IS NOT NULL AND o.lock < {schema}.now_utc_micro_seconds()
    ORDER BY o.lock
    LIMIT {BATCH}
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {schema}.object_copies o
   SET lock = NULL, lease = NULL
  FROM dead
 WHERE o.object_key = dead.object_key AND o.lease = dead.lease
RETURNING o.object_key, dead.lease"
    ))
}

impl Queue {
    /// Frees rows whose lease has run out, at most one batch; nothing if another daemon is at it.
    pub async fn reclaim(&self) -> Result<Vec<Reclaimed>, QueueError> {
        let rows: Vec<(String, i64)> = limited(
            NAME,
            sqlx::query_as(self.statements.reclaim.clone())
                .bind(format!("{}:{NAME}", self.schema))
                .fetch_all(&self.pool),
        )
        .await?;
        let parse = |(key, lease)| {
            let key = ObjectKey::new(key)
                .map_err(|e| QueueError::Inconsistent { statement: NAME, what: format!("a key in the answer: {e}") })?;
            Ok(Reclaimed { key, holder: DaemonId::of(Fence(lease)) })
        };
        rows.into_iter().map(parse).collect()
    }

    /// The database's clock, µs since the epoch.
    pub async fn database_now(&self) -> Result<i64, QueueError> {
        let sql = built(format!("-- queue::database_now\nSELECT {}.now_utc_micro_seconds()", self.schema.quoted()));
        limited("queue::database_now", sqlx::query_scalar(sql).fetch_one(&self.pool)).await
    }
}
