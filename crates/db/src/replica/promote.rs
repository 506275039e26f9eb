//! Makes another replica the primary, for all daemons and for `register`, at once.

use copyhold_core::domain::{EventKind, ReplicaName};

use super::list::FOREIGN_US;
use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    log::append,
    notify::notification::Notification,
    sql::{PARKED, trusted_sql},
};

const DEMOTE: &str = "replica::demote";
const PROMOTE: &str = "replica::promote";
const PRIMARY: &str = "replica::primary";
const PARKED_BY: &str = "replica::parked_classes";
const RECENT: &str = "replica::recently_missing";
/// A copy of an object registered within this time is likely to be made in a moment. µs.
const LATELY: i64 = 60_000_000;

/// The primary in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Primary {
    pub name: ReplicaName,
    /// µs since the epoch by the database's clock.
    pub since: i64,
}

/// The result of promoting a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromoteResult {
    /// It is the primary since this time.
    Promoted { since: i64 },
    /// The primary that it was to follow is not the primary any more.
    TooLate,
    /// It lacks copies, or some there are not settled, and the caller did not accept that.
    Lacks,
    /// It was paused, drained or reset meanwhile, or its store has become unhealthy.
    Unfit,
}

impl Database {
    /// The primary in force; `None`: there is none, which only an unfinished migration leaves behind.
    pub async fn primary(&self) -> Result<Option<Primary>, DatabaseError> {
        let sql = trusted_sql(format!(
            "-- {PRIMARY}\nSELECT name, primary_since FROM {}.replicas WHERE primary_since IS NOT NULL",
            self.schema.quoted()
        ));
        let row: Option<(String, i64)> = with_timeout(PRIMARY, sqlx::query_as(sql).fetch_optional(&self.pool)).await?;
        row.map(|(name, since)| {
            let name = ReplicaName::new(&name).map_err(|e| DatabaseError::Inconsistent {
                statement: PRIMARY,
                what: format!("replica \"{name}\": {e}"),
            })?;
            Ok(Primary { name, since })
        })
        .transpose()
    }

    /// Makes `replica` the primary in force in place of `from`, if that is still the primary: of two concurrent calls,
    /// one succeeds.
    /// `from` becomes an ordinary replica. The application filled its bucket, so equal objects are adopted and others
    /// are left alone. Objects that were registered until now are known there, and are overwritten when they are
    /// registered again with a new content.
    /// over when they are registered again with a new content.
    pub async fn promote(
        &self,
        replica: &ReplicaName,
        from: &Primary,
        accept_missing: bool,
    ) -> Result<PromoteResult, DatabaseError> {
        let schema = self.schema.quoted();
        let now = format!("{schema}.now_utc_micro_seconds()");
        // Decided while it was the primary, `adopt` refers only to the application's own objects. How it is written to
        // is decided anew, by its store's clock, as soon as a daemon has inspected it: the operator may promote because
        // that store is lost.
        let demote = trusted_sql(format!(
            "-- {DEMOTE}
UPDATE {schema}.replicas r
   SET primary_since = NULL,
       existing = CASE WHEN r.existing = 'overwrite' THEN r.existing END,
       writable_at = CASE WHEN r.existing = 'overwrite' THEN r.writable_at END,
       looked_at = NULL, adopts = true,
       foreign_before = CASE WHEN r.existing = 'adopt' AND r.registered_through IS NULL AND r.writable_at < r.primary_since
                             THEN coalesce(r.looked_at + {FOREIGN_US}, r.writable_at) ELSE r.foreign_before END,
       registered_through = (SELECT last_value FROM {schema}.object_copies_id_seq),
       begun_through = (SELECT last_value FROM {schema}.generations)
 WHERE r.name = $1 AND r.primary_since = $2"
        ));
        let (copy, due) = (replica.column(), replica.due_column());
        // An index answers each of them, with a single lookup where there is nothing.
        let lacks = format!(
            "EXISTS (SELECT FROM {schema}.object_copies WHERE {copy} IS NULL AND {due} < {PARKED} AND lock IS NULL)
       OR EXISTS (SELECT FROM {schema}.object_copies WHERE {copy} IS NULL AND {due} < {PARKED} AND lock IS NOT NULL)
       OR EXISTS (SELECT FROM {schema}.object_copies WHERE {copy} IS NULL AND {due} = {PARKED})
       -- What still arrives there would be taken for the application's, or overwrite what the application uploads.
       OR EXISTS (SELECT FROM {schema}.unsettled u WHERE u.replica = $1)
       OR (SELECT lost.until > {now} FROM ({}) AS lost)",
            crate::lease::unsettled::until(&schema)
        );
        let members = "'replica', name, 'in_place_of', $2, 'missing_accepted', $3";
        let logged = append::logged_one(&schema, &self.kinds, EventKind::ReplicaPromoted, members, "promoted");
        let promote = trusted_sql(format!(
            "-- {PROMOTE}
WITH lacking AS MATERIALIZED (SELECT NOT $3 AND ({lacks}) AS lacks),
promoted AS (
    UPDATE {schema}.replicas r SET primary_since = {now}
     WHERE r.name = $1 AND NOT (SELECT lacks FROM lacking)
       AND r.draining_since IS NULL AND coalesce(r.paused_until <= {now}, true) AND r.breaker_opened_at IS NULL
       AND NOT EXISTS (SELECT FROM {schema}.resets s WHERE s.replica = r.name)
    RETURNING r.name, r.primary_since
),
{logged}
SELECT lacks, promoted.primary_since FROM lacking LEFT JOIN promoted ON true CROSS JOIN logged"
        ));
        let rules = trusted_sql(format!(
            "-- replica::promote_rules
UPDATE {schema}.rules_state SET version = version + 1, changed_at = {now} WHERE EXISTS (SELECT FROM {schema}.rules)"
        ));
        // Two statements, because at no time, not even within one, may there be two primaries.
        let swap = async {
            let mut transaction = self.pool.begin().await?;
            let demoted = sqlx::query(demote).bind(from.name.as_str()).bind(from.since);
            if demoted.execute(&mut *transaction).await?.rows_affected() == 0 {
                transaction.rollback().await?;
                return Ok(PromoteResult::TooLate);
            }
            let query = sqlx::query_as(promote).bind(replica.as_str()).bind(from.name.as_str()).bind(accept_missing);
            let (lacks, since): (bool, Option<i64>) = query.fetch_one(&mut *transaction).await?;
            let Some(since) = since else {
                transaction.rollback().await?;
                return Ok(if lacks { PromoteResult::Lacks } else { PromoteResult::Unfit });
            };
            // The primary has every object, whatever the rules say: they have to be applied again.
            sqlx::query(rules).execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(PromoteResult::Promoted { since })
        };
        let promoted = with_timeout(PROMOTE, Box::pin(swap)).await?;
        if matches!(promoted, PromoteResult::Promoted { .. }) {
            self.notify(Notification::Replicas).await?;
        }
        Ok(promoted)
    }

    /// Whether the replica has any recorded copy: where many objects have one, the first shows that at once.
    pub async fn has_any_copy(&self, replica: &ReplicaName) -> Result<bool, DatabaseError> {
        let sql = trusted_sql(format!(
            "-- replica::has_any_copy\nSELECT EXISTS (SELECT FROM {schema}.object_copies WHERE {copy} IS NOT NULL)
       OR NOT EXISTS (SELECT FROM {schema}.object_copies)",
            schema = self.schema.quoted(),
            copy = replica.column()
        ));
        with_timeout("replica::has_any_copy", sqlx::query_scalar(sql).fetch_one(&self.pool)).await
    }

    /// Of the copies that the replica lacks and that are not parked, those that are leased or were registered within
    /// the last minute.
    pub async fn recently_missing(&self, replica: &ReplicaName) -> Result<i64, DatabaseError> {
        let schema = self.schema.quoted();
        let (copy, due) = (replica.column(), replica.due_column());
        let sql = trusted_sql(format!(
            "-- {RECENT}
SELECT (SELECT count(*) FROM {schema}.object_copies WHERE {copy} IS NULL AND {due} < {PARKED} AND lock IS NOT NULL)
     + (SELECT count(*) FROM {schema}.object_copies WHERE {copy} IS NULL AND {due} < {PARKED} AND lock IS NULL
           AND created_at > {schema}.now_utc_micro_seconds() - {LATELY})"
        ));
        with_timeout(RECENT, sqlx::query_scalar(sql).fetch_one(&self.pool)).await
    }

    /// The classes of its parked copies, the most frequent first.
    pub async fn parked_classes(&self, replica: &ReplicaName) -> Result<Vec<(String, i64)>, DatabaseError> {
        let (copy, due) = (replica.column(), replica.due_column());
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {PARKED_BY}
SELECT coalesce(f.class, 'unknown'), count(*)
FROM {schema}.object_copies o
LEFT JOIN {schema}.copy_failures f ON f.object_key = o.object_key AND f.replica = $1 AND f.generation = o.generation
WHERE o.{copy} IS NULL AND o.{due} = {PARKED}
GROUP BY 1 ORDER BY 2 DESC, 1"
        ));
        with_timeout(PARKED_BY, sqlx::query_as(sql).bind(replica.as_str()).fetch_all(&self.pool)).await
    }
}
