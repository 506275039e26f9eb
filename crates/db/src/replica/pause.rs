//! Pauses and resumes copies to a replica, for all daemons.

use std::time::Duration;

use copyhold_core::domain::{EventKind, ReplicaName, micros};

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    notify::notification::Notification,
    sql::{PARKED, trusted_sql},
};

/// No daemon copies to the replica for a while. It may still be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// µs since the epoch by the database's clock; `None`: until it is resumed.
    pub until: Option<i64>,
    /// The operator's reason.
    pub because: Option<String>,
}

/// The state that resuming a replica has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeResult {
    pub was_paused: bool,
    /// Its breaker is open: the next probe, due now, shows whether the store works.
    pub breaker_is_open: bool,
}

impl Database {
    /// Pauses a replica for `length`, or until it is resumed; a pause in force is replaced. `None`: the database has no
    /// such replica.
    /// A notification tells the daemons, otherwise their next poll within seconds. Running copies are finished.
    pub async fn pause(
        &self,
        replica: &ReplicaName,
        length: Option<Duration>,
        because: Option<&str>,
    ) -> Result<Option<Pause>, DatabaseError> {
        let schema = self.schema.quoted();
        let members = format!("'replica', name, 'until', nullif(paused_until, {PARKED}), 'because', pause_reason");
        let logged = self.logged(EventKind::ReplicaPaused, &members, "paused");
        let sql = trusted_sql(format!(
            "-- replica::pause
WITH paused AS (
    UPDATE {schema}.replicas
       SET paused_until = coalesce({schema}.now_utc_micro_seconds() + $2, {PARKED}), pause_reason = $3
    WHERE name = $1
    RETURNING name, paused_until, pause_reason
),
{logged}
SELECT paused_until, pause_reason FROM paused CROSS JOIN logged"
        ));
        let query = sqlx::query_as(sql).bind(replica.as_str()).bind(length.map(micros)).bind(because);
        let paused: Option<(i64, Option<String>)> =
            with_timeout("replica::pause", query.fetch_optional(&self.pool)).await?;
        self.notify(Notification::Replicas).await?;
        Ok(paused.map(|(until, because)| Pause { until: (until != PARKED).then_some(until), because }))
    }

    /// Ends a pause, and makes the next probe of an open breaker due at once. `None`: the database has no such replica.
    pub async fn resume(&self, replica: &ReplicaName) -> Result<Option<ResumeResult>, DatabaseError> {
        let schema = self.schema.quoted();
        let logged = self.logged(EventKind::ReplicaResumed, "'replica', name", "resumed WHERE was_paused");
        // RETURNING cannot show the value before.
        let sql = trusted_sql(format!(
            "-- replica::resume
WITH held AS MATERIALIZED (
    SELECT name, paused_until FROM {schema}.replicas WHERE name = $1 FOR NO KEY UPDATE
),
resumed AS (
    UPDATE {schema}.replicas r
       SET paused_until = NULL, pause_reason = NULL,
           probe_at = CASE WHEN r.breaker_opened_at IS NOT NULL THEN {schema}.now_utc_micro_seconds() END
      FROM held WHERE r.name = held.name
    RETURNING r.name, coalesce(held.paused_until > {schema}.now_utc_micro_seconds(), false) AS was_paused,
              r.breaker_opened_at IS NOT NULL AS breaker_is_open
),
{logged}
SELECT was_paused, breaker_is_open FROM resumed CROSS JOIN logged"
        ));
        let query = sqlx::query_as(sql).bind(replica.as_str());
        let resumed: Option<(bool, bool)> = with_timeout("replica::resume", query.fetch_optional(&self.pool)).await?;
        self.notify(Notification::Replicas).await?;
        Ok(resumed.map(|(was_paused, breaker_is_open)| ResumeResult { was_paused, breaker_is_open }))
    }
}
