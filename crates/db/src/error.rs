//! The errors of statements, and what a caller may conclude from each.

use std::{future::Future, time::Duration};

use copyhold_core::domain::ObjectKey;
use futures::FutureExt as _;
use sqlx::postgres::PgDatabaseError;

use crate::connections::{ConnectCause, ConnectError, READ_ONLY, ReadOnlyCause, ReadOnlyServer, catch_panics};

/// How long a statement may take before the caller stops waiting: a dead connection is silent, and no statement of ours
/// takes nearly as long.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// What can go wrong between a caller and PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The server, or the way to it, failed. Not called `source`: its whole text is in the message, and an error chain
    /// would repeat it.
    #[error("{}", sentence(cause))]
    Database { statement: &'static str, cause: sqlx::Error },
    #[error("PostgreSQL gave no answer within {limit:?}")]
    NoAnswer { statement: &'static str, limit: Duration },
    /// A row has a value that no version of this program writes.
    #[error("the database says something unexpected: {what}")]
    Inconsistent { statement: &'static str, what: String },
}

/// PostgreSQL's own words.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    pub sqlstate: &'a str,
    pub message: &'a str,
    /// The remedy.
    pub hint: Option<&'a str>,
}

impl DatabaseError {
    pub(crate) fn database(statement: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |cause| Self::Database { statement, cause }
    }

    /// PostgreSQL, or the way to it, is down or is starting: waiting helps.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::NoAnswer { .. } => true,
            Self::Inconsistent { .. } => false,
            Self::Database { cause, .. } => match cause {
                sqlx::Error::Io(_) if ConnectError::of(cause).is_some_and(|none| none.is_lasting) => false,
                // The last one: the answer was not in PostgreSQL's protocol, and the next connection may be better.
                sqlx::Error::Io(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::Protocol(_) => true,
                // 08: connection; 53: out of resources; 57P: shutting down or starting; 25006: the server is read-only,
                // and the next connection leads elsewhere, or waits until that is over.
                sqlx::Error::Database(refusal) => refusal.code().is_some_and(|code| {
                    ["08", "53", "57P"].iter().any(|class| code.starts_with(class)) || code == READ_ONLY
                }),
                _ => false,
            },
        }
    }

    /// The statement may have been committed: its outcome is unknown.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        match self {
            // No answer came, or one that could not be read.
            Self::NoAnswer { .. } | Self::Inconsistent { .. } => true,
            Self::Database { cause, .. } => match cause {
                // 57P: the session was ended, perhaps between the commit and its answer. All else was rolled back.
                sqlx::Error::Database(refusal) => {
                    refusal.code().is_some_and(|code| code.starts_with("08") || code.starts_with("57P"))
                }
                // The statement was never sent.
                error if ConnectError::of(error).is_some() => false,
                sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => false,
                _ => true,
            },
        }
    }

    /// Why connecting failed, if that is the error.
    #[must_use]
    pub fn connect_cause(&self) -> Option<ConnectCause> {
        let Self::Database { cause, .. } = self else { return None };
        ConnectError::of(cause)?.cause
    }

    /// This process has never had a connection: there is no work in progress that waiting could save.
    #[must_use]
    pub fn is_first_contact(&self) -> bool {
        let Self::Database { cause, .. } = self else { return false };
        ConnectError::of(cause).is_some_and(|none| none.is_first_contact)
    }

    /// The read-only server, if that is the error.
    #[must_use]
    pub fn read_only_server(&self) -> Option<&ReadOnlyServer> {
        let Self::Database { cause, .. } = self else { return None };
        ConnectError::of(cause)?.read_only.as_ref()
    }

    /// Why the server is read-only, where that is known.
    #[must_use]
    pub fn read_only_cause(&self) -> Option<ReadOnlyCause> {
        self.read_only_server().map(|server| server.cause)
    }

    /// A clause whose subject is PostgreSQL, without host and role: it may be shown to any client.
    #[must_use]
    pub fn unavailable_because(&self) -> &'static str {
        self.read_only_cause().map_or("cannot be reached", ReadOnlyCause::clause)
    }

    /// It lost against another transaction (SQLSTATE 40001, 40P01) or gave up waiting for it (55P03): a repetition may
    /// succeed. Nothing was written.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.sqlstate().is_some_and(|code| ["40001", "40P01", "55P03"].contains(&code.as_str()))
    }

    /// One row of the statement may be the reason of the error: a value, a constraint, a trigger, a lock that a trigger
    /// waits for.
    #[must_use]
    pub fn may_concern_one_row(&self) -> bool {
        match self {
            Self::NoAnswer { .. } => false,
            Self::Inconsistent { .. } => true,
            Self::Database { cause, .. } => {
                !self.is_unavailable() && matches!(cause, sqlx::Error::Database(_) | sqlx::Error::Encode(_))
            }
        }
    }

    /// No answer came in time.
    #[must_use]
    pub fn is_no_answer(&self) -> bool {
        matches!(self, Self::NoAnswer { .. })
    }

    /// PostgreSQL understood the statement and refuses a value in it (SQLSTATE classes 22 and 23): a repetition fails
    /// as well.
    #[must_use]
    pub fn is_data_error(&self) -> bool {
        self.sqlstate().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
    }

    /// A table, a column, a function or a right is missing (SQLSTATE class 42).
    #[must_use]
    pub fn is_schema_error(&self) -> bool {
        self.sqlstate().is_some_and(|code| code.starts_with("42"))
    }

    /// It refuses a value, or a trigger of another program raises an exception for it (class P0).
    #[must_use]
    pub fn is_row_error(&self) -> bool {
        self.is_data_error() || self.sqlstate().is_some_and(|code| code.starts_with("P0"))
    }

    /// It gave up waiting for a lock, as every statement of ours does: as a rule the log's. Nothing was written.
    #[must_use]
    pub fn is_lock_timeout(&self) -> bool {
        self.sqlstate().as_deref() == Some("55P03")
    }

    /// PostgreSQL's message, or that of a function of ours, for the client that sent the refused value.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal<'_>> {
        let Self::Database { cause, .. } = self else { return None };
        let refusal = cause.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
        Some(Refusal { sqlstate: refusal.code(), message: refusal.message(), hint: refusal.hint() })
    }

    /// The SQLSTATE, if PostgreSQL itself refused.
    #[must_use]
    pub fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Database { cause, .. } => cause.as_database_error()?.code().map(std::borrow::Cow::into_owned),
            Self::NoAnswer { .. } | Self::Inconsistent { .. } => None,
        }
    }
}

/// Awaits a statement, up to [`LIMIT`].
pub(crate) async fn with_timeout<T>(
    statement: &'static str,
    sent: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DatabaseError> {
    within(LIMIT, statement, sent).await
}

/// Awaits a statement, up to `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    statement: &'static str,
    sent: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DatabaseError> {
    match tokio::time::timeout(limit, catch_panics(sent)).await {
        Ok(answer) => answer.map_err(DatabaseError::database(statement)),
        Err(_) => Err(DatabaseError::NoAnswer { statement, limit }),
    }
}

/// Reads an answer. A malformed value panics in the client library when it is read; here that is an error.
pub(crate) fn read<T>(
    statement: &'static str,
    read: impl FnOnce() -> Result<T, sqlx::Error>,
) -> Result<T, DatabaseError> {
    let answer = catch_panics(async { read() }).now_or_never();
    // Cannot fail: it awaits nothing.
    answer.expect("an answer that is there").map_err(DatabaseError::database(statement))
}

/// Parses a key of an answer.
pub(crate) fn key_of(statement: &'static str, key: String) -> Result<ObjectKey, DatabaseError> {
    ObjectKey::new(key)
        .map_err(|e| DatabaseError::Inconsistent { statement, what: format!("a key in the answer: {e}") })
}

/// sqlx's own message, with a remedy for the usual causes.
fn sentence(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Io(io) => match ConnectError::of(error) {
            Some(none) => none.to_string(),
            None => format!("cannot reach PostgreSQL: {io}"),
        },
        sqlx::Error::PoolTimedOut => "all of this process's connections to PostgreSQL are in use".into(),
        sqlx::Error::Tls(tls) => format!("TLS to PostgreSQL failed: {tls}"),
        sqlx::Error::Database(refusal) => match refusal.code().as_deref() {
            Some("28P01" | "28000") => format!("PostgreSQL refused the login: {}", refusal.message()),
            Some("3D000") => format!("{}; create it, or correct database.url", refusal.message()),
            Some("42501") => format!("{}; docs/postgresql.md lists what the daemon's role needs", refusal.message()),
            Some("42P01" | "42703" | "3F000" | "42883") => {
                format!("{}; run `copyhold migrate` with this configuration", refusal.message())
            }
            Some(READ_ONLY) => {
                format!("{}; the server is in recovery, or default_transaction_read_only is on", refusal.message())
            }
            // From a pooler: refused start-up options, and a prepared statement that another session made or lacks.
            Some("08P01") if refusal.message().contains("startup parameter") => {
                format!(
                    "{}; database.url leads to a pooler: set database.listen_url, as docs/postgresql.md says",
                    refusal.message()
                )
            }
            Some("42P05" | "26000") => format!(
                "{}; the pooler must keep prepared statements (PgBouncer 1.21 or later, max_prepared_statements above 0)",
                refusal.message()
            ),
            _ => refusal.message().to_owned(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_text_does_not_contain_the_name_of_a_statement() {
        let errors = [
            DatabaseError::NoAnswer { statement: "stats::status", limit: LIMIT },
            DatabaseError::Inconsistent { statement: "stats::status", what: "no".into() },
            DatabaseError::database("stats::status")(sqlx::Error::PoolTimedOut),
        ];
        for error in errors {
            assert!(!error.to_string().contains("stats::"), "{error}");
        }
    }
}
