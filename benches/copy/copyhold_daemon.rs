//! A daemon of the real program with its PostgreSQL, as a contestant.

use std::time::Duration;

use super::baseline::Cost;
use crate::common::{
    daemon::Daemon,
    environment::{Disk, Environment},
    stores::Stores,
};

const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) struct CopyholdDaemon {
    pub(super) stage: Environment,
    pub(super) daemon: Daemon,
}

/// The cost of a daemon's work, and the CPU time of others for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct DaemonCost {
    /// The time from the registration to the last record, by the database's clock, and the daemon's CPU time.
    pub(super) ours: Cost,
    pub(super) database_cpu_seconds: f64,
}

impl CopyholdDaemon {
    pub(super) async fn begin(stores: &Stores, settings: &str) -> anyhow::Result<Self> {
        Self::on(Environment::begin(Disk::Plain, stores, settings).await?).await
    }

    pub(super) async fn on(stage: Environment) -> anyhow::Result<Self> {
        let daemon = stage.daemon().await?;
        stage.until_idle(1).await?;
        Ok(Self { stage, daemon })
    }

    /// Registers these keys in one transaction and waits until all of them are copied to both targets.
    pub(super) async fn copy(&mut self, keys: &[String]) -> anyhow::Result<DaemonCost> {
        let pool = &self.stage.pool;
        let before = (self.daemon.cpu_seconds()?, self.stage.database_cpu_seconds().await?);
        let last: i64 =
            sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM copyhold.object_copies").fetch_one(pool).await?;
        self.register(keys).await?;
        self.until_done().await?;
        let took = self.stage.took_since(last).await?;
        let ours = Cost { seconds: took.as_secs_f64(), cpu_seconds: self.daemon.cpu_seconds()? - before.0 };
        Ok(DaemonCost { ours, database_cpu_seconds: self.stage.database_cpu_seconds().await? - before.1 })
    }

    /// Registers these keys in one transaction.
    pub(super) async fn register(&self, keys: &[String]) -> anyhow::Result<()> {
        let sql = "INSERT INTO copyhold.object_copies (object_key, b2)
SELECT key, copyhold.now_utc_micro_seconds() FROM unnest($1::text[]) WITH ORDINALITY AS keys (key, i) ORDER BY i";
        sqlx::query(sql).bind(keys).execute(&self.stage.pool).await?;
        Ok(())
    }

    /// Waits until all registered objects are copied.
    pub(super) async fn until_done(&mut self) -> anyhow::Result<()> {
        while self.stage.unfinished().await? > 0 {
            self.daemon.check()?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.daemon.end().await?;
        self.stage.end().await
    }
}
