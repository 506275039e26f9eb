//! The requirements of a session: the settings that statements rely on, and a writable server.

use sqlx::{PgConnection, Row as _};

use super::{
    catch_panics::catch_panics,
    error::{ReadOnlyCause, ReadOnlyServer},
};

/// Sent with the start of each session that no pooler stands in front of, where they override ALTER ROLE and ALTER
/// DATABASE. Behind a pooler the role has to carry them: docs/postgresql.md. The client library sends DateStyle,
/// TimeZone and client_encoding itself.
/// Not set: `default_transaction_read_only`, with which an operator stops all writing, and `search_path`, which
/// triggers of the application may rely on; no statement does.
pub const SESSION_SETTINGS: [(&str, &str); 13] = [
    // In any conflict our statement gives up, well before PostgreSQL looks for deadlocks (1 s).
    ("lock_timeout", "200ms"),
    ("statement_timeout", "30000ms"),
    ("idle_in_transaction_session_timeout", "30s"),
    // With millions of missing copies the planner's cost of the backlog's count exceeds the limit for JIT. Every daemon
    // would compile it every two seconds, even when no count is due: half a second of a core each time.
    ("jit", "off"),
    // A row that another transaction has just changed is read again, not refused with 40001.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    // Statements and definitions are compared as text, and contain literals.
    ("standard_conforming_strings", "on"),
    ("quote_all_identifiers", "off"),
    ("IntervalStyle", "postgres"),
    ("bytea_output", "hex"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    // Without it, a role that asks for NOTICE messages would get one of each statement.
    ("client_min_messages", "warning"),
];

/// Limits that some versions of PostgreSQL lack: a start-up option must not name a setting that the server does not
/// know.
const UNLIMITED: &str = "SELECT count(set_config(name, '0', false)) FROM pg_settings
   WHERE name IN ('transaction_timeout', 'idle_session_timeout') AND setting <> '0'";

/// Checks whether the server of this new session is writable. `owned`: no pooler shares the session.
pub(super) async fn look(
    connection: &mut PgConnection,
    at: &str,
    owned: bool,
) -> Result<Option<ReadOnlyServer>, sqlx::Error> {
    let unlimited = if owned { format!(", ({UNLIMITED})") } else { String::new() };
    let sql = format!(
        "-- connections::connected
SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'{unlimited}"
    );
    // Not prepared: a pooler may stand in between.
    let asked = catch_panics(sqlx::Executor::fetch_one(connection, sqlx::raw_sql(crate::sql::trusted_sql(sql))));
    let row = asked.await?;
    let cause = match (row.try_get(0)?, row.try_get(1)?) {
        (true, _) => Some(ReadOnlyCause::Recovery),
        (false, true) => Some(ReadOnlyCause::Setting),
        (false, false) => None,
    };
    Ok(cause.map(|cause| ReadOnlyServer { at: at.to_owned(), cause }))
}
