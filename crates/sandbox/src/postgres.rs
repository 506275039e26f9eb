//! A private PostgreSQL cluster in a temporary folder.
//!
//! Its processes and its folder are gone when [`Cluster::stop`] returns, and soon after the
//! end of the process that started it, whatever ended that: a guard process does that.
//! It never touches an existing cluster of the machine.

mod binaries;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::{
    process::Child,
    time::{Instant, sleep, timeout},
};

pub use super::error::SandboxError;

use super::{
    process_guard::{End, ProcessGuard},
    system_user::SystemUser,
};
use binaries::Binaries;

/// The guard's name for initdb and then for the server: one at a time.
const PROGRAM: &str = "postgres";
/// The superuser of every cluster here.
const SUPERUSER: &str = "postgres";
/// Includes recovery after a kill.
const START_MAY_TAKE: Duration = Duration::from_mins(2);
/// Ports are found by asking for a free one, which another process may take before the server does.
const PORTS_TO_TRY: usize = 5;

/// The options of a cluster. The default is PostgreSQL's: durable, 100 connections.
#[derive(Debug, Clone)]
pub struct Options {
    /// `false`: no fsync and no full pages. For tests, whose data need not survive a failure of the machine.
    /// Commits stay synchronous: tests kill the server and continue with the committed state.
    pub durable: bool,
    pub max_connections: u16,
    /// The port on 127.0.0.1; `None`: any free one.
    pub port: Option<u16>,
    /// The folder in which the cluster's folder is made; `None`: the system's folder for temporary files.
    pub parent: Option<PathBuf>,
    /// Further settings as in postgresql.conf, which override the ones above.
    pub settings: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { durable: true, max_connections: 100, port: None, parent: None, settings: Vec::new() }
    }
}

impl Options {
    /// Returns options for a fast cluster, with enough connections for many tests at once. A killed server loses
    /// nothing that was committed; a machine that fails may lose everything.
    #[must_use]
    pub fn for_tests() -> Self {
        Self { durable: false, max_connections: 300, ..Self::default() }
    }

    /// Adds a setting as in postgresql.conf.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running cluster. Dropped without [`Cluster::stop`], it also ends, but the drop does not wait for that.
#[derive(Debug)]
pub struct Cluster {
    binaries: Binaries,
    account: Option<SystemUser>,
    guard: ProcessGuard,
    /// `None` after [`Cluster::kill_server`].
    server: Option<Child>,
    port: u16,
    password: String,
    settings: Vec<(String, String)>,
}

impl Cluster {
    /// Creates a cluster and starts its server; takes about a second.
    pub async fn start(options: Options) -> Result<Self, SandboxError> {
        let binaries = Binaries::find().await?;
        let account = SystemUser::if_root()?;
        let guard = ProcessGuard::start(options.parent.as_deref(), "copyhold-pg", account.as_ref()).await?;
        let mut cluster = Self {
            binaries,
            account,
            guard,
            server: None,
            port: options.port.unwrap_or_default(),
            password: format!("{:032x}", rand::random::<u128>()),
            settings: settings(&options),
        };
        cluster.create().await?;
        cluster.start_on_some_port(options.port).await?;
        // Until now TCP connections were refused. The password is hexadecimal: no quoting.
        cluster.execute(format!("ALTER ROLE {SUPERUSER} PASSWORD '{}'", cluster.password)).await?;
        Ok(cluster)
    }

    /// Returns the URL of this database, over TCP, as superuser.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// Returns the URL of this database, through the socket, as superuser.
    pub fn socket_url(&self, database: &str) -> String {
        self.socket_url_as(SUPERUSER, database)
    }

    /// Returns the URL of this database, through the socket, as any role that may log in; none needs a password there.
    pub fn socket_url_as(&self, role: &str, database: &str) -> String {
        let folder = self.folder().display().to_string().replace('/', "%2F");
        format!("postgres://{role}@{folder}:{}/{database}", self.port)
    }

    /// Returns the port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the folder that holds everything that the cluster has on disk.
    pub fn folder(&self) -> &Path {
        self.guard.folder()
    }

    /// Creates a database, as a copy of `template` if given, which must have no connections.
    pub async fn create_database(&self, name: &str, template: Option<&str>) -> Result<(), SandboxError> {
        let template = template.unwrap_or("template0");
        self.execute(format!("CREATE DATABASE {} TEMPLATE {}", quoted(name), quoted(template))).await
    }

    /// Drops a database together with its connections, if it exists.
    pub async fn drop_database(&self, name: &str) -> Result<(), SandboxError> {
        self.execute(format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name))).await
    }

    /// Ends the server at once, as a crash would: committed data stays, connections break.
    pub async fn kill_server(&mut self) -> Result<(), SandboxError> {
        let Some(server) = &mut self.server else { return Ok(()) };
        // SIGQUIT is what PostgreSQL calls an immediate shutdown. Killing it harder would leave
        // its shared memory behind.
        if let Some(pid) = server.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            // The server may have ended by itself.
            let _ = kill_process(pid, Signal::QUIT);
        }
        server.wait().await.map_err(SandboxError::process("postgres"))?;
        self.server = None;
        self.guard.forget(PROGRAM);
        Ok(())
    }

    /// Starts the server again after [`Cluster::kill_server`], on the same port with the same data.
    pub async fn restart(&mut self) -> Result<(), SandboxError> {
        self.kill_server().await?;
        self.start_server().await
    }

    /// Ends the server and removes its files; returns when both are done.
    pub async fn stop(mut self) -> Result<(), SandboxError> {
        // Its data is removed anyway, so no checkpoint is needed.
        self.kill_server().await?;
        self.guard.dismiss().await.map_err(SandboxError::process("the sandbox's guard"))
    }

    /// Returns the last lines of the server's log, for error messages.
    pub fn log_tail(&self) -> String {
        self.guard.log_tail(PROGRAM)
    }

    async fn create(&mut self) -> Result<(), SandboxError> {
        // Trust is for the socket alone, in a folder that only its owner enters. Over TCP, any user on
        // this machine could become superuser and run programs in our name. Sent plainly, a password
        // costs less per connection than SCRAM, and nothing on loopback overhears it.
        let data = self.folder().join("data");
        let fixed = ["--auth-local=trust", "--auth-host=password", "--encoding=UTF8", "--locale=C", "--no-sync"];
        let mut arguments: Vec<String> = fixed.map(str::to_owned).into();
        arguments.push(format!("--username={SUPERUSER}"));
        arguments.push(format!("--pgdata={}", data.display()));
        let launched = self.launch(&self.binaries.initdb(), &arguments);
        let mut initdb = launched.map_err(SandboxError::process("initdb"))?;
        let status = initdb.wait().await.map_err(SandboxError::process("initdb"))?;
        self.guard.forget(PROGRAM);
        if status.success() {
            return Ok(());
        }
        Err(SandboxError::of_log(self.log_tail(), self.folder(), self.port, "initdb failed"))
    }

    async fn start_on_some_port(&mut self, wanted: Option<u16>) -> Result<(), SandboxError> {
        for left in (0..PORTS_TO_TRY).rev() {
            self.port = match wanted {
                Some(port) => port,
                None => free_port()?,
            };
            match self.start_server().await {
                Err(SandboxError::PortTaken { .. }) if wanted.is_none() && left > 0 => {}
                result => return result,
            }
        }
        unreachable!("the last try returns")
    }

    async fn start_server(&mut self) -> Result<(), SandboxError> {
        let mut arguments = vec!["-D".to_owned(), self.folder().join("data").display().to_string()];
        let own = [
            ("port", self.port.to_string()),
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", self.folder().display().to_string()),
        ];
        let own = own.iter().map(|(name, value)| (*name, value.as_str()));
        let settings = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(settings) {
            arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
        }
        let launched = self.launch(&self.binaries.postgres(), &arguments);
        self.server = Some(launched.map_err(SandboxError::process("postgres"))?);
        self.until_it_answers().await
    }

    fn launch(&self, program: &Path, arguments: &[String]) -> io::Result<Child> {
        let account = self.account.as_ref();
        self.guard.launch(PROGRAM, End::Quit, program, account, |command| {
            command.args(arguments);
        })
    }

    /// Connects through the socket, where no other server can answer in its place.
    async fn until_it_answers(&mut self) -> Result<(), SandboxError> {
        let deadline = Instant::now() + START_MAY_TAKE;
        let options = self.admin_options();
        loop {
            let server = self.server.as_mut().expect("just started");
            if server.try_wait().map_err(SandboxError::process("postgres"))?.is_some() {
                self.server = None;
                self.guard.forget(PROGRAM);
                let log = self.log_tail();
                return Err(SandboxError::of_log(log, self.folder(), self.port, "PostgreSQL ended while it started"));
            }
            if let Ok(Ok(connection)) = timeout(START_MAY_TAKE, PgConnection::connect_with(&options)).await {
                let _ = connection.close().await;
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = self.log_tail();
                return Err(SandboxError::of_log(log, self.folder(), self.port, "PostgreSQL did not come up in time"));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn execute(&self, statement: String) -> Result<(), SandboxError> {
        let mut connection = PgConnection::connect_with(&self.admin_options()).await?;
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }

    fn admin_options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(self.folder())
            .port(self.port)
            .username(SUPERUSER)
            .database("postgres")
            .ssl_mode(PgSslMode::Disable)
    }
}

fn settings(options: &Options) -> Vec<(String, String)> {
    let mut settings = vec![("max_connections".to_owned(), options.max_connections.to_string())];
    if !options.durable {
        settings.extend(["fsync", "full_page_writes"].map(|name| (name.to_owned(), "off".to_owned())));
    }
    settings.extend(options.settings.iter().cloned());
    settings
}

fn free_port() -> Result<u16, SandboxError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(SandboxError::process("a free port"))?;
    Ok(listener.local_addr().map_err(SandboxError::process("a free port"))?.port())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
