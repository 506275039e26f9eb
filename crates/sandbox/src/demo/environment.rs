//! What a demo runs on: PostgreSQL, three stores, a folder.

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
/// Owns the tables; the daemons come as this role. It is no superuser.
pub(super) const OWNER: &str = "copyhold";
/// What the application comes as: it may register objects and nothing else.
pub(super) const APPLICATION: &str = "application";

/// What a demo starts itself: PostgreSQL, three stores, a folder, and the processes in it.
#[derive(Debug)]
pub(super) struct Environment {
    program: PathBuf,
    guardian: ProcessGuard,
    cluster: Cluster,
    server: S3Server,
}

impl Environment {
    /// Takes about two seconds. Not to be cut off: what was begun would end unawaited.
    pub(super) async fn setup(program: PathBuf) -> anyhow::Result<Self> {
        let cluster = Cluster::start(postgres::Options::default()).await?;
        match Self::around(program, &cluster).await {
            Ok((program, guardian, server)) => Ok(Self { program, guardian, cluster, server }),
            Err(error) => {
                let error = or_full(cluster.folder(), error);
                // The first error is the one to tell; what is left is the guardian's to remove.
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
        let guardian = ProcessGuard::start(None, "copyhold-demo", None).await?;
        let config = config(&server, &cluster.socket_url_as(OWNER, DATABASE));
        write_private(&guardian.folder().join("copyhold.toml"), &config)
            .with_context(|| format!("cannot write to {}", guardian.folder().display()))?;
        Ok((program, guardian, server))
    }

    /// The error, said to come from a full disk if there is one: PostgreSQL and daemons word that in many ways.
    pub(super) fn or_full(&self, error: anyhow::Error) -> anyhow::Error {
        let folder = if is_full(self.guardian.folder()) { self.guardian.folder() } else { self.cluster.folder() };
        or_full(folder, error)
    }

    /// Ends everything and removes all that is on disk. The daemons have ended before, or are killed.
    pub(super) async fn teardown(self) -> anyhow::Result<()> {
        let guardian = self.guardian.dismiss().await;
        self.server.stop().await;
        self.cluster.stop().await?;
        guardian.context("cannot clean up")
    }

    /// The configuration of the daemons.
    pub(super) fn config(&self) -> PathBuf {
        self.guardian.folder().join("copyhold.toml")
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

    /// For this role.
    pub(super) fn database(&self, role: &str) -> String {
        self.cluster.socket_url_as(role, DATABASE)
    }

    /// How to look at the tables from another terminal, and the daemons' state.
    pub(super) fn ways_to_look(&self) -> [String; 2] {
        let (folder, port) = (self.cluster.folder().display(), self.cluster.port());
        [
            format!("{} -c {} status", self.program.display(), self.config().display()),
            format!("psql -h {folder} -p {port} -U {OWNER} {DATABASE} -c 'TABLE copyhold.backlog_exact'"),
        ]
    }

    /// `copyhold migrate`.
    pub(super) async fn migrate(&self) -> anyhow::Result<()> {
        let status = self.launch("migrate", &["migrate"], None)?.wait().await?;
        self.guardian.forget("migrate");
        if !status.success() {
            bail!("copyhold migrate failed; it said\n{}", self.guardian.log_tail("migrate"));
        }
        let mut connection = PgConnection::connect_with(&options(&self.database(OWNER))?).await?;
        // The application's rights, and no more: it cannot forge a copy's time, nor a lease.
        let grants = format!(
            "GRANT USAGE ON SCHEMA copyhold TO {APPLICATION};
             GRANT INSERT (object_key, size_bytes, b2) ON copyhold.object_copies TO {APPLICATION};
             GRANT USAGE ON SEQUENCE copyhold.generations TO {APPLICATION};
             GRANT EXECUTE ON FUNCTION copyhold.register(text, bigint, text[]) TO {APPLICATION}"
        );
        sqlx::raw_sql(AssertSqlSafe(grants)).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }

    /// `copyhold run`, its pages at this port of 127.0.0.1.
    pub(super) fn launch_daemon(&self, name: &str, port: u16) -> anyhow::Result<Child> {
        self.launch(name, &["run"], Some(port))
    }

    fn launch(&self, name: &str, arguments: &[&str], port: Option<u16>) -> anyhow::Result<Child> {
        let launched = self.guardian.launch(name, End::Kill, &self.program, None, |command| {
            command.arg("--config").arg(self.config()).args(arguments);
            for (variable, _) in std::env::vars_os() {
                // What is set for a daemon of the user's own is not meant for these.
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

    /// After the process of that name was waited for.
    pub(super) fn forget(&self, name: &str) {
        self.guardian.forget(name);
    }

    /// What a process said last.
    pub(super) fn log_tail(&self, name: &str) -> String {
        self.guardian.log_tail(name)
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
    // Whether it was made or not, it is of no use any more.
    let _ = fs::remove_file(&probe);
    written.is_err_and(|error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

/// PostgreSQL may have freed some since.
fn says_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let code = error.downcast_ref::<sqlx::Error>().and_then(|e| e.as_database_error()?.code());
    code.is_some_and(|code| code == "53100")
}

/// Asks a process to end as an operator would.
pub(super) fn terminate(child: &Child) {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::TERM);
    }
}

pub(super) fn bucket(replica: &str) -> String {
    format!("demo-{replica}")
}

/// Short times, so that a play is short too.
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
