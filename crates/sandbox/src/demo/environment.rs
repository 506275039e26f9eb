//! The environment of a demo: PostgreSQL, three stores, a folder.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::process::Child;

use super::{
    REPLICAS,
    client::{self, options},
};
use crate::{
    postgres::{self, Cluster},
    process_guard::{End, ProcessGuard},
    s3::{BucketHandle, BucketOptions, S3Server},
};

const DATABASE: &str = "demo";
/// The owner of the tables and the role of the daemons. It is not a superuser.
pub(super) const OWNER: &str = "copyhold";
/// The role of the application: it may register objects and nothing else.
pub(super) const APPLICATION: &str = "application";

/// Everything that a demo starts: PostgreSQL, three stores, a folder, and the processes in it.
#[derive(Debug)]
pub(super) struct Environment {
    program: PathBuf,
    guard: ProcessGuard,
    cluster: Cluster,
    server: S3Server,
}

impl Environment {
    /// Starts everything, which takes about two seconds. Do not cancel it: the started processes would end unawaited.
    pub(super) async fn setup(program: PathBuf) -> anyhow::Result<Self> {
        let cluster = Cluster::start(postgres::Options::default()).await?;
        match Self::around(program, &cluster).await {
            Ok((program, guard, server)) => Ok(Self { program, guard, cluster, server }),
            Err(error) => {
                let error = or_full(cluster.folder(), error);
                // The first error is the one to report; the process guard removes what is left.
                let _ = cluster.stop().await;
                Err(error)
            }
        }
    }

    async fn around(program: PathBuf, cluster: &Cluster) -> anyhow::Result<(PathBuf, ProcessGuard, S3Server)> {
        cluster.create_database(DATABASE, None).await?;
        let mut connection = PgConnection::connect_with(&options(&cluster.socket_url(DATABASE))?).await?;
        let roles = format!(
            "CREATE ROLE {OWNER} LOGIN; CREATE ROLE {APPLICATION} LOGIN; GRANT CREATE ON DATABASE {DATABASE} TO {OWNER}"
        );
        sqlx::raw_sql(AssertSqlSafe(roles)).execute(&mut connection).await?;
        connection.close().await?;

        let server = S3Server::start().await.context("cannot start the S3 server")?;
        for replica in REPLICAS {
            server.create_bucket(&bucket(replica), BucketOptions::default());
        }
        let guard = ProcessGuard::start(None, "copyhold-demo", None).await?;
        let config = config(&server, &cluster.socket_url_as(OWNER, DATABASE));
        write_private(&guard.folder().join("copyhold.toml"), &config)
            .with_context(|| format!("cannot write to {}", guard.folder().display()))?;
        Ok((program, guard, server))
    }

    /// Returns the error, with the context of a full disk if there is one: PostgreSQL and daemons report that in many
    /// ways.
    pub(super) fn or_full(&self, error: anyhow::Error) -> anyhow::Error {
        let folder = if is_full(self.guard.folder()) { self.guard.folder() } else { self.cluster.folder() };
        or_full(folder, error)
    }

    /// Ends everything and removes all files. Daemons that are still running are killed.
    pub(super) async fn teardown(self) -> anyhow::Result<()> {
        let guard = self.guard.dismiss().await;
        self.server.stop().await;
        self.cluster.stop().await?;
        guard.context("cannot clean up")
    }

    /// Returns the path of the daemons' configuration.
    pub(super) fn config(&self) -> PathBuf {
        self.guard.folder().join("copyhold.toml")
    }

    pub(super) fn server(&self) -> &S3Server {
        &self.server
    }

    pub(super) fn bucket(&self, replica: &str) -> BucketHandle {
        self.server.bucket(&bucket(replica))
    }

    pub(super) fn client(&self) -> anyhow::Result<aws_sdk_s3::Client> {
        client::connect(&self.server)
    }

    /// Returns the URL of the database for this role.
    pub(super) fn database(&self, role: &str) -> String {
        self.cluster.socket_url_as(role, DATABASE)
    }

    /// Returns commands that show the tables and the daemons' state from another terminal.
    pub(super) fn ways_to_look(&self) -> [String; 2] {
        let (folder, port) = (self.cluster.folder().display(), self.cluster.port());
        [
            format!("{} -c {} status", self.program.display(), self.config().display()),
            format!("psql -h {folder} -p {port} -U {OWNER} {DATABASE} -c 'TABLE copyhold.backlog_exact'"),
        ]
    }

    /// Runs `copyhold migrate`.
    pub(super) async fn migrate(&self) -> anyhow::Result<()> {
        let status = self.launch("migrate", &["migrate"], None)?.wait().await?;
        self.guard.forget("migrate");
        if !status.success() {
            bail!("copyhold migrate failed; it said\n{}", self.guard.log_tail("migrate"));
        }
        let mut connection = PgConnection::connect_with(&options(&self.database(OWNER))?).await?;
        // The application's rights only: it can forge neither a copy's time nor a lease.
        let grants = format!(
            "GRANT USAGE ON SCHEMA copyhold TO {APPLICATION};
             GRANT INSERT (object_key, size_bytes, b2) ON copyhold.object_copies TO {APPLICATION};
             GRANT USAGE ON SEQUENCE copyhold.generations TO {APPLICATION};
             GRANT EXECUTE ON FUNCTION copyhold.register(text, bigint, text[]) TO {APPLICATION}"
        );
        sqlx::raw_sql(AssertSqlSafe(grants)).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }

    /// Starts `copyhold run`, with its HTTP pages at this port of 127.0.0.1.
    pub(super) fn launch_daemon(&self, name: &str, port: u16) -> anyhow::Result<Child> {
        self.launch(name, &["run"], Some(port))
    }

    fn launch(&self, name: &str, arguments: &[&str], port: Option<u16>) -> anyhow::Result<Child> {
        let launched = self.guard.launch(name, End::Kill, &self.program, None, |command| {
            command.arg("--config").arg(self.config()).args(arguments);
            for (variable, _) in std::env::vars_os() {
                // Variables for the user's own daemon must not affect these.
                if variable.as_encoded_bytes().starts_with(b"COPYHOLD_") {
                    command.env_remove(variable);
                }
            }
            if let Some(port) = port {
                command.env("COPYHOLD_HTTP__LISTEN", format!("127.0.0.1:{port}"));
            }
        });
        launched.with_context(|| format!("cannot run {}", self.program.display()))
    }

    /// Forgets the process of that name, which was waited for.
    pub(super) fn forget(&self, name: &str) {
        self.guard.forget(name);
    }

    /// Returns the last lines of a process's log.
    pub(super) fn log_tail(&self, name: &str) -> String {
        self.guard.log_tail(name)
    }
}

fn or_full(folder: &Path, error: anyhow::Error) -> anyhow::Error {
    if is_full(folder) || error.chain().any(says_full) {
        let folder = folder.display();
        error.context(format!("no space is left in {folder}: free some, or set TMPDIR to a folder on another disk"))
    } else {
        error
    }
}

fn is_full(folder: &Path) -> bool {
    const PROBE_BYTES: usize = 256 << 10;
    let probe = folder.join("probe");
    let written = fs::write(&probe, vec![1; PROBE_BYTES]);
    // Removed whether or not it was written.
    let _ = fs::remove_file(&probe);
    written.is_err_and(|error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

/// Returns whether PostgreSQL reported a full disk; it may have freed space since.
fn says_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let code = error.downcast_ref::<sqlx::Error>().and_then(|e| e.as_database_error()?.code());
    code.is_some_and(|code| code == "53100")
}

/// Sends SIGTERM to a process, as an operator would.
pub(super) fn terminate(child: &Child) {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
        // The process may have ended by itself.
        let _ = kill_process(pid, Signal::TERM);
    }
}

pub(super) fn bucket(replica: &str) -> String {
    format!("demo-{replica}")
}

/// Returns the daemons' configuration, with short times so that the demo is short too.
fn config(server: &S3Server, database: &str) -> String {
    let common = format!(
        r#"# Made by `copyhold demo`, gone when it ends.
primary = "{}"

[database]
url = "{database}?sslmode=disable"

[workers]
count = 16
memory = "64MiB"

[lease]
timeout = "6s"
heartbeat = "2s"

[sweeper]
every = "2s"

[shutdown]
grace = "3s"

[log]
format = "text"
"#,
        REPLICAS[0]
    );
    let section = |replica| {
        format!(
            r#"
[replicas.{replica}]
endpoint = "{}"
region = "sandbox"
bucket = "{}"
access_key_id = "{}"
secret_access_key = "{}"
"#,
            server.endpoint(),
            bucket(replica),
            server.access_key_id(),
            server.secret_access_key()
        )
    };
    [common].into_iter().chain(REPLICAS.map(section)).collect()
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
