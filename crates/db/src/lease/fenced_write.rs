//! The parts that all fenced statements share, and their result.
//!
//! Each locks its rows with SKIP LOCKED before it writes, and writes only where the fence is still its own.

use copyhold_core::domain::{Fence, ObjectKey};

use crate::error::{DatabaseError, key_of};

/// The result of a fenced write, per key. None of these is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FencedWrite {
    /// It was written.
    Applied,
    /// Another transaction has locked the row; try again.
    RowLocked,
    /// The lease is lost, or the generation is another: stop.
    Superseded,
    /// PostgreSQL refused the write, and the failure of the copies was written in its place. No statement returns this.
    FailureWritten,
}

impl FencedWrite {
    pub(crate) fn parse(statement: &'static str, word: &str) -> Result<Self, DatabaseError> {
        match word {
            "recorded" => Ok(Self::Applied),
            "busy" => Ok(Self::RowLocked),
            "changed" => Ok(Self::Superseded),
            other => Err(DatabaseError::Inconsistent { statement, what: format!("the answer \"{other}\"") }),
        }
    }
}

/// The middle of each fenced statement: locks the rows of the keys in `$1` with SKIP LOCKED, so that it never waits for
/// one row while it holds another. `hash_before`: RETURNING shows only the values after the update.
pub(crate) fn held(schema: &str) -> String {
    format!(
        "held AS MATERIALIZED (
    SELECT o.object_key, o.content_hash AS hash_before FROM {schema}.object_copies o
    WHERE o.object_key = ANY ($1::text[])
    FOR NO KEY UPDATE SKIP LOCKED
)"
    )
}

/// The end of each fenced statement: one answer per key of `asked(k, f, g)`, from what was `held` and what was `done`,
/// both by `object_key`, the latter with the fence `f`.
/// A row that was not held but still carries our fence is locked by another transaction; otherwise it is no longer
/// ours.
pub(crate) fn answers(schema: &str) -> String {
    format!(
        "SELECT a.k, a.f, CASE
             WHEN done.object_key IS NOT NULL THEN 'recorded'
             WHEN held.object_key IS NULL AND EXISTS (
                 SELECT FROM {schema}.object_copies o
                 WHERE o.object_key = a.k AND o.lease = a.f AND (a.g IS NULL OR o.generation = a.g)) THEN 'busy'
             ELSE 'changed' END
         FROM asked a
         LEFT JOIN held ON held.object_key = a.k
         LEFT JOIN done ON done.object_key = a.k AND done.f = a.f"
    )
}

/// Key and fence of a row, and the result of its write.
pub type FencedResult = (ObjectKey, Fence, FencedWrite);

/// Parses the answers of a statement.
pub(crate) fn parse_all(
    statement: &'static str,
    rows: Vec<(String, i64, String)>,
) -> Result<Vec<FencedResult>, DatabaseError> {
    let parse = |(key, fence, word): (String, i64, String)| {
        Ok((key_of(statement, key)?, Fence(fence), FencedWrite::parse(statement, &word)?))
    };
    rows.into_iter().map(parse).collect()
}
