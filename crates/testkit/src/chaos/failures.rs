//! The failures of daemons and PostgreSQL while objects are copied.

use std::{path::Path, time::Duration};

use copyhold_sandbox::postgres::Cluster;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::RwLock,
    time::{Instant, sleep},
};

use super::{
    DAEMONS, LEASE,
    application::Application,
    environment::{Environment, role},
    fleet::{Fleet, Replacement},
    keys::Keys,
    patiently,
};

/// The processes of a chaos run, and when its failures end.
pub(super) struct Chaos<'a> {
    pub(super) environment: &'a Environment,
    pub(super) fleet: &'a Fleet,
    pub(super) application: &'a Application,
    pub(super) program: &'a Path,
    pub(super) keys: Keys,
    pub(super) end: Instant,
    /// Read-locked by tasks that need PostgreSQL to stay up.
    pub(super) up: &'a RwLock<()>,
}

impl Chaos<'_> {
    /// Kills a random daemon every second and starts its successor at once. Returns how many.
    pub(super) async fn kill(&self, seed: u64) -> anyhow::Result<usize> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut killed = 0;
        while Instant::now() < self.end {
            sleep(Duration::from_secs(1)).await;
            let slot = rng.random_range(0..DAEMONS);
            killed += usize::from(self.fleet.replace(slot, self.environment, Replacement::Fair).await?);
        }
        Ok(killed)
    }

    /// Has the server end connections of random daemons, but not of one that is being watched. Returns how many.
    pub(super) async fn break_connections(&self, seed: u64) -> anyhow::Result<u64> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut broken = 0;
        while Instant::now() < self.end {
            sleep(Duration::from_millis(rng.random_range(500..3000))).await;
            let slot = rng.random_range(0..DAEMONS);
            let process = self.fleet.slot(slot).lock().await;
            if process.spared {
                continue;
            }
            let sql = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM (
    SELECT pid FROM pg_stat_activity WHERE usename = $1 ORDER BY random() LIMIT 2) t";
            let count: i64 =
                patiently(|| sqlx::query_scalar(sql).bind(role(slot)).fetch_one(&self.environment.pool)).await?;
            broken += u64::try_from(count)?;
        }
        Ok(broken)
    }

    /// Crashes and restarts PostgreSQL, once.
    pub(super) async fn restart(&self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let begun = Instant::now();
        sleep(self.end.saturating_duration_since(begun) / 2).await;
        let _alone = self.up.write().await;
        cluster.kill_server().await?;
        sleep(Duration::from_secs(1)).await;
        cluster.restart().await?;
        *self.environment.recovered.lock().await = Some(Instant::now());
        Ok(())
    }

    /// Has another program lock ten leased rows for twice the lease time, twice. The holders of the leases must
    /// neither wait for its transaction nor break it.
    pub(super) async fn hold_rows(&self) -> anyhow::Result<()> {
        for _ in 0..2 {
            sleep(LEASE).await;
            let _up = self.up.read().await;
            let rows =
                "SELECT object_key FROM copyhold.object_copies WHERE lock IS NOT NULL LIMIT 10 FOR UPDATE SKIP LOCKED";
            loop {
                let mut transaction = self.environment.pool.begin().await?;
                if sqlx::query(rows).fetch_all(&mut *transaction).await?.len() == 10 {
                    sleep(LEASE * 2).await;
                    transaction.commit().await?;
                    break;
                }
                transaction.rollback().await?;
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }
}
