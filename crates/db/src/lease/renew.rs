//! Extends leases, for the heartbeat.

use std::time::Duration;

use copyhold_core::domain::{Fence, Generation, ObjectKey, SchemaName, micros};
use futures::FutureExt as _;
use sqlx::SqlStr;

use super::fenced_write::{FencedResult, answers, held, parse_all};
use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    split_batch::{FailureBudget, SplitResult, run_split},
    sql::{ASYNCHRONOUS, trusted_sql},
};

const NAME: &str = "lease::renew";

/// `$1` keys, `$2` fences, `$3` generations, `$4` lease in µs.
///
/// Rows that another transaction has locked are skipped: a heartbeat over 64 rows, of which an application held one,
/// waited 5.5 s, and 36 ms with SKIP LOCKED.
pub(crate) fn statement(schema: &SchemaName) -> SqlStr {
    let schema = schema.quoted();
    let (held, answers) = (held(&schema), answers(&schema));
    trusted_sql(format!(
        "-- lease::renew
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS a(k, f, g)
    WHERE {ASYNCHRONOUS}
),
{held},
done AS (
    UPDATE {schema}.object_copies o
       SET lock = {schema}.now_utc_micro_seconds() + $4
      FROM held JOIN asked a ON a.k = held.object_key
     WHERE o.object_key = held.object_key AND o.lease = a.f AND o.generation = a.g
    RETURNING o.object_key, a.f
)
{answers}"
    ))
}

type Held = (ObjectKey, Fence, Generation);

impl Database {
    /// Extends the leases to `timeout` from now, all in one statement.
    /// [`FencedWrite::Superseded`](super::FencedWrite::Superseded) means that the lease is lost or that the key was
    /// registered again: either way the caller stops the copy and releases the row.
    pub async fn renew(&self, held: &[Held], timeout: Duration) -> Result<Vec<FencedResult>, DatabaseError> {
        let renew = |held: Vec<_>| async move { self.renew_together(&held, timeout).await }.boxed();
        let refused = |(key, ..): Held, why: &DatabaseError| self.refused.pass_over(&key, "keeps its lease", why);
        let SplitResult { answers, error } =
            run_split(held.to_vec(), &mut FailureBudget::default(), renew, refused).await;
        error.map_or(Ok(answers), Err)
    }

    async fn renew_together(&self, held: &[Held], timeout: Duration) -> Result<Vec<FencedResult>, DatabaseError> {
        let rows: Vec<(String, i64, String)> = with_timeout(
            NAME,
            sqlx::query_as(self.statements.renew.clone())
                .bind(held.iter().map(|(k, ..)| k.as_str()).collect::<Vec<_>>())
                .bind(held.iter().map(|(_, f, _)| f.0).collect::<Vec<_>>())
                .bind(held.iter().map(|(.., g)| g.0).collect::<Vec<_>>())
                .bind(micros(timeout))
                .fetch_all(&self.pool),
        )
        .await?;
        parse_all(NAME, rows)
    }
}
