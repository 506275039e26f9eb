//! The environment of a chaos run: PostgreSQL, stores and roles.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use copyhold::config;
use copyhold_db::schema::migrate;
use copyhold_sandbox::{
    postgres::{Cluster, Options},
    s3::{BucketHandle, BucketOptions, Fault, InjectedFault, Op, PauseGate, S3Server, When},
};
use rand::{RngExt as _, rngs::StdRng};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use tempfile::TempDir;
use tokio::{sync::Mutex, time::Instant};

use super::{DAEMONS, LEASE, keys::Keys};

pub(super) const REPLICAS: [&str; 3] = ["b2", "wasabi", "scw"];
/// One call in ten fails, in one of these ways; some of them after the store executed it.
const FAULTS: [(f64, fn() -> Fault); 6] = [
    (0.03, Fault::internal_error),
    (0.01, Fault::slow_down),
    (0.02, || Fault::Reset),
    (0.02, || Fault::LoseAnswer),
    (0.01, || Fault::ResetUpload { after: 100 }),
    (0.01, || Fault::CutBody { after: 100 }),
];
/// The share of PUTs without an answer, and how much later the store executes them: within the assumed settling time.
const LATE_CHANCE: f64 = 0.01;
pub(super) const LATE: Duration = Duration::from_millis(2500);
/// The latency of the stores: at any moment some copies are under way.
const DISTANCE: Duration = Duration::from_millis(200);

/// PostgreSQL, stores, and a configuration for each daemon.
pub(super) struct Environment {
    pub(super) pool: PgPool,
    stores: S3Server,
    folder: TempDir,
    /// When PostgreSQL was restarted after a crash.
    pub(super) recovered: Mutex<Option<Instant>>,
}

impl Environment {
    /// Returns the cluster separately, because another task stops it.
    pub(super) async fn setup() -> anyhow::Result<(Self, Cluster)> {
        // Durable: committed data must survive the restart.
        let cluster = Cluster::start(Options::default()).await?;
        cluster.create_database("app", None).await?;
        let stores = S3Server::start().await?;
        for replica in REPLICAS {
            stores.create_bucket(&bucket(replica), BucketOptions::default());
        }
        let folder = TempDir::new()?;
        let url = cluster.url("app");
        let pool = PgPoolOptions::new().max_connections(8).connect_lazy(&url)?;
        let path = folder.path().join("owner.toml");
        fs::write(&path, configuration(&url, &stores)?)?;
        migrate(&config::load(&path, Vec::<(String, String)>::new())?).await?;
        for slot in 0..DAEMONS {
            let role = role(slot);
            sqlx::raw_sql(AssertSqlSafe(format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{role}'")))
                .execute(&pool)
                .await?;
            let url = format!("postgres://{role}:{role}@127.0.0.1:{}/app", cluster.port());
            fs::write(folder.path().join(format!("{role}.toml")), configuration(&url, &stores)?)?;
        }
        sqlx::raw_sql(include_str!("audit.sql")).execute(&pool).await?;
        Ok((Self { pool, stores, folder, recovered: Mutex::default() }, cluster))
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn config(&self, slot: usize) -> PathBuf {
        self.folder.path().join(format!("{}.toml", role(slot)))
    }

    /// Returns the configuration with the tables' owner as its role, for an operator's commands.
    pub(super) fn owner(&self) -> PathBuf {
        self.folder.path().join("owner.toml")
    }

    pub(super) fn bucket(&self, replica: &str) -> BucketHandle {
        self.stores.bucket(&bucket(replica))
    }

    /// Injects a fault: the store receives the first PUT of this key, does not answer, and executes it when the gate
    /// opens.
    pub(super) fn carry_out_late(&self, replica: &str, key: &str) -> (PauseGate, InjectedFault) {
        let gate = PauseGate::new();
        let when = When::op(Op::PutObject).bucket(&bucket(replica)).key(key).next(1);
        let order = self.stores.order(Fault::CarryOutLate(gate.clone()), when);
        (gate, order)
    }

    /// Makes calls fail at random from now on.
    pub(super) fn fail_at_random(&self, keys: Keys, rng: &mut StdRng) {
        self.stores.order(Fault::Delay(DISTANCE), When::always());
        if keys == Keys::MayChange {
            let late = When::op(Op::PutObject).chance(LATE_CHANCE, rng.random());
            self.stores.order(Fault::CarryOutAfter(LATE), late);
        }
        for (chance, fault) in FAULTS {
            self.stores.order(fault(), When::always().chance(chance, rng.random()));
        }
    }

    /// Ends the random failures.
    pub(super) fn heal(&self) {
        self.stores.clear_faults();
    }

    pub(super) async fn teardown(self) {
        self.pool.close().await;
        self.stores.stop().await;
    }
}

/// Returns the database role of the daemon in this slot.
pub(super) fn role(slot: usize) -> String {
    format!("daemon{slot}")
}

fn bucket(replica: &str) -> String {
    format!("photos-{replica}")
}

fn configuration(database: &str, stores: &S3Server) -> anyhow::Result<String> {
    let mut text = format!("primary = \"b2\"\n[database]\nurl = \"{database}\"\n");
    for replica in REPLICAS {
        write!(
            text,
            "[replicas.{replica}]\nendpoint = \"{}\"\nregion = \"us-east-1\"\nbucket = \"{}\"\npath_style = true\n\
             access_key_id = \"{}\"\nsecret_access_key = \"{}\"\n",
            stores.endpoint(),
            bucket(replica),
            stores.access_key_id(),
            stores.secret_access_key()
        )
        .context("a string grows")?;
    }
    write!(
        text,
        "[http]\nlisten = \"127.0.0.1:0\"\n[lease]\ntimeout = \"{}s\"\nheartbeat = \"1s\"\n[sweeper]\nevery = \"1s\"\n\
         [workers]\ncount = 8\nmemory = \"64MiB\"\n[shutdown]\ngrace = \"5s\"\n[log]\nformat = \"text\"\n",
        LEASE.as_secs()
    )?;
    Ok(text)
}

/// Returns all replicas but the primary.
pub(super) fn targets(primary: &str) -> Vec<&'static str> {
    REPLICAS.into_iter().filter(|replica| *replica != primary).collect()
}
