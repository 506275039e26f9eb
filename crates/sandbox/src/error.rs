//! The errors of starting a private PostgreSQL cluster.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// Why a cluster could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(
        "no PostgreSQL server was found: initdb and postgres are neither in PATH, nor where pg_config says, nor in\n  {}\n\
         install it with `apt-get install postgresql` (Debian, Ubuntu), `dnf install postgresql-server` (Fedora, RHEL),\n\
         `apk add postgresql` (Alpine), `pacman -S postgresql` (Arch) or `brew install postgresql` (macOS)",
        .also_looked_in.join("\n  ")
    )]
    NoBinaries { also_looked_in: Vec<String> },
    #[error(
        "PostgreSQL refuses to run as root, and /etc/passwd has neither a user `postgres` nor `nobody` to run it as\n\
         add one with `useradd --system postgres`, or run this as an ordinary user"
    )]
    NoAccount,
    #[error(transparent)]
    NoFolder(#[from] NoFolder),
    #[error("no space is left in {} for a temporary cluster\nfree some, or set TMPDIR to a folder on another disk", .folder.display())]
    DiskFull { folder: PathBuf },
    #[error("port {port} on 127.0.0.1 is taken\nend what listens there, or choose another port")]
    PortTaken { port: u16 },
    #[error("{what}; its log ends with\n{log}")]
    Server { what: &'static str, log: String },
    #[error("{program} could not be run")]
    Process { program: &'static str, source: io::Error },
    #[error("the sandbox's PostgreSQL refused a statement")]
    Sql(#[from] sqlx::Error),
}

impl SandboxError {
    /// For `map_err`.
    pub(crate) fn process(program: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Process { program, source }
    }

    /// The end of the log of a server, or of initdb.
    pub(crate) fn of_log(log: String, folder: &Path, port: u16, what: &'static str) -> Self {
        if log.contains("No space left on device") {
            Self::DiskFull { folder: folder.to_path_buf() }
        } else if log.contains("could not create any TCP/IP sockets") {
            Self::PortTaken { port }
        } else {
            Self::Server { what, log }
        }
    }
}

/// No folder could be made, with the places that were tried.
#[derive(Debug, thiserror::Error)]
#[error("no folder for temporary files{}\nset TMPDIR to a folder with a short path that every user may write to", as_list(.0))]
pub struct NoFolder(pub(crate) Vec<(PathBuf, String)>);

fn as_list(tried: &[(PathBuf, String)]) -> impl fmt::Display + '_ {
    fmt::from_fn(move |f| tried.iter().try_for_each(|(folder, why)| write!(f, "\n  {}: {why}", folder.display())))
}
