use super::registration::DaemonId;
use crate::{
    error::{QueueError, limited},
    handle::Queue,
    sql::built,
};

/// What a daemon wants to be woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SleepsFor {
    /// Objects that are registered.
    Work,
    /// Events that other programs append.
    Inbox,
}

impl SleepsFor {
    fn column(self) -> &'static str {
        match self {
            Self::Work => "sleeping",
            Self::Inbox => "inbox_sleeping",
        }
    }
}

impl Queue {
    /// Says whether a notice is to wake this daemon; returns how many living daemons with a smaller id want to be woken for
    /// the same. Said again it costs a look: a daemon that was taken off the list meanwhile, and is on it again, has
    /// said nothing.
    pub async fn set_sleeping(&self, daemon: DaemonId, what: SleepsFor, sleeping: bool) -> Result<u32, QueueError> {
        let (schema, column) = (self.schema.quoted(), what.column());
        let sql = built(format!(
            "-- queue::set_sleeping
WITH said AS (UPDATE {schema}.daemons SET {column} = $2 WHERE id = $1 AND {column} <> $2)
SELECT count(*) FROM {schema}.daemons
WHERE {column} AND id < $1 AND alive_until > {schema}.now_utc_micro_seconds()"
        ));
        let before: i64 = limited(
            "queue::set_sleeping",
            sqlx::query_scalar(sql).bind(daemon.number()).bind(sleeping).fetch_one(&self.pool),
        )
        .await?;
        Ok(u32::try_from(before).unwrap_or(u32::MAX))
    }

    /// Says how this daemon learns of what is new: `notify`, `poll`, or why it cannot be notified.
    pub async fn set_wakeup(&self, daemon: DaemonId, how: &str) -> Result<(), QueueError> {
        let sql = built(format!(
            "-- queue::set_wakeup\nUPDATE {}.daemons SET wakeup = $2 WHERE id = $1",
            self.schema.quoted()
        ));
        limited("queue::set_wakeup", sqlx::query(sql).bind(daemon.number()).bind(how).execute(&self.pool)).await?;
        Ok(())
    }
}
