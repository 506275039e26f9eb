use super::QueueError;
use crate::domain::ObjectKey;

/// What became of a fenced write, per key. None of them is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was written.
    Recorded,
    /// Somebody holds the row at this moment; try again.
    Busy,
    /// The lease or the generation is not ours any more: stop.
    Changed,
}

impl Answer {
    pub(super) fn parse(statement: &'static str, word: &str) -> Result<Self, QueueError> {
        match word {
            "recorded" => Ok(Self::Recorded),
            "busy" => Ok(Self::Busy),
            "changed" => Ok(Self::Changed),
            other => Err(QueueError::Inconsistent { statement, what: format!("the answer \"{other}\"") }),
        }
    }
}

/// The tail of each fenced statement: one answer per key of `asked(k, f, g)`, from what was `held` and what was `done`.
/// A row that was not held but still carries our fence is in somebody's hands; otherwise it is no longer ours.
pub(super) fn answers(schema: &str) -> String {
    format!(
        "SELECT a.k, CASE
             WHEN done.object_key IS NOT NULL THEN 'recorded'
             WHEN held.object_key IS NULL AND EXISTS (
                 SELECT FROM {schema}.object_copies o
                 WHERE o.object_key = a.k AND o.lease = a.f AND (a.g IS NULL OR o.generation = a.g)) THEN 'busy'
             ELSE 'changed' END
         FROM asked a
         LEFT JOIN held ON held.object_key = a.k
         LEFT JOIN done ON done.object_key = a.k"
    )
}

/// The answers as the statement gave them, each with its key.
pub(super) fn by_key(
    statement: &'static str,
    rows: Vec<(String, String)>,
) -> Result<Vec<(ObjectKey, Answer)>, QueueError> {
    let parse = |(key, word): (String, String)| {
        let key = ObjectKey::new(key)
            .map_err(|e| QueueError::Inconsistent { statement, what: format!("a key in the answer: {e}") })?;
        Ok((key, Answer::parse(statement, &word)?))
    };
    rows.into_iter().map(parse).collect()
}
