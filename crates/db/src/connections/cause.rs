//! Classifies why connecting failed. The texts name no host and no role.

use std::{fmt, io};

use copyhold_tls::TlsFailure;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::error::ConnectError;

/// Why connecting failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectCause {
    /// No process listens at that port.
    Refused,
    /// The folder has no such socket.
    NoSocket,
    /// The host name has no address.
    Unresolved,
    /// There is no route to the address.
    Unreachable,
    /// No answer came in time.
    NoAnswer,
    /// The connection was closed before the login was over.
    Closed,
    /// The peer does not speak PostgreSQL's protocol.
    NotPostgres,
    Tls,
    /// SQLSTATE 28P01.
    Password,
    /// SQLSTATE 28000: no line of `pg_hba.conf` fits, or there is no such role, or it may not log in.
    Login,
    /// SQLSTATE 3D000.
    NoDatabase,
    /// SQLSTATE 42501: the role has no right to connect to the database.
    NoRight,
    /// SQLSTATE 53300, for the role or the database.
    TooManyOfRole,
    /// SQLSTATE 53300, for the whole server.
    TooMany,
    /// SQLSTATE 57P03.
    Starting,
    /// Any other refusal of the server.
    Other,
}

impl ConnectCause {
    /// Why an attempt to connect failed; `None`: the error belongs to a statement.
    #[must_use]
    pub fn of(error: &sqlx::Error) -> Option<Self> {
        match error {
            sqlx::Error::Io(io) => match ConnectError::of(error) {
                Some(none) => none.cause,
                None => Some(Self::of_io(io)),
            },
            sqlx::Error::Tls(_) => Some(Self::Tls),
            sqlx::Error::Protocol(_) => Some(Self::NotPostgres),
            sqlx::Error::Database(refused) => {
                let refused = refused.try_downcast_ref::<PgDatabaseError>()?;
                // An error that is not fatal belongs to a statement: the session goes on.
                (refused.severity() == PgSeverity::Fatal).then(|| Self::of_refusal(refused))?
            }
            _ => None,
        }
    }

    fn of_io(io: &io::Error) -> Self {
        use io::ErrorKind;
        if io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some() {
            return Self::Tls;
        }
        match io.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::NotFound => Self::NoSocket,
            ErrorKind::TimedOut => Self::NoAnswer,
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe => Self::Closed,
            // The resolver's errors have no kind of their own.
            _ if io.to_string().contains("lookup address") => Self::Unresolved,
            _ => Self::Unreachable,
        }
    }

    fn of_refusal(refused: &PgDatabaseError) -> Option<Self> {
        Some(match refused.code() {
            "28P01" => Self::Password,
            "28000" => Self::Login,
            "3D000" => Self::NoDatabase,
            "42501" => Self::NoRight,
            // The server's message may be in any language; its own general message contains no quoted name.
            "53300" if refused.message().contains('"') => Self::TooManyOfRole,
            "53300" => Self::TooMany,
            "57P03" => Self::Starting,
            // 57P01 and so on: an existing session has ended.
            code if code.starts_with("57P") => return None,
            _ => Self::Other,
        })
    }

    /// A short clause, without host and role.
    #[must_use]
    pub fn clause(self) -> &'static str {
        match self {
            Self::Refused => "connection refused",
            Self::NoSocket => "its socket does not exist",
            Self::Unresolved => "its host name does not resolve (DNS)",
            Self::Unreachable => "its host is unreachable",
            Self::NoAnswer => "no answer in time",
            Self::Closed => "the connection was closed during the login",
            Self::NotPostgres => "what answers is not PostgreSQL",
            Self::Tls => "TLS failed",
            Self::Password => "password authentication failed",
            Self::Login => "login refused",
            Self::NoDatabase => "database does not exist",
            Self::NoRight => "the role may not connect to the database",
            Self::TooManyOfRole => "too many connections for role",
            Self::TooMany => "too many connections",
            Self::Starting => "it is starting up or shutting down",
            Self::Other => "it refuses the connection",
        }
    }

    /// Waiting does not help: an operator has to change something.
    #[must_use]
    pub(super) fn is_lasting(self, error: &sqlx::Error) -> bool {
        match self {
            Self::Tls | Self::Password | Self::Login | Self::NoDatabase | Self::NoRight => true,
            Self::Other => error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| {
                // Connection, resources, state of an object, intervention, system, internal.
                !["08", "53", "55", "57", "58", "XX"].iter().any(|class| code.starts_with(class))
            }),
            _ => false,
        }
    }

    /// The remedy, where it is not obvious.
    fn remedy(self) -> &'static str {
        match self {
            Self::Refused | Self::NoSocket => "; is it running, and is this its port?",
            Self::TooManyOfRole => "; a daemon needs six: ALTER ROLE … CONNECTION LIMIT, or ALTER DATABASE",
            Self::TooMany => "; max_connections is used up: a daemon needs six",
            Self::NotPostgres => "; is this its port?",
            Self::NoDatabase => "; create it, or correct database.url",
            Self::NoRight => "; GRANT CONNECT ON DATABASE … TO it",
            _ => "",
        }
    }

    /// A sentence about a failed attempt, with the server's own message where it has one. `trusted`: the authorities,
    /// to follow "signed by".
    #[must_use]
    pub(super) fn sentence(self, server: &str, error: &sqlx::Error, trusted: &str) -> String {
        let (clause, remedy) = (self.clause(), self.remedy());
        match error {
            sqlx::Error::Database(refused) => {
                // It may be in another language.
                let own = refused.message();
                let is_plain = own.contains(clause) || matches!(self, Self::Other | Self::Login | Self::NoDatabase);
                let own = if is_plain { own.to_owned() } else { format!("{clause} ({own})") };
                let verb = match self {
                    Self::Password | Self::Login => "refused the login",
                    _ => "refuses the connection",
                };
                // From a pooler that refuses start-up options.
                let remedy = if own.contains("startup parameter") { POOLER } else { remedy };
                format!("PostgreSQL at {server} {verb}: {own}{remedy}")
            }
            sqlx::Error::Tls(why) => format!("TLS to PostgreSQL at {server} failed: {why}"),
            sqlx::Error::Io(why) if self == Self::Tls => {
                let why = TlsFailure::of(why).map_or_else(|| why.to_string(), |failure| failure.clause(trusted));
                format!("no secure connection to PostgreSQL at {server}: it {why}")
            }
            sqlx::Error::Io(why) if self == Self::NoAnswer => format!("cannot reach PostgreSQL at {server}: {why}"),
            sqlx::Error::Io(why) => {
                let why = why.to_string();
                // The system's message uses the same words.
                let why =
                    if why.to_ascii_lowercase().starts_with(clause) { String::new() } else { format!(" ({why})") };
                format!("cannot reach PostgreSQL at {server}: {clause}{why}{remedy}")
            }
            other => format!("cannot reach PostgreSQL at {server}: {clause} ({other}){remedy}"),
        }
    }
}

const POOLER: &str = "; database.url leads to a pooler: set database.listen_url, as docs/postgresql.md says";

impl fmt::Display for ConnectCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.clause())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_error_has_a_name() {
        let io = |kind| sqlx::Error::Io(io::Error::new(kind, "x"));
        let of = |kind| ConnectCause::of(&io(kind));
        assert_eq!(of(io::ErrorKind::ConnectionRefused), Some(ConnectCause::Refused));
        assert_eq!(of(io::ErrorKind::ConnectionReset), Some(ConnectCause::Closed));
        assert_eq!(of(io::ErrorKind::NetworkUnreachable), Some(ConnectCause::Unreachable));
        let lookup = io::Error::other("failed to lookup address information: Name or service not known");
        assert_eq!(ConnectCause::of(&lookup.into()), Some(ConnectCause::Unresolved));
        let bad = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        assert_eq!(ConnectCause::of(&bad.into()), Some(ConnectCause::Tls));
        assert_eq!(ConnectCause::of(&sqlx::Error::RowNotFound), None);
    }
}
