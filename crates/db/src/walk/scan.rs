//! The progress of a bucket scan, written together with the objects that it registers.
//! A page moves its part on only from where the previous page ended. So whatever is killed, repeated or done by two
//! processes at once, each page counts once and none is skipped. The holder (`held_by`) only decides whether a second
//! process is refused.

mod preview;

use std::time::Duration;

use copyhold_core::domain::{EventKind, ObjectKey, ReplicaName, micros};
use serde::Serialize;
use sqlx::{Row as _, SqlStr, postgres::PgRow};

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    log::append,
    object::register_listed,
    pin::Pin,
    sql::{ASYNCHRONOUS, trusted_sql},
};

const FIND: &str = "walk::find_scan";
const PARTS: &str = "walk::scan_parts";
const REGISTER: &str = "walk::register_page";

/// The arguments that identify a scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScanArguments {
    /// Sorted; none of them begins with another.
    pub prefixes: Vec<String>,
    pub adopt: bool,
    #[serde(flatten)]
    pub pin: Pin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanId(i64);

/// A process that runs a scan, identified by a random number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanHolder(pub i64);

/// A scan that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnfinishedScan {
    pub id: ScanId,
    /// µs, by the database's clock.
    pub started_at: i64,
    /// For this long its process is presumed alive; `None`: no process runs it.
    pub held_for: Option<Duration>,
}

/// A range of the order of keys: keys with the prefix, after one key and up to and including another. Neither need
/// exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    pub prefix: String,
    pub after: Option<String>,
    pub through: Option<String>,
}

/// A part of a scan, and its progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanPart {
    pub number: i32,
    pub range: KeyRange,
    /// All keys up to and including this one are registered.
    pub reached: Option<String>,
    pub done: bool,
    pub counts: ScanCounts,
    pub unusable_example: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScanCounts {
    /// Listed keys, unusable ones included.
    pub listed: u64,
    /// Of these, those that were not registered before.
    pub registered: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their wanted copies that were missing.
    pub due: u64,
    /// Copies adopted at other replicas.
    pub adopted: u64,
    pub unusable: u64,
}

impl ScanCounts {
    /// Keys that were registered before.
    #[must_use]
    pub fn known(&self) -> u64 {
        self.listed.saturating_sub(self.registered + self.unusable)
    }
}

impl std::ops::AddAssign for ScanCounts {
    fn add_assign(&mut self, more: Self) {
        self.listed += more.listed;
        self.registered += more.registered;
        self.bytes += more.bytes;
        self.due += more.due;
        self.adopted += more.adopted;
        self.unusable += more.unusable;
    }
}

/// A run of consecutive keys of a listing.
#[derive(Debug, Clone)]
pub struct ListedKeys {
    /// In ascending order.
    pub keys: Vec<ListedKey>,
    /// Unusable keys between and after them.
    pub unusable: u64,
    pub unusable_example: Option<String>,
    /// The replica whose bucket was listed.
    pub holder: ReplicaName,
    /// Since the oldest of the listings was requested.
    pub age: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedKey {
    pub key: ObjectKey,
    /// `None`: the listing does not contain it.
    pub size_bytes: Option<u64>,
    /// Other replicas whose listings show the same content.
    pub same_at: Vec<ReplicaName>,
}

/// Identifies a page of a scan.
#[derive(Debug, Clone, Copy)]
pub struct ScanPage<'a> {
    pub scan: ScanId,
    pub part: i32,
    /// Where the previous page left the part.
    pub from: Option<&'a str>,
    /// All keys up to and including this one; `None`: the part stays where it is.
    pub reached: Option<&'a str>,
    /// No key follows.
    pub done: bool,
}

/// The result of writing a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageResult {
    /// The part's counts with this page.
    Registered(ScanCounts),
    /// Another process has moved the part on. Nothing was written.
    Elsewhere,
}

impl Database {
    /// Returns the unfinished scan with these arguments.
    pub async fn unfinished_scan(
        &self,
        replica: &ReplicaName,
        arguments: &ScanArguments,
    ) -> Result<Option<UnfinishedScan>, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {FIND}
SELECT id, started_at, held_until - {schema}.now_utc_micro_seconds() AS held_for
  FROM {schema}.scans WHERE replica = $1 AND arguments = $2::jsonb AND ended_at IS NULL"
        ));
        let query = sqlx::query_as(sql).bind(replica.as_str()).bind(json(arguments));
        let found: Option<(i64, i64, Option<i64>)> = with_timeout(FIND, query.fetch_optional(&self.pool)).await?;
        Ok(found.map(|(id, started_at, held_for)| {
            let held_for = held_for.and_then(|us| u64::try_from(us).ok()).filter(|us| *us > 0);
            UnfinishedScan { id: ScanId(id), started_at, held_for: held_for.map(Duration::from_micros) }
        }))
    }

    /// Begins a scan with these parts, held for `hold`; `None`: another process has begun the same one. Deletes the
    /// progress of earlier scans that have ended.
    pub async fn begin_scan(
        &self,
        replica: &ReplicaName,
        arguments: &ScanArguments,
        parts: &[KeyRange],
        holder: ScanHolder,
        hold: Duration,
    ) -> Result<Option<ScanId>, DatabaseError> {
        const NAME: &str = "walk::begin_scan";
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {NAME}
WITH begun AS (
    INSERT INTO {schema}.scans (replica, arguments, held_by, held_until)
    VALUES ($1, $2::jsonb, $3, {schema}.now_utc_micro_seconds() + $4)
    ON CONFLICT DO NOTHING
    RETURNING id
),
parts AS (
    INSERT INTO {schema}.scan_parts (scan, part, prefix, after_key, through_key)
    SELECT begun.id, p.part, p.prefix, p.after_key, p.through_key
      FROM begun, unnest($5::text[], $6::text[], $7::text[]) WITH ORDINALITY AS p(prefix, after_key, through_key, part)
),
earlier AS (
    DELETE FROM {schema}.scans s USING begun
     WHERE s.replica = $1 AND s.arguments = $2::jsonb AND s.ended_at IS NOT NULL
)
SELECT id FROM begun"
        ));
        let query = sqlx::query_scalar(sql)
            .bind(replica.as_str())
            .bind(json(arguments))
            .bind(holder.0)
            .bind(micros(hold))
            .bind(parts.iter().map(|part| part.prefix.as_str()).collect::<Vec<_>>())
            .bind(parts.iter().map(|part| part.after.as_deref()).collect::<Vec<_>>())
            .bind(parts.iter().map(|part| part.through.as_deref()).collect::<Vec<_>>());
        let id: Option<i64> = with_timeout(NAME, query.fetch_optional(&self.pool)).await?;
        Ok(id.map(ScanId))
    }

    /// Claims the scan for this process, or renews its claim, for `hold`. Returns false while another process holds it.
    pub async fn claim_scan(&self, scan: ScanId, holder: ScanHolder, hold: Duration) -> Result<bool, DatabaseError> {
        const NAME: &str = "walk::claim_scan";
        let sql = trusted_sql(format!(
            "-- {NAME}
UPDATE {schema}.scans SET held_by = $2, held_until = {schema}.now_utc_micro_seconds() + $3
 WHERE id = $1 AND ended_at IS NULL
   AND (held_by = $2 OR held_until IS NULL OR held_until <= {schema}.now_utc_micro_seconds())",
            schema = self.schema.quoted()
        ));
        let query = sqlx::query(sql).bind(scan.0).bind(holder.0).bind(micros(hold));
        Ok(with_timeout(NAME, query.execute(&self.pool)).await?.rows_affected() == 1)
    }

    /// Releases the scan, so that the next process need not wait.
    pub async fn release_scan(&self, scan: ScanId, holder: ScanHolder) -> Result<(), DatabaseError> {
        const NAME: &str = "walk::release_scan";
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {NAME}\nUPDATE {schema}.scans SET held_until = NULL WHERE id = $1 AND held_by = $2"
        ));
        with_timeout(NAME, sqlx::query(sql).bind(scan.0).bind(holder.0).execute(&self.pool)).await?;
        Ok(())
    }

    /// Deletes the scan's progress; objects that it has registered stay.
    pub async fn forget_scan(&self, scan: ScanId) -> Result<(), DatabaseError> {
        const NAME: &str = "walk::forget_scan";
        let sql = trusted_sql(format!("-- {NAME}\nDELETE FROM {}.scans WHERE id = $1", self.schema.quoted()));
        with_timeout(NAME, sqlx::query(sql).bind(scan.0).execute(&self.pool)).await?;
        Ok(())
    }

    /// Ends the scan if all its parts are done: this commit also makes all that it has registered durable.
    pub async fn end_scan(&self, scan: ScanId) -> Result<bool, DatabaseError> {
        const NAME: &str = "walk::end_scan";
        let sql = trusted_sql(format!(
            "-- {NAME}
UPDATE {schema}.scans SET ended_at = {schema}.now_utc_micro_seconds(), held_until = NULL
 WHERE id = $1 AND NOT EXISTS (SELECT FROM {schema}.scan_parts WHERE scan = $1 AND NOT done)",
            schema = self.schema.quoted()
        ));
        Ok(with_timeout(NAME, sqlx::query(sql).bind(scan.0).execute(&self.pool)).await?.rows_affected() == 1)
    }

    /// Its parts, in their order.
    pub async fn scan_parts(&self, scan: ScanId) -> Result<Vec<ScanPart>, DatabaseError> {
        let sql = trusted_sql(format!(
            "-- {PARTS}
SELECT part, prefix, after_key, through_key, reached, done, listed, registered, registered_bytes, due, adopted, unusable,
       unusable_example
  FROM {}.scan_parts WHERE scan = $1 ORDER BY part",
            self.schema.quoted()
        ));
        let rows = with_timeout(PARTS, sqlx::query(sql).bind(scan.0).fetch_all(&self.pool)).await?;
        rows.iter().map(part).collect::<Result<_, _>>().map_err(DatabaseError::database(PARTS))
    }

    /// Registers the missing objects and moves the part on, both or neither. Registered objects stay as they are.
    /// A crash of PostgreSQL may undo the last pages together with the part's progress. Pages that adopt copies are
    /// durable at once, because readers of the log have seen their events.
    pub async fn register_page(&self, page: &ScanPage<'_>, listed: &ListedKeys) -> Result<PageResult, DatabaseError> {
        let adopts = listed.keys.iter().any(|key| !key.same_at.is_empty());
        let query = sqlx::query(self.register_statement(!adopts))
            .bind(page.scan.0)
            .bind(page.part)
            .bind(page.from)
            .bind(page.reached)
            .bind(page.done)
            .bind(signed(listed.keys.len() as u64 + listed.unusable))
            .bind(signed(listed.unusable))
            .bind(listed.unusable_example.as_deref())
            .bind(listed.keys.iter().map(|listed| listed.key.as_str()).collect::<Vec<_>>())
            .bind(listed.keys.iter().map(|listed| listed.size_bytes.map(signed)).collect::<Vec<_>>())
            .bind(adopts.then(|| listed.keys.iter().map(ListedKey::same_at).collect::<Vec<_>>()))
            .bind(listed.holder.as_str())
            .bind(micros(listed.age))
            .bind(self.kinds.contains(EventKind::ObjectCopied));
        let moved = with_timeout(REGISTER, query.fetch_optional(&self.pool)).await?;
        let counts = moved.as_ref().map(counts).transpose().map_err(DatabaseError::database(REGISTER))?;
        Ok(counts.map_or(PageResult::Elsewhere, PageResult::Registered))
    }

    /// `$1` scan, `$2` part, `$3` its position before, `$4` its position with this page, `$5` whether it is done, `$6`
    /// keys listed, `$7` unusable ones, `$8` an example of these; `$9` to `$14` as `register_listed` takes them.
    fn register_statement(&self, asynchronous: bool) -> SqlStr {
        let schema = self.schema.quoted();
        let softly = if asynchronous { format!("\n       AND {ASYNCHRONOUS}") } else { String::new() };
        let logged = if asynchronous {
            append::logged(&schema, "", &[])
        } else {
            append::logged(&schema, "SELECT e FROM did, unnest(did.events) AS t(e)", &["moved"])
        };
        trusted_sql(format!(
            "-- {REGISTER}
WITH held AS MATERIALIZED (
    SELECT p.scan, p.part FROM {schema}.scan_parts p
     WHERE p.scan = $1 AND p.part = $2 AND p.reached IS NOT DISTINCT FROM $3 AND NOT p.done{softly}
       FOR NO KEY UPDATE
),
did AS MATERIALIZED (
    SELECT held.scan, held.part, d.*
      FROM held CROSS JOIN LATERAL {schema}.{function}($9, $10, $11, $12, $13, $14) AS d
),
moved AS (
    UPDATE {schema}.scan_parts p
       SET reached = coalesce($4, p.reached), done = $5, listed = p.listed + $6, registered = p.registered + did.registered,
           registered_bytes = p.registered_bytes + did.bytes, due = p.due + did.due,
           adopted = p.adopted + did.adopted, unusable = p.unusable + $7,
           unusable_example = coalesce(p.unusable_example, $8)
      FROM did
     WHERE p.scan = did.scan AND p.part = did.part
    RETURNING p.*
),
{logged}
SELECT listed, registered, registered_bytes, due, adopted, unusable FROM moved CROSS JOIN logged",
            function = register_listed::NAME,
        ))
    }
}

impl ListedKey {
    /// As the text of an array; names of replicas need no quotes.
    fn same_at(&self) -> Option<String> {
        let names: Vec<_> = self.same_at.iter().map(ReplicaName::as_str).collect();
        (!names.is_empty()).then(|| format!("{{{}}}", names.join(",")))
    }
}

fn json(arguments: &ScanArguments) -> String {
    // Cannot fail: they are strings and a boolean.
    serde_json::to_string(arguments).expect("plain arguments")
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn part(row: &PgRow) -> Result<ScanPart, sqlx::Error> {
    Ok(ScanPart {
        number: row.try_get("part")?,
        range: KeyRange {
            prefix: row.try_get("prefix")?,
            after: row.try_get("after_key")?,
            through: row.try_get("through_key")?,
        },
        reached: row.try_get("reached")?,
        done: row.try_get("done")?,
        counts: counts(row)?,
        unusable_example: row.try_get("unusable_example")?,
    })
}

fn counts(row: &PgRow) -> Result<ScanCounts, sqlx::Error> {
    let count = |name: &str| row.try_get::<i64, _>(name).map(i64::unsigned_abs);
    Ok(ScanCounts {
        listed: count("listed")?,
        registered: count("registered")?,
        bytes: count("registered_bytes")?,
        due: count("due")?,
        adopted: count("adopted")?,
        unusable: count("unusable")?,
    })
}
