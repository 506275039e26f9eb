//! Events of other programs: their way into the inbox, and from there into the log.

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::trusted_sql,
};

const NAME: &str = "log::move_inbox";

/// The result of one move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboxMove {
    /// So many events, fewer than the limit: the inbox is empty.
    All(usize),
    /// As many as the limit allows; there may be more.
    Some,
    /// None: another session is moving events. Events that it does not see still have to be moved.
    Locked,
}

impl Database {
    /// Appends events of other programs, all or none, in the order given. Each of `documents` is the text of a JSON
    /// object or of an array of objects. PostgreSQL refuses anything else, events that are too large, and events of a
    /// kind reserved for Copyhold ([`DatabaseError::refusal`]). Returns how many events they were.
    /// As text, because a number that PostgreSQL stores exactly may not fit any type of ours.
    pub async fn append_events(&self, documents: &[&str]) -> Result<u64, DatabaseError> {
        const NAME: &str = "log::append_events";
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- log::append_events
SELECT count(*) FROM (
    SELECT {schema}.append_event(event)
    FROM (SELECT e.event
          FROM unnest($1::text[]) WITH ORDINALITY AS d(document, place),
               jsonb_array_elements(CASE WHEN jsonb_typeof(document::jsonb) = 'array' THEN document::jsonb
                                         ELSE jsonb_build_array(document::jsonb) END) WITH ORDINALITY AS e(event, place)
          ORDER BY d.place, e.place) AS in_order
    OFFSET 0) AS appended"
        ));
        let appended: i64 = with_timeout(NAME, sqlx::query_scalar(sql).bind(documents).fetch_one(&self.pool)).await?;
        u64::try_from(appended)
            .map_err(|_| DatabaseError::Inconsistent { statement: NAME, what: "a negative count".into() })
    }

    /// Moves the first event of the inbox behind the others, unless another session moves events. Returns its new id in
    /// the inbox; the log is not touched.
    pub async fn defer_first_of_inbox(&self) -> Result<Option<i64>, DatabaseError> {
        const NAME: &str = "log::defer_first_of_inbox";
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {NAME}
WITH duty AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0)) AS mine
)
UPDATE {schema}.log_inbox SET id = DEFAULT
 WHERE (SELECT mine FROM duty)
   AND id = (SELECT id FROM {schema}.log_inbox ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id"
        ));
        let query = sqlx::query_scalar(sql).bind(format!("{}:log_inbox", self.schema));
        with_timeout(NAME, query.fetch_optional(&self.pool)).await
    }

    /// Moves up to `most` events of other programs from the inbox into the log, in their order, and notifies the
    /// readers.
    pub async fn move_inbox(&self, most: usize) -> Result<InboxMove, DatabaseError> {
        let sql = trusted_sql(format!("-- {NAME}\nSELECT {}.move_inbox($1)", self.schema.quoted()));
        let query = sqlx::query_scalar(sql).bind(i32::try_from(most).unwrap_or(i32::MAX));
        let moved: Option<i32> = with_timeout(NAME, query.fetch_one(&self.pool)).await?;
        Ok(match moved.map(|moved| usize::try_from(moved).unwrap_or_default()) {
            None => InboxMove::Locked,
            Some(moved) if moved < most => InboxMove::All(moved),
            Some(_) => InboxMove::Some,
        })
    }
}
