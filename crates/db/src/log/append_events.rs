use super::{Queue, QueueError, built, error::limited};

const NAME: &str = "queue::append_events";

impl Queue {
    /// Appends events of other programs, all or none, in the order given. Each of `documents` is the text of a JSON object or
    /// of an array of objects; what is anything else is refused by PostgreSQL, as are events that are too large or of a kind
    /// that is ours ([`QueueError::refusal`]). Returns how many events they were.
    ///
    /// Text, because a number that PostgreSQL keeps exactly may be beyond any type of ours.
    pub async fn append_events(&self, documents: &[&str]) -> Result<u64, QueueError> {
        let schema = self.schema.quoted();
        let sql = built(format!(
            "-- queue::append_events
SELECT count(*) FROM (
    SELECT {schema}.append_event(event)
    FROM (SELECT e.event
          FROM unnest($1::text[]) WITH ORDINALITY AS d(document, place),
               jsonb_array_elements(CASE WHEN jsonb_typeof(document::jsonb) = 'array' THEN document::jsonb
                                         ELSE jsonb_build_array(document::jsonb) END) WITH ORDINALITY AS e(event, place)
          ORDER BY d.place, e.place) AS in_order
    OFFSET 0) AS appended"
        ));
        let appended: i64 = limited(NAME, sqlx::query_scalar(sql).bind(documents).fetch_one(&self.pool)).await?;
        u64::try_from(appended)
            .map_err(|_| QueueError::Inconsistent { statement: NAME, what: "a negative count".into() })
    }
}
