use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::Context as _;
use copyhold::config::{self, Config};
use copyhold_core::domain::ReplicaName;
use copyhold_db::Database;
use copyhold_sandbox::postgres::Cluster;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, postgres::PgPoolOptions};
use tempfile::TempDir;

use super::{environment::Disk, machine, stores::Stores};

/// The number of connections of every comparison.
pub const CONNECTIONS: u32 = 8;

/// A durable PostgreSQL, in which each comparison gets a fresh copy of a table that was made once.
pub struct DatabaseServer {
    cluster: Cluster,
    copies: AtomicUsize,
}

/// A database of its own. Dropped with [`DatabaseServer::clear`].
pub struct BenchDatabase {
    pub name: String,
    pub url: String,
    pub pool: PgPool,
}

impl DatabaseServer {
    pub async fn begin() -> anyhow::Result<Self> {
        Self::begin_on(Disk::Plain).await
    }

    pub async fn begin_on(disk: Disk) -> anyhow::Result<Self> {
        Self::begin_with(disk, &[]).await
    }

    /// Starts a server with further settings as in postgresql.conf.
    pub async fn begin_with(disk: Disk, further: &[(&str, &str)]) -> anyhow::Result<Self> {
        // Memory for the measured tables, and no checkpoint within half a minute.
        let settings = [&[("shared_buffers", "1GB"), ("max_wal_size", "4GB")], further].concat();
        let options = settings.iter().fold(disk.options(), |options, (name, value)| options.with(name, value));
        let cluster = Cluster::start(options).await?;
        let folder = cluster.folder().parent().context("a folder for temporary files")?.to_owned();
        let rate = tokio::task::spawn_blocking(move || machine::fdatasyncs_per_second(&folder)).await??;
        println!(
            "-- {}; {} disk, {rate:.0} fdatasyncs/s; fsync on, synchronous_commit on, {settings:?}",
            machine::load(),
            disk.name()
        );
        Ok(Self { cluster, copies: AtomicUsize::new(0) })
    }

    /// Makes an empty database.
    pub async fn make(&self, name: &str) -> anyhow::Result<BenchDatabase> {
        self.cluster.create_database(name, None).await?;
        self.ground(name.to_owned())
    }

    /// Creates a copy of the database `template`, to which no session may be connected.
    pub async fn copy(&self, template: &str) -> anyhow::Result<BenchDatabase> {
        let name = format!("{template}_{}", self.copies.fetch_add(1, Ordering::Relaxed));
        self.cluster.create_database(&name, Some(template)).await?;
        let ground = self.ground(name)?;
        // The copy must be on disk before anything is measured, because commits would wait for it.
        ground.execute("CHECKPOINT").await?;
        Ok(ground)
    }

    /// Connects to an existing database.
    pub fn open(&self, name: &str) -> anyhow::Result<BenchDatabase> {
        self.ground(name.to_owned())
    }

    fn ground(&self, name: String) -> anyhow::Result<BenchDatabase> {
        let url = self.cluster.url(&name);
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).min_connections(CONNECTIONS).connect_lazy(&url)?;
        Ok(BenchDatabase { name, url, pool })
    }

    pub async fn clear(&self, ground: BenchDatabase) -> anyhow::Result<()> {
        ground.pool.close().await;
        Ok(self.cluster.drop_database(&ground.name).await?)
    }

    /// Drops a database that was a template.
    pub async fn forget(&self, template: &str) -> anyhow::Result<()> {
        Ok(self.cluster.drop_database(template).await?)
    }

    pub async fn end(self) -> anyhow::Result<()> {
        println!("-- at the end: {}", machine::load());
        Ok(self.cluster.stop().await?)
    }
}

impl BenchDatabase {
    /// Runs one or more statements, without parameters.
    pub async fn execute(&self, statements: impl Into<String>) -> anyhow::Result<()> {
        sqlx::raw_sql(AssertSqlSafe(statements.into())).execute(&self.pool).await?;
        Ok(())
    }

    /// Opens another connection, with the current settings.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect(&self.url).await?)
    }

    /// Returns a query's only value.
    pub async fn count(&self, query: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(query).fetch_one(&self.pool).await?)
    }

    /// Makes a folder with the configuration of a daemon on this database.
    pub fn configured(&self, stores: &Stores) -> anyhow::Result<(TempDir, Config)> {
        let folder = TempDir::new()?;
        let path = folder.path().join("copyhold.toml");
        fs::write(&path, stores.configuration(&self.url, "")?)?;
        let config = config::load(&path, Vec::<(String, String)>::new())?;
        Ok((folder, config))
    }

    /// Makes Copyhold's tables with `rows` objects, registered an hour ago. `i` counts from 1: the expression `key`
    /// makes the key, and the objects for which `missing` holds are missing at both targets.
    pub async fn fill(&self, stores: &Stores, rows: u32, key: &str, missing: &str) -> anyhow::Result<()> {
        let (_folder, config) = self.configured(stores)?;
        copyhold_db::schema::migrate(&config).await?;
        // Building indexes afterwards is faster than maintaining them.
        self.execute(
            "ALTER TABLE copyhold.object_copies DROP CONSTRAINT object_copies_pkey;
             DROP INDEX copyhold.object_copies_wasabi_lane, copyhold.object_copies_scw_lane",
        )
        .await?;
        self.execute(format!(
            "INSERT INTO copyhold.object_copies (object_key, created_at, b2, wasabi, scw)
             SELECT {key}, t, t, CASE WHEN {missing} THEN NULL ELSE t END, CASE WHEN {missing} THEN NULL ELSE t END
             FROM generate_series(1, {rows}) i, (SELECT copyhold.now_utc_micro_seconds() - 3600000000) AS n(t);
             ALTER TABLE copyhold.object_copies ADD PRIMARY KEY (object_key)"
        ))
        .await?;
        copyhold_db::schema::migrate(&config).await?;
        self.execute("VACUUM ANALYZE copyhold.object_copies").await
    }

    /// Returns the database handle and the lane as in a daemon.
    pub fn queue(&self, config: &Config) -> anyhow::Result<(Database, ReplicaName)> {
        let names = config.replicas.iter().map(|r| r.name.clone()).collect();
        Ok((Database::new(self.pool.clone(), config.database.schema.clone(), names), ReplicaName::new("wasabi")?))
    }
}
