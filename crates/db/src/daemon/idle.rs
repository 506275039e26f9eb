//! Whether a daemon is idle and needs a notification of new work.

use super::registration::DaemonId;
use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::trusted_sql,
};

/// What an idle daemon wants to be notified of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleKind {
    /// Objects that are registered.
    Work,
    /// Events that other programs append.
    Inbox,
}

impl IdleKind {
    fn column(self) -> &'static str {
        match self {
            Self::Work => "sleeping",
            Self::Inbox => "inbox_sleeping",
        }
    }
}

impl Database {
    /// Registers whether this daemon is idle and needs a notification; returns how many living daemons with a smaller
    /// id are idle for the same. Repeating it costs one read: a daemon that was removed from the table, and is
    /// registered again, is not idle there.
    pub async fn set_idle(&self, daemon: DaemonId, what: IdleKind, sleeping: bool) -> Result<u32, DatabaseError> {
        let (schema, column) = (self.schema.quoted(), what.column());
        let sql = trusted_sql(format!(
            "-- daemon::set_idle
WITH said AS (UPDATE {schema}.daemons SET {column} = $2 WHERE id = $1 AND {column} <> $2)
SELECT count(*) FROM {schema}.daemons
WHERE {column} AND id < $1 AND alive_until > {schema}.now_utc_micro_seconds()"
        ));
        let before: i64 = with_timeout(
            "daemon::set_idle",
            sqlx::query_scalar(sql).bind(daemon.number()).bind(sleeping).fetch_one(&self.pool),
        )
        .await?;
        Ok(u32::try_from(before).unwrap_or(u32::MAX))
    }

    /// Stores how this daemon learns of new work: `notify`, `poll`, or why it cannot be notified.
    pub async fn set_wakeup(&self, daemon: DaemonId, how: &str) -> Result<(), DatabaseError> {
        let sql = trusted_sql(format!(
            "-- daemon::set_wakeup\nUPDATE {}.daemons SET wakeup = $2 WHERE id = $1",
            self.schema.quoted()
        ));
        with_timeout("daemon::set_wakeup", sqlx::query(sql).bind(daemon.number()).bind(how).execute(&self.pool))
            .await?;
        Ok(())
    }
}
