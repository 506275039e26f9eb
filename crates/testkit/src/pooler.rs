//! Runs PgBouncer in transaction mode, as Debian packages it.

use std::{
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

/// A pooler in front of one server. Killed when dropped.
pub struct Pooler {
    port: u16,
    process: Child,
    folder: TempDir,
}

impl Pooler {
    /// Starts a pooler in front of this database's server. Error: why this machine has none.
    pub async fn before(database: &str) -> Result<Self, String> {
        let program = program().ok_or("it is not installed; tests/pgbouncer/install.sh does that")?;
        let server = url::Url::parse(database).unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let folder = TempDir::new().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let settings = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user={} password={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n",
            server.port().unwrap(),
            server.username(),
            server.password().unwrap()
        );
        std::fs::write(&settings, text).unwrap();
        let mut command = Command::new(&program);
        command.arg("--quiet").arg(&settings).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        if rustix::process::geteuid().is_root() {
            // PgBouncer refuses to run as root.
            command.args(["--user", "nobody"]);
        }
        if let Some(libraries) = libraries(&program) {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = command.stderr(log).spawn().map_err(|error| error.to_string())?;
        let answers = async {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_mins(5), answers).await;
        in_time.map_err(|_| "it does not answer".to_owned())?;
        Ok(Self { port, process, folder })
    }

    /// Switches to session mode: a client keeps its connection to the server.
    pub fn set_session_mode(&self) {
        let settings = self.folder.path().join("pgbouncer.ini");
        let text = std::fs::read_to_string(&settings).unwrap();
        std::fs::write(&settings, text.replace("pool_mode = transaction", "pool_mode = session")).unwrap();
        let pid = self.process.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap())).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
    }

    /// Returns a database's URL through this pooler.
    pub fn url(&self, database: &str) -> String {
        let mut url = url::Url::parse(database).unwrap();
        url.set_port(Some(self.port)).unwrap();
        url.to_string()
    }
}

fn program() -> Option<PathBuf> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/pgbouncer/usr/sbin/pgbouncer");
    [ours, "/usr/sbin/pgbouncer".into(), "/usr/bin/pgbouncer".into()].into_iter().find(|program| program.exists())
}

/// Returns the library folder of a PgBouncer that was only unpacked.
fn libraries(program: &Path) -> Option<String> {
    let usr = program.parent()?.parent()?;
    let folders = std::fs::read_dir(usr.join("lib")).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let folders: Vec<_> = folders.filter(|path| path.is_dir()).map(|path| path.display().to_string()).collect();
    (usr != Path::new("/usr")).then(|| folders.join(":"))
}

/// Prints past the test runner, which hides the output of a passing test.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: what is tested with PgBouncer: {why}");
}
