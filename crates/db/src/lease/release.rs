//! Ends leases without a result: the rows stay as they were.

use copyhold_core::domain::{Fence, ObjectKey, SchemaName};
use futures::FutureExt as _;
use sqlx::SqlStr;

use super::fenced_write::{FencedResult, answers, held, parse_all};
use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    split_batch::{FailureBudget, SplitResult, run_split},
    sql::{ASYNCHRONOUS, trusted_sql},
};

const NAME: &str = "lease::release";

/// `$1` keys, `$2` fences. The generation is not compared: a row that was registered again under our lease is ours to
/// free, and no other daemon can.
pub(crate) fn statement(schema: &SchemaName) -> SqlStr {
    let schema = schema.quoted();
    let (held, answers) = (held(&schema), answers(&schema));
    trusted_sql(format!(
        "-- lease::release
WITH asked AS MATERIALIZED (
    SELECT k, f, NULL::bigint AS g FROM unnest($1::text[], $2::bigint[]) AS a(k, f)
    WHERE {ASYNCHRONOUS}
),
{held},
done AS (
    UPDATE {schema}.object_copies o
       SET lock = NULL, lease = NULL
      FROM held JOIN asked a ON a.k = held.object_key
     WHERE o.object_key = held.object_key AND o.lease = a.f
    RETURNING o.object_key, a.f
)
{answers}"
    ))
}

impl Database {
    /// Releases rows unchanged: no attempt is counted, and they are due at the same time as before.
    pub async fn release(&self, held: &[(ObjectKey, Fence)]) -> Result<Vec<FencedResult>, DatabaseError> {
        let release = |held: Vec<_>| async move { self.release_together(&held).await }.boxed();
        let refused =
            |(key, _): (ObjectKey, Fence), why: &DatabaseError| self.refused.pass_over(&key, "is given back", why);
        let SplitResult { answers, error } =
            run_split(held.to_vec(), &mut FailureBudget::default(), release, refused).await;
        error.map_or(Ok(answers), Err)
    }

    async fn release_together(&self, held: &[(ObjectKey, Fence)]) -> Result<Vec<FencedResult>, DatabaseError> {
        let rows: Vec<(String, i64, String)> = with_timeout(
            NAME,
            sqlx::query_as(self.statements.release.clone())
                .bind(held.iter().map(|(k, _)| k.as_str()).collect::<Vec<_>>())
                .bind(held.iter().map(|(_, f)| f.0).collect::<Vec<_>>())
                .fetch_all(&self.pool),
        )
        .await?;
        parse_all(NAME, rows)
    }
}
