//! Deletes the rows of objects. It touches no bucket.

use copyhold_core::domain::ObjectKey;

use crate::{
    error::{DatabaseError, key_of, with_timeout},
    handle::Database,
    sql::trusted_sql,
};

const NAME: &str = "object::forget";

/// The result of forgetting keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForgetResult {
    pub forgotten: Vec<ObjectKey>,
    /// Their rows are leased or locked.
    pub busy: Vec<ObjectKey>,
    /// These were not registered.
    pub unknown: Vec<ObjectKey>,
}

impl Database {
    /// Deletes the rows of objects, their failures and their counts of expired leases; no bucket is touched. A leased
    /// row is deleted only with `leased_too`: its holder then finds no row, stops, and may leave an unrecorded copy
    /// behind.
    pub async fn forget(&self, keys: &[ObjectKey], leased_too: bool) -> Result<ForgetResult, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {NAME}
WITH asked AS MATERIALIZED (
    SELECT k, EXISTS (SELECT FROM {schema}.object_copies o WHERE o.object_key = k) AS known
    FROM unnest($1::text[]) AS u(k)
),
held AS MATERIALIZED (
    SELECT o.object_key, o.lock IS NULL OR $2 AS free FROM {schema}.object_copies o
    WHERE o.object_key = ANY ($1::text[])
    FOR UPDATE SKIP LOCKED
),
done AS (
    DELETE FROM {schema}.object_copies o USING held
    WHERE o.object_key = held.object_key AND held.free
    RETURNING o.object_key
),
failures AS (
    DELETE FROM {schema}.copy_failures f USING done WHERE f.object_key = done.object_key
),
sweeps AS (
    DELETE FROM {schema}.swept_leases s USING done WHERE s.object_key = done.object_key
)
SELECT a.k, a.known, done.object_key IS NOT NULL FROM asked a LEFT JOIN done ON done.object_key = a.k ORDER BY a.k"
        ));
        let asked = keys.iter().map(ObjectKey::as_str).collect::<Vec<_>>();
        let query = sqlx::query_as(sql).bind(asked).bind(leased_too);
        let rows: Vec<(String, bool, bool)> = with_timeout(NAME, query.fetch_all(&self.pool)).await?;
        let mut result = ForgetResult::default();
        for (key, known, done) in rows {
            let key = key_of(NAME, key)?;
            match (known, done) {
                (_, true) => result.forgotten.push(key),
                (true, false) => result.busy.push(key),
                (false, false) => result.unknown.push(key),
            }
        }
        Ok(result)
    }
}
