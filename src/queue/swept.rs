use std::time::Duration;

use sqlx::SqlStr;

use super::{
    Queue, QueueError,
    answer::{Answer, answers, held, key_of, parse_all},
    built,
    error::limited,
    micros,
};
use crate::domain::{Lease, ObjectKey, ReplicaName, SchemaName};

const TAKE: &str = "queue::take_unverified";
const CONCLUDE: &str = "queue::conclude";
const TIDY: &str = "queue::tidy_swept";
/// Rows that one statement looks at to tidy up.
const PAGE: i64 = 500;

/// An object whose recorded copies are to be read once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unverified {
    pub key: ObjectKey,
    /// Its bucket was lost while the object was held.
    pub primary_too: bool,
}

/// `$1` rows at most, `$2` µs until they are taken again, `$3` the replicas that are going to be read.
///
/// None while a living daemon serves a replica besides those: it reads all copies, and whoever reads fewer would forget
/// the sweep of the others.
///
/// Found by key and not by a join, which would read all objects where PostgreSQL believes that there are none. Some of
/// them may be held, so it looks at more than it takes.
///
/// The object's row is what is locked, as in every statement that writes of one: so a row that somebody has in hand
/// is passed over, and none is waited for.
pub(super) fn take(schema: &SchemaName) -> SqlStr {
    let schema = schema.quoted();
    built(format!(
        "-- {TAKE}
WITH chosen AS MATERIALIZED (
    SELECT o.object_key FROM {schema}.object_copies o
     WHERE o.object_key = ANY (ARRAY(
               SELECT s.object_key FROM {schema}.swept_leases s
                WHERE s.verify_at <= {schema}.now_utc_micro_seconds()
                ORDER BY s.verify_at
                LIMIT 4 * $1::bigint))
       AND o.lock IS NULL
       AND NOT EXISTS (SELECT FROM {schema}.daemons d, jsonb_object_keys(d.config -> 'replicas') AS served
                        WHERE d.alive_until > {schema}.now_utc_micro_seconds() AND served <> ALL ($3::text[]))
     LIMIT $1::bigint
       FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {schema}.swept_leases s SET verify_at = {schema}.now_utc_micro_seconds() + $2
  FROM chosen WHERE s.object_key = chosen.object_key
RETURNING s.object_key, s.primary_too"
    ))
}

/// `$1` key, `$2` fence, `$3` generation: arrays of one.
///
/// What still lacks a copy and had a holder that died stays suspected of it.
pub(super) fn conclude(schema: &SchemaName, replicas: &[ReplicaName]) -> SqlStr {
    let schema = schema.quoted();
    let (held, answers) = (held(&schema), answers(&schema));
    let missing = replicas.iter().map(|r| format!("(o.{} IS NULL AND o.{} IS NOT NULL)", r.column(), r.due_column()));
    let missing = missing.collect::<Vec<_>>().join(" OR ");
    built(format!(
        "-- {CONCLUDE}
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS a(k, f, g)
),
{held},
done AS (
    UPDATE {schema}.object_copies o
       SET lock = NULL, lease = NULL
      FROM held JOIN asked a ON a.k = held.object_key
     WHERE o.object_key = held.object_key AND o.lease = a.f AND o.generation = a.g
    RETURNING o.object_key, a.f, {missing} AS missing
),
forgotten AS (
    DELETE FROM {schema}.swept_leases s USING done
     WHERE s.object_key = done.object_key AND (s.times = 0 OR NOT done.missing)
),
suspected AS (
    UPDATE {schema}.swept_leases s SET verify_at = NULL
      FROM done WHERE s.object_key = done.object_key AND s.times > 0 AND done.missing
)
{answers}"
    ))
}

impl Queue {
    /// Up to `limit` objects whose recorded copies are to be read once more, and that nobody holds. Whatever becomes
    /// of them, they are taken again after `again`, until [`Queue::conclude`] says that all is well: a reader that
    /// dies loses nothing.
    pub async fn take_unverified(&self, limit: usize, again: Duration) -> Result<Vec<Unverified>, QueueError> {
        let query = sqlx::query_as(self.statements.take_unverified.clone())
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(micros(again))
            .bind(self.replicas.iter().map(ReplicaName::as_str).collect::<Vec<_>>());
        let rows: Vec<(String, bool)> = limited(TAKE, query.fetch_all(&self.pool)).await?;
        let parse = |(key, primary_too): (String, bool)| {
            let key = key_of(TAKE, key)?;
            Ok(Unverified { key, primary_too })
        };
        rows.into_iter().map(parse).collect()
    }

    /// All that is recorded of the object was read once more and is what it should be: its sweep is forgotten and the
    /// lease given back, in one statement, so that nobody can have swept it meanwhile.
    pub async fn conclude(&self, lease: &Lease) -> Result<Answer, QueueError> {
        let query = sqlx::query_as(self.statements.conclude.clone())
            .bind(vec![lease.key.as_str()])
            .bind(vec![lease.fence.0])
            .bind(vec![lease.generation.0]);
        let rows: Vec<(String, i64, String)> = limited(CONCLUDE, query.fetch_all(&self.pool)).await?;
        Ok(parse_all(CONCLUDE, rows)?.first().map_or(Answer::Changed, |(.., answer)| *answer))
    }

    /// Forgets the sweeps of objects that the application has deleted, a page of them at a time. Returns where the
    /// next page begins; `None`: at the beginning.
    pub async fn tidy_swept(&self, after: Option<&ObjectKey>) -> Result<Option<ObjectKey>, QueueError> {
        let schema = self.schema.quoted();
        let sql = built(format!(
            "-- {TIDY}
WITH page AS MATERIALIZED (
    SELECT object_key FROM {schema}.swept_leases WHERE object_key > $1 ORDER BY object_key LIMIT {PAGE}
),
orphans AS (
    DELETE FROM {schema}.swept_leases s
     WHERE s.object_key = ANY (ARRAY(
               SELECT p.object_key FROM page p
                WHERE NOT EXISTS (SELECT FROM {schema}.object_copies o WHERE o.object_key = p.object_key)))
)
SELECT CASE WHEN count(*) = {PAGE} THEN max(object_key) END FROM page"
        ));
        let query = sqlx::query_scalar(sql).bind(after.map_or("", ObjectKey::as_str));
        let last: Option<String> = limited(TIDY, query.fetch_one(&self.pool)).await?;
        last.map(|key| key_of(TIDY, key)).transpose()
    }
}
