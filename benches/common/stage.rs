use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use copyhold::{
    config::{self, Config},
    domain::ReplicaName,
    queue::{self, Queue},
    sandbox::postgres::{Cluster, Options},
};
use sqlx::PgPool;
use tempfile::TempDir;

use super::{daemon::Daemon, machine, stores::Stores};

/// Where PostgreSQL's commits go. It is durable on both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    Plain,
    /// Each commit waits 3.3 ms before it is forced, which stands in for a disk that takes so much longer.
    Slow,
}

impl Disk {
    pub const BOTH: [Self; 2] = [Self::Plain, Self::Slow];

    /// As it is written in the names of bars.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Slow => "slow-disk",
        }
    }

    fn options(self) -> Options {
        match self {
            Self::Plain => Options::default(),
            Self::Slow => Options::default().with("commit_delay", "3300").with("commit_siblings", "0"),
        }
    }
}

/// A durable PostgreSQL with our tables, and a configuration that copies from `b2` to `wasabi` and `scw`.
pub struct Stage {
    pub config: Config,
    pub pool: PgPool,
    folder: TempDir,
    cluster: Cluster,
}

impl Stage {
    /// `settings`: further sections of the configuration. All else is as it comes.
    pub async fn begin(disk: Disk, stores: &Stores, settings: &str) -> anyhow::Result<Self> {
        let cluster = Cluster::start(disk.options()).await?;
        cluster.create_database("app", None).await?;
        let folder = TempDir::new()?;
        let path = folder.path().join("copyhold.toml");
        fs::write(&path, stores.configuration(&cluster.url("app"), settings)?)?;
        let config = config::load(&path, Vec::<(String, String)>::new())?;
        queue::migrate(&config).await?;
        let pool = PgPool::connect(&cluster.url("app")).await?;
        let stage = Self { config, pool, folder, cluster };
        stage.describe(disk).await?;
        Ok(stage)
    }

    /// Says what the figures that follow depend on.
    async fn describe(&self, disk: Disk) -> anyhow::Result<()> {
        let mut settings = Vec::new();
        for name in ["server_version", "fsync", "full_page_writes", "synchronous_commit", "commit_delay"] {
            let value: String =
                sqlx::query_scalar("SELECT current_setting($1)").bind(name).fetch_one(&self.pool).await?;
            settings.push(format!("{name} {value}"));
        }
        let folder = self.cluster.folder().parent().context("a folder for temporary files")?.to_owned();
        let rate = tokio::task::spawn_blocking(move || machine::fdatasyncs_per_second(&folder)).await??;
        println!("-- {}: {}; {rate:.0} fdatasyncs/s; {}", disk.name(), machine::load(), settings.join(", "));
        Ok(())
    }

    /// For commands of the real program.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("copyhold.toml")
    }

    /// Starts a daemon of the real program, and waits until it copies to both targets.
    pub async fn daemon(&self) -> anyhow::Result<Daemon> {
        Daemon::start(self.folder.path()).await
    }

    /// Waits until this many daemons have found nothing to do.
    pub async fn until_idle(&self, daemons: i64) -> anyhow::Result<()> {
        while self.count("SELECT count(*) FROM copyhold.daemons WHERE sleeping").await? < daemons {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Registers `object-1` to `object-{objects}` in one transaction, as an application does.
    pub async fn register(&self, objects: u32) -> anyhow::Result<()> {
        let sql = "INSERT INTO copyhold.object_copies (object_key, b2)
                   SELECT 'object-' || i, copyhold.now_utc_micro_seconds() FROM generate_series(1, $1) i";
        sqlx::query(sql).bind(i64::from(objects)).execute(&self.pool).await?;
        Ok(())
    }

    /// Objects that lack a copy or are leased.
    pub async fn unfinished(&self) -> anyhow::Result<i64> {
        self.count(
            "SELECT count(*) FROM copyhold.object_copies WHERE wasabi IS NULL OR scw IS NULL OR lock IS NOT NULL",
        )
        .await
    }

    /// From the first registration to the last record, by the database's clock.
    pub async fn took(&self) -> anyhow::Result<Duration> {
        let micros = self
            .count("SELECT max(greatest(wasabi, scw)) - min(created_at) FROM copyhold.object_copies")
            .await
            .context("nothing was registered")?;
        Ok(Duration::from_micros(u64::try_from(micros)?))
    }

    /// A query's only value.
    pub async fn count(&self, query: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(query).fetch_one(&self.pool).await?)
    }

    /// The queue as a daemon sees it.
    pub fn queue(&self) -> Queue {
        Queue::new(self.pool.clone(), self.config.database.schema.clone(), self.replicas())
    }

    fn replicas(&self) -> Vec<ReplicaName> {
        self.config.replicas.iter().map(|replica| replica.name.clone()).collect()
    }

    /// Says how busy the machine was meanwhile, and takes everything away.
    pub async fn end(self) -> anyhow::Result<()> {
        println!("-- at the end: {}", machine::load());
        self.pool.close().await;
        self.cluster.stop().await?;
        Ok(())
    }
}
