use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use copyhold::config::{self, Config};
use copyhold_core::domain::ReplicaName;
use copyhold_db::Database;
use copyhold_sandbox::postgres::{Cluster, Options};
use sqlx::PgPool;
use tempfile::TempDir;

use super::{daemon::Daemon, machine, process, stores::Stores};

/// The disk of PostgreSQL's commits, which are durable on both kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    Plain,
    /// Each commit waits 3.3 ms before it is forced, which simulates a disk that is slower by this.
    Slow,
}

impl Disk {
    pub const BOTH: [Self; 2] = [Self::Plain, Self::Slow];

    /// Returns the name in the names of bars.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Slow => "slow-disk",
        }
    }

    pub fn options(self) -> Options {
        match self {
            Self::Plain => Options::default(),
            Self::Slow => Options::default().with("commit_delay", "3300").with("commit_siblings", "0"),
        }
    }
}

/// A durable PostgreSQL with Copyhold's tables, and a configuration that copies from `b2` to the others.
pub struct Environment {
    pub config: Config,
    pub pool: PgPool,
    /// The names of the targets.
    targets: Vec<String>,
    folder: TempDir,
    cluster: Cluster,
}

impl Environment {
    /// Starts PostgreSQL and migrates. `settings`: further sections of the configuration; the rest is default.
    pub async fn begin(disk: Disk, stores: &Stores, settings: &str) -> anyhow::Result<Self> {
        Self::begin_as(disk, |database| stores.configuration(database, settings)).await
    }

    /// Starts PostgreSQL with the caller's configuration, made from the database's URL.
    pub async fn begin_as(
        disk: Disk,
        configuration: impl FnOnce(&str) -> anyhow::Result<String>,
    ) -> anyhow::Result<Self> {
        let cluster = Cluster::start(disk.options()).await?;
        cluster.create_database("app", None).await?;
        let folder = TempDir::new()?;
        let path = folder.path().join("copyhold.toml");
        fs::write(&path, configuration(&cluster.url("app"))?)?;
        let config = config::load(&path, Vec::<(String, String)>::new())?;
        copyhold_db::schema::migrate(&config).await?;
        let pool = PgPool::connect(&cluster.url("app")).await?;
        let targets =
            config.replicas.iter().map(|replica| replica.name.to_string()).filter(|name| name != "b2").collect();
        let stage = Self { config, pool, targets, folder, cluster };
        stage.describe(disk).await?;
        Ok(stage)
    }

    /// Prints what the following figures depend on.
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

    /// Returns the path of the configuration, for commands of the real program.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("copyhold.toml")
    }

    /// Returns the PostgreSQL cluster.
    pub fn cluster(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// Adds a line to the section `[database]` of daemons that start after this.
    pub fn configure_database(&self, line: &str) -> anyhow::Result<()> {
        let text = fs::read_to_string(self.config_path())?;
        fs::write(self.config_path(), text.replacen("[database]\n", &format!("[database]\n{line}\n"), 1))?;
        Ok(())
    }

    /// Starts a daemon of the real program, and waits until it copies to all targets.
    pub async fn daemon(&self) -> anyhow::Result<Daemon> {
        Daemon::start_for(self.folder.path(), &self.targets).await
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

    /// Returns the number of objects that lack a copy or are leased.
    pub async fn unfinished(&self) -> anyhow::Result<i64> {
        let lacks = self.targets.join(" IS NULL OR ");
        let sql = format!("SELECT count(*) FROM copyhold.object_copies WHERE {lacks} IS NULL OR lock IS NOT NULL");
        // Names of replicas, which the configuration has checked.
        Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&self.pool).await?)
    }

    /// Returns the time from the first registration to the last record, by the database's clock.
    pub async fn took(&self) -> anyhow::Result<Duration> {
        self.took_since(0).await
    }

    /// Returns that time for the rows registered after this one.
    pub async fn took_since(&self, id: i64) -> anyhow::Result<Duration> {
        let last = self.targets.join(", ");
        let sql = format!("SELECT max(greatest({last})) - min(created_at) FROM copyhold.object_copies WHERE id > $1");
        // Names of replicas, which the configuration has checked.
        let sql = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(id);
        let micros: Option<i64> = sql.fetch_one(&self.pool).await?;
        Ok(Duration::from_micros(u64::try_from(micros.context("nothing was registered")?)?))
    }

    /// Returns the CPU time of all PostgreSQL processes so far.
    pub async fn database_cpu_seconds(&self) -> anyhow::Result<f64> {
        let ours: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&self.pool).await?;
        let first = process::parent_of(u32::try_from(ours)?)?;
        Ok(process::cpu_seconds(first)? + process::cpu_seconds_of_children(first)?)
    }

    /// Returns a query's only value.
    pub async fn count(&self, query: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(query).fetch_one(&self.pool).await?)
    }

    /// Returns the database handle and the lane as in a daemon.
    pub fn queue(&self) -> Database {
        Database::new(self.pool.clone(), self.config.database.schema.clone(), self.replicas())
    }

    fn replicas(&self) -> Vec<ReplicaName> {
        self.config.replicas.iter().map(|replica| replica.name.clone()).collect()
    }

    /// Prints how busy the machine was meanwhile, and removes everything.
    pub async fn end(self) -> anyhow::Result<()> {
        println!("-- at the end: {}", machine::load());
        self.pool.close().await;
        self.cluster.stop().await?;
        Ok(())
    }
}
