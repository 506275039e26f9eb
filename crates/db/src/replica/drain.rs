use copyhold_core::domain::{EventKind, ReplicaName};

use super::list::DrainState;
use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    notify::notification::Notification,
    sql::trusted_sql,
};

/// What became of a replica that was to be drained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainResult {
    /// It is draining, perhaps since before.
    Draining(DrainState),
    /// It is the primary in force, which everything is copied from.
    IsPrimary,
}

impl Database {
    /// Has all daemons copy nothing to a replica that is about to leave, and nothing counted as missing there. New objects
    /// still get their due, so that undraining loses nothing; it remains a source. `None`: there is no such replica in
    /// the database.
    ///
    /// Daemons learn of it from a notice, else within seconds. What is under way is finished.
    pub async fn drain(
        &self,
        replica: &ReplicaName,
        because: Option<&str>,
    ) -> Result<Option<DrainResult>, DatabaseError> {
        let schema = self.schema.quoted();
        let members = "'replica', name, 'since', draining_since, 'because', drain_reason";
        let logged = self.logged(EventKind::ReplicaDraining, members, "drained WHERE is_new");
        let sql = trusted_sql(format!(
            "-- replica::drain
WITH held AS MATERIALIZED (
    SELECT name, primary_since, draining_since FROM {schema}.replicas WHERE name = $1 FOR NO KEY UPDATE
),
drained AS (
    UPDATE {schema}.replicas r
       SET draining_since = coalesce(held.draining_since, {schema}.now_utc_micro_seconds()),
           drain_reason = coalesce($2, r.drain_reason)
      FROM held WHERE r.name = held.name AND held.primary_since IS NULL
    RETURNING r.name, r.draining_since, r.drain_reason, held.draining_since IS NULL AS is_new
),
{logged}
SELECT drained.draining_since, drained.drain_reason FROM held LEFT JOIN drained USING (name) CROSS JOIN logged"
        ));
        let query = sqlx::query_as(sql).bind(replica.as_str()).bind(because);
        let drained: Option<(Option<i64>, Option<String>)> =
            with_timeout("replica::drain", query.fetch_optional(&self.pool)).await?;
        self.notify(Notification::Replicas).await?;
        Ok(drained.map(|(since, because)| {
            since.map_or(DrainResult::IsPrimary, |since| DrainResult::Draining(DrainState { since, because }))
        }))
    }

    /// Has it copied to again: all that was registered meanwhile is due. Whether it was draining; `None`: there is no
    /// such replica in the database.
    pub async fn undrain(&self, replica: &ReplicaName) -> Result<Option<bool>, DatabaseError> {
        let schema = self.schema.quoted();
        let logged = self.logged(EventKind::ReplicaUndrained, "'replica', name", "undrained WHERE was_draining");
        // The value before is what RETURNING cannot tell.
        let sql = trusted_sql(format!(
            "-- replica::undrain
WITH held AS MATERIALIZED (
    SELECT name, draining_since FROM {schema}.replicas WHERE name = $1 FOR NO KEY UPDATE
),
undrained AS (
    UPDATE {schema}.replicas r SET draining_since = NULL, drain_reason = NULL
      FROM held WHERE r.name = held.name
    RETURNING r.name, held.draining_since IS NOT NULL AS was_draining
),
{logged}
SELECT was_draining FROM undrained CROSS JOIN logged"
        ));
        let query = sqlx::query_scalar(sql).bind(replica.as_str());
        let was_draining = with_timeout("replica::undrain", query.fetch_optional(&self.pool)).await?;
        self.notify(Notification::Replicas).await?;
        Ok(was_draining)
    }
}
