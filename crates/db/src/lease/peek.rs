//! Reads a lane without leasing anything.

use copyhold_core::domain::{ObjectKey, ReplicaName, SchemaName};
use sqlx::{Row as _, postgres::PgRow};

use super::claim::LanePosition;
use crate::{
    error::{DatabaseError, read, with_timeout},
    handle::Database,
    sql::{claimable, names_of},
};

const NAME: &str = "lease::peek";
/// Rows that one query reads, at most.
const LOOKED_AT: i64 = 256;

/// The result of reading a part of a lane.
#[derive(Debug)]
pub struct Peeked {
    /// Objects that one of the given holders has on record.
    pub keys: Vec<ObjectKey>,
    /// The last position that was read; `None`: there is no row from there on.
    pub last: Option<LanePosition>,
    /// Whether there may be more rows behind it.
    pub more: bool,
}

/// Reads rows of a lane from a position on, oldest due first, without locking them: `$1` rows at most, `$2` and `$3`
/// the position.
pub(crate) fn statement(schema: &SchemaName, replicas: &[ReplicaName], lane: &ReplicaName) -> String {
    let due = lane.due_column();
    format!(
        "SELECT object_key, {due} AS lane_due, id, {} AS recorded FROM {}.object_copies
 WHERE {}
   AND ({due}, id) > ($2::bigint, $3::bigint)
 ORDER BY {due}, id
 LIMIT $1::bigint",
        names_of(replicas, |r| format!("{} IS NOT NULL", r.column())),
        schema.quoted(),
        claimable(schema, lane)
    )
}

impl Database {
    /// The next due rows of a lane behind a position.
    pub(crate) async fn peek_page(
        &self,
        lane: &ReplicaName,
        from: LanePosition,
    ) -> Result<Vec<(ObjectKey, LanePosition)>, DatabaseError> {
        let query = sqlx::query(self.statements.peeks[self.lane(lane)?].clone());
        let query = query.bind(LOOKED_AT).bind(from.due).bind(from.id);
        let rows = with_timeout(NAME, query.fetch_all(&self.pool)).await?;
        let place = |row: &PgRow| {
            let key =
                ObjectKey::new(row.try_get::<String, _>("object_key")?).map_err(|e| sqlx::Error::Decode(e.into()))?;
            Ok((key, LanePosition { due: row.try_get("lane_due")?, id: row.try_get("id")? }))
        };
        read(NAME, || rows.iter().map(place).collect())
    }

    /// Finds up to `limit` due objects that lack their copy at `lane` and that one of `holders` has on record.
    /// For use while the primary cannot be read: claiming rows that turn out to have no source would write each of them
    /// again and again.
    pub async fn peek(
        &self,
        lane: &ReplicaName,
        from: LanePosition,
        holders: &[ReplicaName],
        limit: usize,
    ) -> Result<Peeked, DatabaseError> {
        let query = sqlx::query(self.statements.peeks[self.lane(lane)?].clone());
        let query = query.bind(LOOKED_AT).bind(from.due).bind(from.id);
        let rows = with_timeout(NAME, query.fetch_all(&self.pool)).await?;
        let whole = rows.len() >= usize::try_from(LOOKED_AT).unwrap_or_default();
        let mut peeked = Peeked { keys: Vec::new(), last: None, more: whole };
        for row in &rows {
            if peeked.keys.len() == limit {
                peeked.more = true;
                break;
            }
            let (key, at) = read(NAME, || held_by(row, holders))?;
            peeked.keys.extend(key);
            peeked.last = Some(at);
        }
        Ok(peeked)
    }
}

/// The row's position, and its key if one of `holders` has it.
fn held_by(row: &PgRow, holders: &[ReplicaName]) -> Result<(Option<ObjectKey>, LanePosition), sqlx::Error> {
    let at = LanePosition { due: row.try_get("lane_due")?, id: row.try_get("id")? };
    let recorded: Vec<String> = row.try_get("recorded")?;
    let held = holders.iter().any(|holder| recorded.iter().any(|name| name == holder.as_str()));
    let key = || ObjectKey::new(row.try_get::<String, _>("object_key")?).map_err(|e| sqlx::Error::Decode(e.into()));
    Ok((held.then(key).transpose()?, at))
}
