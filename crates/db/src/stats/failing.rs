//! Counts failing copies by replica and class, in bounded time however many there are.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{error::DatabaseError, handle::Database};

/// Up to this number, failures are compared with their objects one by one.
const COMPARED: usize = 20_000;

/// Failing copies of one class at one replica, with an example: the latest, or any if there are very many.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FailingCopy {
    pub replica: String,
    pub class: String,
    pub copies: i64,
    pub example_key: String,
    pub message: String,
    pub last_seconds_ago: f64,
}

/// How exact the figures of failing copies are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailingCount {
    Exact,
    /// They include copies of objects that were registered again and not tried since.
    WithEarlierContents,
    /// There are more: not all could be counted in time.
    AtLeast,
}

/// All failing copies.
#[derive(Debug, Clone)]
pub struct FailingCopies {
    pub count: FailingCount,
    pub copies: Vec<FailingCopy>,
}

#[derive(Deserialize)]
struct ComparedFailures {
    taken: usize,
    copies: Vec<FailingCopy>,
}

impl Database {
    /// Counts failing copies. No statement takes longer than `limit`; above [`COMPARED`] failures there are two.
    pub(crate) async fn failing(&self, limit: Duration) -> Result<FailingCopies, DatabaseError> {
        let schema = self.schema.quoted();
        let stays = |f: &str| {
            format!(
                "NOT EXISTS (SELECT FROM {schema}.replicas r WHERE r.name = {f}.replica AND r.draining_since IS NOT NULL)"
            )
        };
        let ago = |at: &str| format!("(({schema}.now_utc_micro_seconds() - {at}) / 1e6)::double precision");
        let compared = format!(
            "WITH taken AS MATERIALIZED (SELECT * FROM {schema}.copy_failures LIMIT {most}),
copies AS (
    SELECT f.replica, f.class, count(*) AS copies,
           (array_agg(f.object_key ORDER BY f.last_at DESC))[1] AS example_key,
           (array_agg(f.message ORDER BY f.last_at DESC))[1] AS message,
           {ago} AS last_seconds_ago
      FROM taken f JOIN {schema}.object_copies o USING (object_key)
     WHERE f.generation = o.generation AND {stays}
     GROUP BY f.replica, f.class ORDER BY f.replica, copies DESC
)
SELECT json_build_object('taken', (SELECT count(*) FROM taken),
                         'copies', (SELECT coalesce(json_agg(c), '[]') FROM copies c))::text",
            most = COMPARED + 1,
            ago = ago("max(f.last_at)"),
            stays = stays("f"),
        );
        let ComparedFailures { taken, copies } = self.json_within(limit, compared).await?;
        if taken <= COMPARED {
            return Ok(FailingCopies { count: FailingCount::Exact, copies });
        }
        // In one pass and without a sort: half a second per million. Comparing a million with their objects takes
        // twenty.
        let all = format!(
            "SELECT coalesce(json_agg(t), '[]')::text FROM (
    SELECT g.replica, g.class, g.copies, f.object_key AS example_key, f.message, {ago} AS last_seconds_ago
      FROM (SELECT replica, class, count(*) AS copies, max(object_key) AS object_key, max(last_at) AS last_at
              FROM {schema}.copy_failures GROUP BY replica, class) g
      JOIN {schema}.copy_failures f USING (object_key, replica)
     WHERE {stays}
     ORDER BY g.replica, g.copies DESC) t",
            ago = ago("g.last_at"),
            stays = stays("g"),
        );
        Ok(match self.json_within(limit, all).await {
            Ok(copies) => FailingCopies { count: FailingCount::WithEarlierContents, copies },
            Err(_) => FailingCopies { count: FailingCount::AtLeast, copies },
        })
    }
}
