use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::trusted_sql,
};

const NAME: &str = "log::move_inbox";

/// What one move came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboxMove {
    /// So many events, fewer than were asked for: that was all.
    All(usize),
    /// As many as were asked for; there may be more.
    Some,
    /// None: another session is at it. What it does not see is still to be moved.
    Locked,
}

impl Database {
    /// Appends events of other programs, all or none, in the order given. Each of `documents` is the text of a JSON object or
    /// of an array of objects; what is anything else is refused by PostgreSQL, as are events that are too large or of a kind
    /// that is ours ([`DatabaseError::refusal`]). Returns how many events they were.
    ///
    /// Text, because a number that PostgreSQL keeps exactly may be beyond any type of ours.
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

    /// Puts the first event of the inbox behind the others, unless another session moves events. Its number there; the
    /// log is not touched.
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

    /// Moves up to `most` events that other programs have appended into the log, in their order, and tells whoever
    /// follows it.
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
