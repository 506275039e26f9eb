use super::{Queue, QueueError, built, error::limited};

const NAME: &str = "queue::move_inbox";

/// What one move came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// So many events, fewer than were asked for: that was all.
    All(usize),
    /// As many as were asked for; there may be more.
    Some,
    /// None: another session is at it. What it does not see is still to be moved.
    NotNow,
}

impl Queue {
    /// Moves up to `most` events that other programs have appended into the log, in their order, and tells whoever
    /// follows it.
    pub async fn move_inbox(&self, most: usize) -> Result<Moved, QueueError> {
        let sql = built(format!("-- {NAME}\nSELECT {}.move_inbox($1)", self.schema.quoted()));
        let query = sqlx::query_scalar(sql).bind(i32::try_from(most).unwrap_or(i32::MAX));
        let moved: Option<i32> = limited(NAME, query.fetch_one(&self.pool)).await?;
        Ok(match moved.map(|moved| usize::try_from(moved).unwrap_or_default()) {
            None => Moved::NotNow,
            Some(moved) if moved < most => Moved::All(moved),
            Some(_) => Moved::Some,
        })
    }
}
