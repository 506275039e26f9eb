//! The table `swept_leases`: how often in a row the lease of an object expired.

use copyhold_core::domain::ObjectKey;

use crate::{
    error::{DatabaseError, key_of, with_timeout},
    handle::Database,
    sql::{PARKED, trusted_sql},
};

const TIDY: &str = "lease::tidy_swept";
/// Rows that one clean-up statement checks.
const PAGE: i64 = 500;

impl Database {
    /// Deletes the counts of objects that no longer exist, or that lack no copy, are not leased and have no unsettled
    /// write: one page at a time. Returns where the next page begins; `None`: at the beginning.
    pub async fn tidy_swept(&self, after: Option<&ObjectKey>) -> Result<Option<ObjectKey>, DatabaseError> {
        let schema = self.schema.quoted();
        let missing =
            self.replicas.iter().map(|r| format!("(o.{} IS NULL AND o.{} < {PARKED})", r.column(), r.due_column()));
        let missing = missing.collect::<Vec<_>>().join(" OR ");
        let sql = trusted_sql(format!(
            "-- {TIDY}
WITH page AS MATERIALIZED (
    SELECT object_key FROM {schema}.swept_leases WHERE object_key > $1 ORDER BY object_key LIMIT {PAGE}
),
over AS (
    DELETE FROM {schema}.swept_leases s
     WHERE s.object_key = ANY (ARRAY(
               SELECT p.object_key FROM page p
                WHERE NOT EXISTS (SELECT FROM {schema}.object_copies o
                                   WHERE o.object_key = p.object_key AND (o.lock IS NOT NULL OR {missing}))
                  AND NOT EXISTS (SELECT FROM {schema}.unsettled u WHERE u.object_key = p.object_key)))
)
SELECT CASE WHEN count(*) = {PAGE} THEN max(object_key) END FROM page"
        ));
        let query = sqlx::query_scalar(sql).bind(after.map_or("", ObjectKey::as_str));
        let last: Option<String> = with_timeout(TIDY, query.fetch_one(&self.pool)).await?;
        last.map(|key| key_of(TIDY, key)).transpose()
    }
}
