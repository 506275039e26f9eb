//! What every test starts from: a database of its own, buckets, a configuration, and daemons as processes.

use std::{
    fmt::Write as _,
    future::Future,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use copyhold::config::{self, Config};
use copyhold_core::domain::{Lease, ObjectKey, ReplicaName};
use copyhold_db::{
    Database,
    connections::{Access, Pools},
    daemon::Daemon,
    lease::LanePosition,
};
use copyhold_sandbox::{
    postgres::{Cluster, Options},
    s3::{BucketHandle, BucketOptions, S3Server},
};
use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, PgPool};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    runtime::Runtime,
    sync::OnceCell,
};

/// Longer than anything takes that goes well, on a machine that is busy.
const PATIENCE: Duration = Duration::from_mins(5);
/// Leases that no daemon loses because its machine is slow.
const UNHURRIED: &str = "[lease]\ntimeout = \"1h\"\nheartbeat = \"1s\"\n";
const TEMPLATE: &str = "template_copyhold";

/// The cluster outlives each test's own runtime. It is never stopped: its process guard does that when this process
/// ends.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
static DATABASES: AtomicUsize = AtomicUsize::new(0);

/// The cluster of this run; its template database is migrated for the three replicas.
pub async fn cluster() -> &'static Cluster {
    CLUSTER
        .get_or_init(|| async {
            RUNTIME
                .spawn(async {
                    let cluster = Cluster::start(Options::for_tests()).await.unwrap();
                    cluster.create_database(TEMPLATE, None).await.unwrap();
                    let folder = TempDir::new().unwrap();
                    let text = config_text(&cluster.url(TEMPLATE), "http://127.0.0.1:1", "");
                    let config = loaded(&folder.path().join("copyhold.toml"), &text);
                    copyhold_db::schema::migrate(&config).await.unwrap();
                    cluster
                })
                .await
                .unwrap()
        })
        .await
}

/// A fresh database, an S3 server with the buckets of three replicas, and a configuration for them.
pub struct Harness {
    pub s3: S3Server,
    pub config: Config,
    pub pool: PgPool,
    folder: TempDir,
}

/// Which database a harness begins with.
pub enum Begin {
    Migrated,
    Empty,
}

impl Harness {
    pub async fn new() -> Self {
        Self::with(Begin::Migrated, "").await
    }

    /// For a test that counts what is done, and in which no daemon dies: no lease of a slow one is lost.
    pub async fn unhurried() -> Self {
        Self::with(Begin::Migrated, UNHURRIED).await
    }

    /// `more`: further lines of the configuration, beginning with whole sections.
    pub async fn with(begin: Begin, more: &str) -> Self {
        let cluster = cluster().await;
        let database = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let template = match begin {
            Begin::Migrated => Some(TEMPLATE),
            Begin::Empty => None,
        };
        cluster.create_database(&database, template).await.unwrap();
        Self::at(cluster.url(&database), more).await
    }

    /// In a database that the caller provides.
    pub async fn at(database_url: String, more: &str) -> Self {
        let s3 = S3Server::start().await.unwrap();
        for replica in ["b2", "wasabi", "scw"] {
            s3.create_bucket(&bucket(replica), BucketOptions::default());
        }
        let folder = TempDir::new().unwrap();
        let text = config_text(&database_url, &s3.endpoint(), more);
        let config = loaded(&folder.path().join("copyhold.toml"), &text);
        let pool = PgPool::connect_lazy(&database_url).unwrap();
        Self { s3, config, pool, folder }
    }

    pub fn bucket(&self, replica: &str) -> BucketHandle {
        self.s3.bucket(&bucket(replica))
    }

    /// As it stands in the configuration.
    pub fn database_url(&self) -> String {
        self.config.database.url.expose_secret().to_owned()
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("copyhold.toml")
    }

    /// Writes the configuration anew, `edit`ed.
    pub fn rewrite(&mut self, edit: impl FnOnce(String) -> String) {
        let text = edit(std::fs::read_to_string(self.config_path()).unwrap());
        self.config = loaded(&self.config_path(), &text);
    }

    pub fn queue(&self) -> Database {
        let pools = Pools::new(&self.config.database);
        let names = self.config.replicas.iter().map(|r| r.name.clone()).collect();
        Database::new(pools.work, self.config.database.schema.clone(), names)
    }

    /// As commands that only look have it: also of a server that can only be read.
    pub fn looking_queue(&self) -> Database {
        let pools = Pools::with(&self.config.database, Access::Any);
        let names = self.config.replicas.iter().map(|r| r.name.clone()).collect();
        Database::new(pools.work, self.config.database.schema.clone(), names)
    }

    /// A daemon in name only, whose leases last `seconds`.
    pub async fn enlist(&self, seconds: u64) -> Daemon {
        self.queue().register_daemon("test".into(), Duration::from_secs(seconds)).await.unwrap()
    }

    /// Claims from the beginning of a lane.
    pub async fn claim(&self, daemon: &Daemon, lane: &str, limit: usize) -> Vec<Lease> {
        let claimed = self.queue().claim(daemon, &replica(lane), limit, LanePosition::BEGINNING).await;
        claimed.unwrap().leases
    }

    /// Registers as an application does, in its own SQL.
    pub async fn insert(&self, key: &str) {
        self.sql(
            "INSERT INTO copyhold.object_copies (object_key, b2) VALUES ($1, copyhold.now_utc_micro_seconds())",
            key,
        )
        .await;
    }

    /// Puts an object into the primary's bucket and registers it.
    pub async fn upload(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        self.bucket("b2").put(key, bytes.into());
        self.insert(key).await;
    }

    /// Runs a statement with one text parameter.
    pub async fn sql(&self, statement: &'static str, parameter: &str) -> u64 {
        sqlx::query(statement).bind(parameter).execute(&self.pool).await.unwrap().rows_affected()
    }

    /// Runs statements as they are.
    pub async fn execute(&self, statements: &str) {
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&self.pool).await.unwrap();
    }

    /// One value, as text; NULL and no row alike are `None`.
    pub async fn value(&self, query: &str) -> Option<String> {
        let sql = format!("SELECT (SELECT ({query})::text)");
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.pool).await.unwrap()
    }

    /// Waits until the query returns `true`.
    pub async fn until(&self, query: &str) {
        let holds = async || self.value(query).await.as_deref() == Some("true");
        eventually(query, holds).await;
    }

    /// Has so many objects copied, one after another, each while the daemon sleeps, and sees that a notice has woken it
    /// for some of them. The time it takes proves nothing: without notifications the poll finds them too.
    pub async fn copied_by_notice(&self, daemon: &DaemonProcess, prefix: &str, objects: usize) {
        const WOKEN: &str = "Woken by a notification\n";
        let before = daemon.logged(WOKEN);
        for i in 0..objects {
            self.until("SELECT bool_and(sleeping) FROM copyhold.daemons").await;
            let key = format!("{prefix} {i}");
            self.upload(&key, "bytes").await;
            self.until_copied(&key).await;
        }
        assert!(daemon.logged(WOKEN) > before, "{prefix}: the poll found all of them\n{}", daemon.log());
    }

    /// Waits until all copies of `key` are on record.
    pub async fn until_copied(&self, key: &str) {
        let quoted = key.replace('\'', "''");
        self.until(&format!(
            "SELECT b2 IS NOT NULL AND wasabi IS NOT NULL AND scw IS NOT NULL AND lock IS NULL
             FROM copyhold.object_copies WHERE object_key = '{quoted}'"
        ))
        .await;
    }

    /// The real program.
    pub fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_copyhold"));
        command.arg("--config").arg(self.config_path()).args(arguments);
        command.env_remove("COPYHOLD_CONFIG").stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs the real program to its end.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        self.program(arguments).output().await.unwrap()
    }

    /// Starts a daemon as a process of its own, and waits until it has entered itself.
    pub async fn daemon(&self) -> DaemonProcess {
        let before = self.value("SELECT count(*) FROM copyhold.daemons").await;
        let daemon = self.daemon_unawaited();
        let more = async || self.value("SELECT count(*) FROM copyhold.daemons").await != before;
        eventually("a daemon enters itself", more).await;
        daemon
    }

    pub fn daemon_unawaited(&self) -> DaemonProcess {
        self.daemon_with(&[])
    }

    /// With these variables in its environment.
    pub fn daemon_with(&self, environment: &[(&str, &str)]) -> DaemonProcess {
        static LOGS: AtomicUsize = AtomicUsize::new(0);
        let log = self.folder.path().join(format!("daemon-{}.log", LOGS.fetch_add(1, Ordering::Relaxed)));
        let stderr = std::fs::File::create(&log).unwrap();
        let mut command = self.program(&["run"]);
        command.env("COPYHOLD_LOG__FORMAT", "text").env("COPYHOLD_LOG__LEVEL", "info,copyhold=debug").stderr(stderr);
        command.envs(environment.iter().copied());
        DaemonProcess { child: command.spawn().unwrap(), log }
    }
}

/// `copyhold run`, killed when dropped.
pub struct DaemonProcess {
    child: Child,
    log: PathBuf,
}

impl DaemonProcess {
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap())).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// SIGKILL, and gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Its exit code; `None` if a signal ended it.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("the daemon does not end:\n{}", self.log())).unwrap().code()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// How often these words are in the log.
    pub fn logged(&self, words: &str) -> usize {
        self.log().matches(words).count()
    }

    pub async fn until_logged(&self, words: &str) {
        eventually(&format!("the log says \"{words}\""), async || self.log().contains(words)).await;
    }
}

/// Of a test that fails, what its daemons had to say is shown.
impl Drop for DaemonProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Looks again and again, for as long as anything may take.
pub async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let look = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, look).await.is_ok(), "never came true: {what}");
}

/// Plays it anew until it shows what it is to show: for what a slow machine may hide, and a wrong program never shows.
pub async fn at_least_once(what: &str, shows: impl AsyncFn() -> bool) {
    for _ in 0..5 {
        if shows().await {
            return;
        }
    }
    panic!("not once in five plays: {what}");
}

/// Awaits something that must happen.
pub async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(PATIENCE, happens).await;
    ended.unwrap_or_else(|_| panic!("did not happen: {what}"))
}

pub fn key(key: &str) -> ObjectKey {
    ObjectKey::new(key).unwrap()
}

pub fn replica(name: &str) -> ReplicaName {
    ReplicaName::new(name).unwrap()
}

pub fn bucket(replica: &str) -> String {
    format!("photos-{replica}")
}

/// What a command printed, both ways.
pub fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn loaded(path: &Path, text: &str) -> Config {
    std::fs::write(path, text).unwrap();
    config::load(path, Vec::<(String, String)>::new()).unwrap()
}

/// Short leases, so that a test of a lost one need not wait long.
fn config_text(database_url: &str, endpoint: &str, more: &str) -> String {
    let mut text = format!("primary = \"b2\"\n[database]\nurl = \"{database_url}\"\n");
    for replica in ["b2", "wasabi", "scw"] {
        write!(
            text,
            "[replicas.{replica}]\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\nbucket = \"{}\"\npath_style = true\n\
             access_key_id = \"sandbox\"\nsecret_access_key = \"sandbox-secret\"\n",
            bucket(replica)
        )
        .unwrap();
    }
    let defaults = [
        ("[http]", "listen = \"127.0.0.1:0\"\n"),
        ("[lease]", "timeout = \"3s\"\nheartbeat = \"1s\"\n"),
        ("[sweeper]", "every = \"1s\"\n"),
        ("[workers]", "count = 16\nmemory = \"64MiB\"\n"),
    ];
    for (section, settings) in defaults {
        if !more.contains(section) {
            write!(text, "{section}\n{settings}").unwrap();
        }
    }
    text + more
}
