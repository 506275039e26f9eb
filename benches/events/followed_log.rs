use std::time::Duration;

use copyhold::{
    config::Config,
    events::{self, Log, Settings},
    wakeup::wake_channel,
};
use copyhold_db::{Database, connections::Pools};
use sqlx::postgres::PgListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::common::database::BenchDatabase;

/// A log that this process follows, with a daemon's connection pool and one listening connection.
pub struct FollowedLog {
    pub log: Log,
    pools: Pools,
    stop: CancellationToken,
    /// Stopped when dropped.
    tasks: JoinSet<()>,
}

impl FollowedLog {
    pub async fn begin(ground: &BenchDatabase, config: &Config, buffer_bytes: usize) -> anyhow::Result<Self> {
        let settings = Settings { buffer_bytes, readers: 2000, poll: Duration::from_secs(5) };
        let pools = Pools::new(&config.database);
        let names = config.replicas.iter().map(|r| r.name.clone()).collect();
        let queue = Database::new(pools.work.clone(), config.database.schema.clone(), names);
        let (waker, wake) = wake_channel::channel();
        let (log, tailer) = events::open(queue.event_log(), settings, wake);
        let stop = CancellationToken::new();
        let mut listener = PgListener::connect_with(&ground.pool).await?;
        listener.listen(&format!("{}_event", config.database.schema)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(tailer.run(stop.clone()));
        tasks.spawn(async move {
            while listener.recv().await.is_ok() {
                waker.wake();
            }
        });
        Ok(Self { log, pools, stop, tasks })
    }

    pub async fn end(mut self) {
        self.stop.cancel();
        self.tasks.shutdown().await;
        self.pools.close().await;
    }
}
