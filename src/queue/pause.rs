use std::time::Duration;

use super::{Notice, PARKED, Queue, QueueError, built, error::limited, micros};
use crate::domain::ReplicaName;

/// Nothing is copied to a replica for a while, by all daemons. It may still be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// µs since the epoch by the database's clock; `None`: until it is resumed.
    pub until: Option<i64>,
    /// What whoever paused it had to say.
    pub because: Option<String>,
}

impl Queue {
    /// Pauses a replica for as long, or until it is resumed; a pause that is in force is replaced. `None`: there is
    /// no such replica in the database.
    ///
    /// Daemons learn of it from a notice, else within seconds. What is under way is finished.
    pub async fn pause(
        &self,
        replica: &ReplicaName,
        length: Option<Duration>,
        because: Option<&str>,
    ) -> Result<Option<Pause>, QueueError> {
        let schema = self.schema.quoted();
        let sql = built(format!(
            "-- queue::pause
UPDATE {schema}.replicas
   SET paused_until = coalesce({schema}.now_utc_micro_seconds() + $2, {PARKED}), pause_reason = $3
WHERE name = $1
RETURNING paused_until, pause_reason"
        ));
        let query = sqlx::query_as(sql).bind(replica.as_str()).bind(length.map(micros)).bind(because);
        let paused: Option<(i64, Option<String>)> = limited("queue::pause", query.fetch_optional(&self.pool)).await?;
        self.notify(Notice::Replicas).await?;
        Ok(paused.map(|(until, because)| Pause { until: (until != PARKED).then_some(until), because }))
    }

    /// Ends a pause. Whether there was one; `None`: there is no such replica in the database.
    pub async fn resume(&self, replica: &ReplicaName) -> Result<Option<bool>, QueueError> {
        let schema = self.schema.quoted();
        // The value before is what RETURNING cannot tell.
        let sql = built(format!(
            "-- queue::resume
WITH held AS MATERIALIZED (
    SELECT name, paused_until FROM {schema}.replicas WHERE name = $1 FOR NO KEY UPDATE
)
UPDATE {schema}.replicas r SET paused_until = NULL, pause_reason = NULL
  FROM held WHERE r.name = held.name
RETURNING coalesce(held.paused_until > {schema}.now_utc_micro_seconds(), false)"
        ));
        let query = sqlx::query_scalar(sql).bind(replica.as_str());
        let was_paused = limited("queue::resume", query.fetch_optional(&self.pool)).await?;
        self.notify(Notice::Replicas).await?;
        Ok(was_paused)
    }
}
