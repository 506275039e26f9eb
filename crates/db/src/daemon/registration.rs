//! The table `daemons`: ids, heartbeats, and the daemon's part of a fence.

use std::{fmt, time::Duration};

use copyhold_core::domain::{EventKind, Fence, micros};

use super::peers::PublishedConfig;
use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    log::append::{event, logged},
    sql::{FENCE_RANDOM_BITS, trusted_sql},
};

/// The id of a daemon: 23 bits, the upper part of each of its fences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DaemonId(i32);

impl DaemonId {
    /// A fence of this daemon; `random` decides its lower bits.
    pub(crate) fn fence(self, random: u64) -> Fence {
        Fence(i64::from(self.0) << FENCE_RANDOM_BITS | (random >> (64 - FENCE_RANDOM_BITS)).cast_signed())
    }

    /// The daemon that a fence belongs to.
    #[must_use]
    pub fn of(fence: Fence) -> Self {
        // Cannot fail: a 63-bit number shifted by 40 has 23 bits.
        Self(i32::try_from(fence.0 >> FENCE_RANDOM_BITS).unwrap_or_default())
    }

    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for DaemonId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The registration of this process.
#[derive(Debug, Clone)]
pub struct Daemon {
    pub id: DaemonId,
    pub host: String,
    pub lease_timeout: Duration,
    /// `None`: it publishes nothing.
    pub config: Option<PublishedConfig>,
}

impl Database {
    /// Registers this process in `daemons`, alive for `lease_timeout`.
    pub async fn register_daemon(&self, host: String, lease_timeout: Duration) -> Result<Daemon, DatabaseError> {
        self.register_daemon_as(host, lease_timeout, None).await
    }

    /// As [`Self::register_daemon`], and publishes the configuration.
    pub async fn register_daemon_as(
        &self,
        host: String,
        lease_timeout: Duration,
        config: Option<PublishedConfig>,
    ) -> Result<Daemon, DatabaseError> {
        // After a switchover by logical replication the sequence begins again: another daemon may have that number.
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- daemon::register
SELECT drawn.id FROM (SELECT nextval('{schema}.daemon_ids')::int AS id FROM generate_series(1, 100000) OFFSET 0) AS drawn
WHERE NOT EXISTS (SELECT FROM {schema}.daemons d WHERE d.id = drawn.id) LIMIT 1"
        ));
        let id = with_timeout("daemon::register", sqlx::query_scalar(sql).fetch_one(&self.pool)).await?;
        let daemon = Daemon { id: DaemonId(id), host, lease_timeout, config };
        self.heartbeat(&daemon).await?;
        Ok(daemon)
    }

    /// Returns whether any daemon is alive.
    pub async fn daemon_is_alive(&self) -> Result<bool, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- daemon::daemon_is_alive
SELECT EXISTS (SELECT FROM {schema}.daemons WHERE alive_until > {schema}.now_utc_micro_seconds())"
        ));
        with_timeout("daemon::daemon_is_alive", sqlx::query_scalar(sql).fetch_one(&self.pool)).await
    }

    /// Records that this daemon is alive, and deletes daemons without a heartbeat for ten lease times. A daemon that
    /// was itself deleted, after a long suspension of its machine, is registered again.
    pub async fn heartbeat(&self, daemon: &Daemon) -> Result<(), DatabaseError> {
        let schema = self.schema.quoted();
        let of = |kind| self.kinds.contains(kind);
        let started = of(EventKind::DaemonStarted).then(|| {
            let members = "'daemon', id, 'host', host, 'process_id', process_id, 'version', version";
            // A row that existed has the xmax of the transaction that has changed it.
            format!("{} FROM entered WHERE is_new", event(EventKind::DaemonStarted, members))
        });
        let stopped = of(EventKind::DaemonStopped).then(|| {
            let members = "'daemon', id, 'host', host, 'process_id', process_id, 'clean', false";
            format!("{} FROM dead", event(EventKind::DaemonStopped, members))
        });
        let events: Vec<_> = [stopped, started].into_iter().flatten().collect();
        let logged = logged(&schema, &events.join(" UNION ALL "), &[]);
        let sql = trusted_sql(format!(
            "-- daemon::heartbeat
WITH dead AS (
    DELETE FROM {schema}.daemons d WHERE d.id IN (
        SELECT id FROM {schema}.daemons
        WHERE id <> $1 AND alive_until + 10 * lease_timeout_us < {schema}.now_utc_micro_seconds()
        FOR UPDATE SKIP LOCKED)
    RETURNING d.id, d.host, d.process_id
),
entered AS (
    INSERT INTO {schema}.daemons AS d (id, host, process_id, version, alive_until, lease_timeout_us, config_fingerprint, config)
    VALUES ($1, $2, $3, $4, {schema}.now_utc_micro_seconds() + $5, $5, $6, $7::jsonb)
    ON CONFLICT (id) DO UPDATE SET alive_until = excluded.alive_until
    RETURNING d.id, d.host, d.process_id, d.version, d.xmax = 0 AS is_new
),
{logged}
SELECT FROM entered CROSS JOIN logged"
        ));
        let query = sqlx::query(sql)
            .bind(daemon.id.0)
            .bind(&daemon.host)
            .bind(std::process::id().cast_signed())
            .bind(env!("CARGO_PKG_VERSION"))
            .bind(micros(daemon.lease_timeout))
            .bind(daemon.config.as_ref().map(|config| config.fingerprint(daemon.lease_timeout)))
            .bind(daemon.config.as_ref().map(PublishedConfig::json));
        with_timeout("daemon::heartbeat", query.execute(&self.pool)).await?;
        Ok(())
    }

    /// Removes this process from the table.
    pub async fn deregister_daemon(&self, daemon: DaemonId) -> Result<(), DatabaseError> {
        let members = "'daemon', id, 'host', host, 'process_id', process_id, 'clean', true";
        let logged = self.logged(EventKind::DaemonStopped, members, "gone");
        let sql = trusted_sql(format!(
            "-- daemon::deregister
WITH gone AS (
    DELETE FROM {}.daemons WHERE id = $1 RETURNING id, host, process_id
),
{logged}
SELECT FROM gone CROSS JOIN logged",
            self.schema.quoted()
        ));
        with_timeout("daemon::deregister", sqlx::query(sql).bind(daemon.0).execute(&self.pool)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_contains_its_daemon_and_is_never_negative() {
        for id in [1, 77, 8_388_607] {
            for random in [0, 1, u64::MAX] {
                let fence = DaemonId(id).fence(random);
                assert!(fence.0 > 0);
                assert_eq!(DaemonId::of(fence), DaemonId(id));
            }
        }
    }
}
