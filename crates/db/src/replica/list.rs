//! The table `replicas`: pins, admission, the primary, and the primaries before.

use std::time::{Duration, SystemTime};

use copyhold_core::domain::{BreakerScope, FailureClass, Generation, RegistrationOrder, ReplicaName, micros};
use sqlx::{Row as _, postgres::PgRow};

use super::{breaker::Breaker, pause::Pause};
use crate::{
    error::{DatabaseError, read, with_timeout},
    handle::Database,
    pin::Pin,
    sql::{PARKED, trusted_sql},
};

const ROWS: &str = "replica::rows";

/// Nothing is written to a bucket earlier than this after it was seen to hold objects. By the store's clock.
pub const WRITE_DELAY: Duration = Duration::from_secs(5);
/// In the middle of that: an object is older, or ours, by which side of it its time is on, though stores count in whole
/// seconds and the clocks of their machines differ.
pub(crate) const FOREIGN_US: i64 = 3_000_000;
/// An inspection of a bucket that is older must be repeated: what was written since is not ours.
pub const INSPECTION_VALID_FOR: Duration = Duration::from_secs(30);

/// The decision before the first write to a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Its bucket held no objects.
    Empty,
    /// Objects in it are adopted where they are equal, and left alone where they are not.
    Adopt,
    /// Objects in it are replaced.
    Overwrite,
}

impl Admission {
    const ALL: [Self; 3] = [Self::Empty, Self::Adopt, Self::Overwrite];

    /// A clause for operators: why it may be written to.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Empty => "its bucket is empty",
            Self::Adopt => "what its bucket holds is taken over where it is equal",
            Self::Overwrite => "what its bucket holds is replaced",
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Adopt => "adopt",
            Self::Overwrite => "overwrite",
        }
    }
}

/// The state of a replica that all daemons share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaRow {
    pub name: ReplicaName,
    /// It is the primary in force.
    pub primary: bool,
    /// `None`: no daemon has used it yet.
    pub pin: Option<Pin>,
    /// `None`: nothing was written to it yet. With the time, by the store's clock, before which nothing in its bucket
    /// is ours.
    pub admission: Option<(Admission, SystemTime)>,
    /// When its bucket was seen to hold objects before the first write, by the store's clock.
    pub looked_at: Option<SystemTime>,
    /// Its objects are adopted when it is opened for writing, whatever the configuration says.
    pub adopts: bool,
    /// `None`: copies may be made to it.
    pub pause: Option<Pause>,
    /// `None`: no problem is known.
    pub breaker: Option<Breaker>,
    /// `None`: it is not draining.
    pub draining: Option<DrainState>,
    /// `None`: it was never the primary, or still is.
    pub former: Option<FormerPrimary>,
    /// Its recorded copies are being cleared, or an interrupted reset did not finish.
    pub resetting: bool,
}

/// No object is copied to a draining replica, and no copy counts as missing there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainState {
    /// µs since the epoch by the database's clock.
    pub since: i64,
    /// The operator's reason.
    pub because: Option<String>,
}

/// What is known of the contents of a former primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormerPrimary {
    /// Objects up to this arrival were registered while it was the primary: under their keys it holds the registered
    /// content.
    pub through: RegistrationOrder,
    /// Generations up to this one were registered while it was the primary: contents that no daemon has read yet may be
    /// there.
    pub begun_through: Generation,
    /// Objects that are older were there before Copyhold; `None`: there were none.
    pub foreign_before: Option<SystemTime>,
}

impl Database {
    /// Every replica that the schema has ever had, by name.
    pub async fn replica_rows(&self) -> Result<Vec<ReplicaRow>, DatabaseError> {
        let sql = trusted_sql(format!(
            "-- {ROWS}
SELECT name, primary_since IS NOT NULL AS is_primary, endpoint, bucket, existing, writable_at, looked_at, adopts,
       CASE WHEN paused_until > {schema}.now_utc_micro_seconds() THEN paused_until END AS paused_until, pause_reason,
       breaker_opened_at, breaker_blocks, breaker_class, breaker_message, probes_failed,
       probe_at - {schema}.now_utc_micro_seconds() AS probe_in,
       draining_since, drain_reason, registered_through, begun_through, foreign_before,
       EXISTS (SELECT FROM {schema}.resets s WHERE s.replica = name) AS resetting
FROM {schema}.replicas ORDER BY name",
            schema = self.schema.quoted()
        ));
        let rows = with_timeout(ROWS, sqlx::query(sql).fetch_all(&self.pool)).await?;
        read(ROWS, || rows.iter().map(parse).collect())
    }

    /// Whether any object that the replica lacks is recorded elsewhere, so that it could be copied there.
    pub async fn has_copyable_objects(&self, replica: &ReplicaName) -> Result<bool, DatabaseError> {
        let (copy, due) = (replica.column(), replica.due_column());
        let others = self.replicas.iter().filter(|r| *r != replica).map(ReplicaName::column);
        let sql = trusted_sql(format!(
            "-- replica::has_copyable_objects
SELECT EXISTS (SELECT FROM {}.object_copies
               WHERE {copy} IS NULL AND {due} < {PARKED} AND lock IS NULL AND coalesce({}) IS NOT NULL)",
            self.schema.quoted(),
            others.collect::<Vec<_>>().join(", ")
        ));
        with_timeout("replica::has_copyable_objects", sqlx::query_scalar(sql).fetch_one(&self.pool)).await
    }

    /// Pins the replica to the bucket, unless it is pinned already. Read the row again to see to which.
    pub async fn pin(&self, replica: &ReplicaName, pin: &Pin) -> Result<(), DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- replica::pin
UPDATE {schema}.replicas SET endpoint = $2, bucket = $3, pinned_at = {schema}.now_utc_micro_seconds()
WHERE name = $1 AND pinned_at IS NULL"
        ));
        let query = sqlx::query(sql).bind(replica.as_str()).bind(&pin.endpoint).bind(&pin.bucket);
        with_timeout("replica::pin", query.execute(&self.pool)).await?;
        Ok(())
    }

    /// Records when a bucket was seen to hold objects, by its store's clock; unless that was recorded within the last
    /// [`INSPECTION_VALID_FOR`]. From then on nothing is written there for [`WRITE_DELAY`], so that seconds separate
    /// our objects from older ones.
    pub async fn note_look(&self, replica: &ReplicaName, date: SystemTime) -> Result<(), DatabaseError> {
        const NAME: &str = "replica::note_look";
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {NAME}
UPDATE {schema}.replicas SET looked_at = $2
WHERE name = $1 AND writable_at IS NULL AND (looked_at IS NULL OR looked_at NOT BETWEEN $2 - $3 AND $2)"
        ));
        let query = sqlx::query(sql).bind(replica.as_str()).bind(unix_micros(date)).bind(micros(INSPECTION_VALID_FOR));
        with_timeout(NAME, query.execute(&self.pool)).await?;
        Ok(())
    }

    /// Opens the replica for writing, unless it is open already. Read the row again to see on which terms. `looked_at`:
    /// its value at the time of that decision; nothing happens if it has changed.
    pub async fn admit(
        &self,
        replica: &ReplicaName,
        admission: Admission,
        looked_at: Option<SystemTime>,
    ) -> Result<(), DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- replica::admit
UPDATE {schema}.replicas
   SET existing = $2, writable_at = {schema}.now_utc_micro_seconds(), looked_at = CASE WHEN $2 = 'adopt' THEN looked_at END
WHERE name = $1 AND writable_at IS NULL AND ($2 <> 'adopt' OR looked_at = $3)"
        ));
        let looked_at = looked_at.map(unix_micros);
        let query = sqlx::query(sql).bind(replica.as_str()).bind(admission.as_str()).bind(looked_at);
        with_timeout("replica::admit", query.execute(&self.pool)).await?;
        Ok(())
    }
}

fn parse(row: &PgRow) -> Result<ReplicaRow, sqlx::Error> {
    let name = ReplicaName::new(row.try_get::<String, _>("name")?).map_err(|e| sqlx::Error::Decode(e.into()))?;
    let endpoint: Option<String> = row.try_get("endpoint")?;
    let because = row.try_get("pause_reason")?;
    let paused_until: Option<i64> = row.try_get("paused_until")?;
    Ok(ReplicaRow {
        name,
        primary: row.try_get("is_primary")?,
        pin: endpoint.zip(row.try_get("bucket")?).map(|(endpoint, bucket)| Pin { endpoint, bucket }),
        admission: admission(row)?,
        looked_at: row.try_get::<Option<i64>, _>("looked_at")?.map(system_time),
        adopts: row.try_get("adopts")?,
        pause: paused_until.map(|until| Pause { until: (until != PARKED).then_some(until), because }),
        breaker: breaker(row)?,
        draining: draining(row)?,
        former: former(row)?,
        resetting: row.try_get("resetting")?,
    })
}

fn draining(row: &PgRow) -> Result<Option<DrainState>, sqlx::Error> {
    let Some(since) = row.try_get("draining_since")? else { return Ok(None) };
    Ok(Some(DrainState { since, because: row.try_get("drain_reason")? }))
}

fn former(row: &PgRow) -> Result<Option<FormerPrimary>, sqlx::Error> {
    let Some(through) = row.try_get("registered_through")? else { return Ok(None) };
    let begun: Option<i64> = row.try_get("begun_through")?;
    let foreign_before: Option<i64> = row.try_get("foreign_before")?;
    Ok(Some(FormerPrimary {
        through: RegistrationOrder(through),
        begun_through: Generation(begun.unwrap_or(i64::MIN)),
        foreign_before: foreign_before.map(system_time),
    }))
}

fn unix_micros(at: SystemTime) -> i64 {
    micros(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// µs since the epoch.
fn system_time(at: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(at).unwrap_or_default())
}

fn admission(row: &PgRow) -> Result<Option<(Admission, SystemTime)>, sqlx::Error> {
    let existing: Option<String> = row.try_get("existing")?;
    let writable_at: Option<i64> = row.try_get("writable_at")?;
    let Some((word, at)) = existing.zip(writable_at) else { return Ok(None) };
    let admission = known("replicas.existing", &word, Admission::ALL.into_iter().find(|a| a.as_str() == word))?;
    // The store's clock is unknown for a replica that a version before 6 has opened; the database's clock has to do.
    let looked_at: Option<i64> = row.try_get("looked_at")?;
    let ours_since = looked_at.map_or(at, |at| at + FOREIGN_US);
    Ok(Some((admission, system_time(ours_since))))
}

fn breaker(row: &PgRow) -> Result<Option<Breaker>, sqlx::Error> {
    let Some(opened_at) = row.try_get("breaker_opened_at")? else { return Ok(None) };
    let (blocks, class): (String, String) = (row.try_get("breaker_blocks")?, row.try_get("breaker_class")?);
    let probe_in: i64 = row.try_get("probe_in")?;
    Ok(Some(Breaker {
        opened_at,
        blocks: known(
            "replicas.breaker_blocks",
            &blocks,
            BreakerScope::ALL.into_iter().find(|b| b.as_str() == blocks),
        )?,
        class: FailureClass::ALL.into_iter().find(|c| c.as_str() == class),
        message: row.try_get("breaker_message")?,
        probe_in: Duration::from_micros(u64::try_from(probe_in).unwrap_or_default()),
        probes_failed: u32::try_from(row.try_get::<i32, _>("probes_failed")?).unwrap_or_default(),
    }))
}

fn known<T>(column: &str, word: &str, found: Option<T>) -> Result<T, sqlx::Error> {
    found.ok_or_else(|| sqlx::Error::Decode(format!("{column} is \"{word}\"").into()))
}
