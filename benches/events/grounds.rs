use std::fs;

use anyhow::Context as _;
use copyhold::{
    config::{self, Config},
    events::{self, Log, Settings},
    queue::{self, Queue},
    sandbox::postgres::{Cluster, Options},
    wake,
};
use sqlx::{
    AssertSqlSafe, PgPool,
    postgres::{PgListener, PgPoolOptions},
};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::common::machine;

/// A durable PostgreSQL.
pub struct Grounds {
    pub cluster: Cluster,
}

/// A database of its own with our tables, and a configuration for it whose stores are nowhere.
pub struct Ground {
    pub name: &'static str,
    pub pool: PgPool,
    pub config: Config,
    _folder: TempDir,
}

/// A log that is followed in this process, as in a daemon: woken by notices, and by itself.
pub struct Followed {
    pub log: Log,
    stop: CancellationToken,
    /// Stopped when dropped.
    tasks: JoinSet<()>,
}

impl Grounds {
    pub async fn begin() -> anyhow::Result<Self> {
        let settings = [("shared_buffers", "512MB"), ("max_wal_size", "4GB"), ("max_connections", "300")];
        let options = settings.iter().fold(Options::default(), |options, (name, value)| options.with(name, value));
        let cluster = Cluster::start(options).await?;
        let folder = cluster.folder().parent().context("a folder for temporary files")?.to_owned();
        let rate = tokio::task::spawn_blocking(move || machine::fdatasyncs_per_second(&folder)).await??;
        println!("-- {}; {rate:.0} fdatasyncs/s; fsync on, {settings:?}", machine::load());
        Ok(Self { cluster })
    }

    /// A fresh database, with so many connections at most. Dropped with [`Grounds::clear`].
    pub async fn make(&self, name: &'static str, connections: u32) -> anyhow::Result<Ground> {
        self.cluster.create_database(name, None).await?;
        let url = self.cluster.url(name);
        let folder = TempDir::new()?;
        let path = folder.path().join("copyhold.toml");
        let replica = |name: &str| {
            format!(
                "[replicas.{name}]\nendpoint = \"http://127.0.0.1:1\"\nregion = \"nowhere\"\nbucket = \"{name}\"\n\
                 access_key_id = \"none\"\nsecret_access_key = \"none\"\n"
            )
        };
        let text = format!("primary = \"b2\"\n{}{}[database]\nurl = \"{url}\"\n", replica("b2"), replica("wasabi"));
        fs::write(&path, text)?;
        let config = config::load(&path, Vec::<(String, String)>::new())?;
        queue::migrate(&config).await?;
        let pool = PgPoolOptions::new().max_connections(connections).connect_lazy(&url)?;
        Ok(Ground { name, pool, config, _folder: folder })
    }

    pub async fn clear(&self, ground: Ground) -> anyhow::Result<()> {
        ground.pool.close().await;
        Ok(self.cluster.drop_database(ground.name).await?)
    }

    pub async fn end(self) -> anyhow::Result<()> {
        println!("-- at the end: {}", machine::load());
        Ok(self.cluster.stop().await?)
    }
}

impl Ground {
    /// Runs statements as they are.
    pub async fn execute(&self, statements: impl Into<String>) -> anyhow::Result<()> {
        sqlx::raw_sql(AssertSqlSafe(statements.into())).execute(&self.pool).await?;
        Ok(())
    }

    pub fn queue(&self) -> Queue {
        let names = self.config.replicas.iter().map(|r| r.name.clone()).collect();
        Queue::new(self.pool.clone(), self.config.database.schema.clone(), names)
    }

    pub async fn follow(&self, settings: Settings) -> anyhow::Result<Followed> {
        let (waker, wake) = wake::channel();
        let (log, tailer) = events::open(self.queue(), settings, wake);
        let stop = CancellationToken::new();
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen(&format!("{}_event", self.config.database.schema)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(tailer.run(stop.clone()));
        tasks.spawn(async move {
            while listener.recv().await.is_ok() {
                waker.wake();
            }
        });
        Ok(Followed { log, stop, tasks })
    }
}

impl Followed {
    pub async fn end(mut self) {
        self.stop.cancel();
        self.tasks.shutdown().await;
    }
}
