//! Appends events to the log, within the statement that makes the change, as its last step: the log's lock is taken
//! after all rows are written, and held until the commit.
//! A second statement of the transaction would hold the lock for one more round trip. An INSERT among the statement's
//! own would let its trigger take the lock first: two orders of the same locks are a deadlock. A function whose
//! argument is all that was written cannot be called earlier.

use copyhold_core::domain::{EventKind, EventKinds};

use crate::handle::Database;

/// The beginning of a query that returns one event for each of its rows.
pub(crate) fn event(kind: EventKind, members: &str) -> String {
    format!("SELECT jsonb_build_object('kind', '{kind}', {members})")
}

/// The part `logged` of a statement, one row, which its last SELECT must join: it appends the rows of `events`, if
/// there are any. `after`: parts that `events` does not read and that must have finished writing; each returns a row.
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

/// As [`logged`], with events of one kind, if that kind is written: these members, for each row of `whence`.
pub(crate) fn logged_one(schema: &str, kinds: &EventKinds, kind: EventKind, members: &str, whence: &str) -> String {
    let events = if kinds.contains(kind) { format!("{} FROM {whence}", event(kind, members)) } else { String::new() };
    logged(schema, &events, &[])
}

impl Database {
    /// [`logged_one`] with the kinds of events that this process writes.
    pub(crate) fn logged(&self, kind: EventKind, members: &str, whence: &str) -> String {
        logged_one(&self.schema.quoted(), &self.kinds, kind, members, whence)
    }
}
