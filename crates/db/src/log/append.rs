//! Events are appended by the statement that makes what they tell of, as the last thing it does: the log's lock is taken
//! when all rows are written, and held until the commit.
//!
//! Not by a second statement of a transaction, which would hold the lock for a round trip longer, and not by an
//! INSERT among the statement's own, whose trigger would take the lock first: two orders of the same locks
//! are a deadlock. A function whose argument is all that was written cannot be called earlier.

use copyhold_core::domain::{EventKind, EventKinds};

use crate::handle::Database;

/// The beginning of a query that gives one event for each of its rows.
pub(crate) fn event(kind: EventKind, members: &str) -> String {
    format!("SELECT jsonb_build_object('kind', '{kind}', {members})")
}

/// The part `logged` of a statement, one row, which its last SELECT must join: it appends what `events` gives, if anything
/// is. `after`: parts that `events` does not read and that must have written all they write; each returns something.
pub(crate) fn logged(schema: &str, events: &str, after: &[&str]) -> String {
    if events.is_empty() {
        return "logged AS MATERIALIZED (SELECT NULL::bigint AS last)".into();
    }
    let written: Vec<_> = after.iter().map(|part| format!("(SELECT count(*) FROM {part}) >= 0")).collect();
    let written = if written.is_empty() { String::new() } else { format!("\n    WHERE {}", written.join(" AND ")) };
    format!(
        "logged AS MATERIALIZED (
    SELECT {schema}.append_log(array_agg(event)) AS last FROM (
    {events}
    ) AS e(event){written}
)"
    )
}

/// The same with events of one kind, if that is kept: these members, of each row of `whence`.
pub(crate) fn logged_one(schema: &str, kinds: &EventKinds, kind: EventKind, members: &str, whence: &str) -> String {
    let events = if kinds.contains(kind) { format!("{} FROM {whence}", event(kind, members)) } else { String::new() };
    logged(schema, &events, &[])
}

impl Database {
    /// [`logged_one`] with what this queue keeps.
    pub(crate) fn logged(&self, kind: EventKind, members: &str, whence: &str) -> String {
        logged_one(&self.schema.quoted(), &self.kinds, kind, members, whence)
    }
}
