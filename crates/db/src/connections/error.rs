//! Why no connection was made, where the client library's own error does not contain it.

use std::{fmt, io};

use super::cause::ConnectCause;

/// SQLSTATE `read_only_sql_transaction`.
pub const READ_ONLY: &str = "25006";

/// A server that answers but is read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOnlyServer {
    /// Host and port.
    pub at: String,
    pub cause: ReadOnlyCause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnlyCause {
    /// `pg_is_in_recovery()`: a standby, or a primary that was demoted.
    Recovery,
    /// `default_transaction_read_only` of the role, the database or the server.
    Setting,
}

impl ReadOnlyCause {
    /// The reason, in a clause that follows the server's name.
    #[must_use]
    pub fn clause(self) -> &'static str {
        match self {
            Self::Recovery => "is in recovery and so read-only: it is a standby, or was demoted",
            Self::Setting => {
                "is read-only: default_transaction_read_only is on for this role, this database or all of it"
            }
        }
    }
}

impl fmt::Display for ReadOnlyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let consequence = match self.cause {
            ReadOnlyCause::Recovery => "nothing is copied until it is promoted, or database.url leads to the primary",
            ReadOnlyCause::Setting => "nothing is copied until that is off",
        };
        write!(f, "the server at {} {}; {consequence}", self.at, self.cause.clause())
    }
}

/// No server was suitable. It travels as the inner error of an [`io::Error`]: nothing was sent.
#[derive(Debug, Clone)]
pub struct ConnectError {
    /// The first read-only one.
    pub read_only: Option<ReadOnlyServer>,
    /// Servers that did not answer, each in a sentence.
    pub unreachable: Vec<String>,
    /// Why the first of those did not; `None`: there is none, or the reason is unknown.
    pub cause: Option<ConnectCause>,
    /// Waiting does not help: an operator has to change something.
    pub is_lasting: bool,
    /// This process has never had a connection.
    pub is_first_contact: bool,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read_only = self.read_only.iter().map(ToString::to_string);
        let all: Vec<_> = read_only.chain(self.unreachable.iter().cloned()).collect();
        f.write_str(&all.join("; "))
    }
}

impl std::error::Error for ConnectError {}

impl ConnectError {
    /// The error for a server that is read-only.
    #[must_use]
    pub fn read_only(server: ReadOnlyServer) -> Self {
        Self {
            read_only: Some(server),
            unreachable: Vec::new(),
            cause: None,
            is_lasting: false,
            is_first_contact: false,
        }
    }

    /// Extracts it from an error that contains it.
    #[must_use]
    pub fn of(error: &sqlx::Error) -> Option<&Self> {
        let sqlx::Error::Io(io) = error else { return None };
        io.get_ref()?.downcast_ref()
    }
}

impl From<ConnectError> for sqlx::Error {
    fn from(error: ConnectError) -> Self {
        Self::Io(io::Error::new(io::ErrorKind::NotConnected, error))
    }
}

impl From<ReadOnlyServer> for sqlx::Error {
    fn from(server: ReadOnlyServer) -> Self {
        Self::from(ConnectError::read_only(server))
    }
}
