//! Drains and undrains a replica, for all daemons.

use copyhold_core::domain::{EventKind, ReplicaName};

use super::list::DrainState;
use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    notify::notification::Notification,
    sql::trusted_sql,
};

/// The result of draining a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainResult {
    /// It is draining, perhaps since before.
    Draining(DrainState),
    /// It is the primary in force, which all objects are copied from.
    IsPrimary,
}

impl Database {
    /// Stops all copies to a replica that is about to be removed; no copy counts as missing there. New objects still
    /// get a due time, so that undraining loses nothing, and the replica remains a source. `None`: the database has no
    /// such replica.
    /// A notification tells the daemons, otherwise their next poll within seconds. Running copies are finished.
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

    /// Resumes copies to the replica: all objects registered meanwhile are due. Returns whether it was draining;
    /// `None`: the database has no such replica.
    pub async fn undrain(&self, replica: &ReplicaName) -> Result<Option<bool>, DatabaseError> {
        let schema = self.schema.quoted();
        let logged = self.logged(EventKind::ReplicaUndrained, "'replica', name", "undrained WHERE was_draining");
        // RETURNING cannot show the value before.
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
