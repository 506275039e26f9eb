//! Where a scan of a bucket stands, written together with what it has registered.
//!
//! A page moves its part on only from where the page before has left it. So whatever is killed, repeated or done by two
//! at once, each page counts once, and none is passed over. Who is at it (`held_by`) decides nothing but what a second process is told.

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

/// What makes it the same scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScanArguments {
    /// In their order, and none of them within another.
    pub prefixes: Vec<String>,
    pub adopt: bool,
    #[serde(flatten)]
    pub pin: Pin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanId(i64);

/// A process that is at a scan, by a number that it has drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanHolder(pub i64);

/// A scan that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnfinishedScan {
    pub id: ScanId,
    /// µs, by the database's clock.
    pub started_at: i64,
    /// For so long yet, a process is taken for being at it; `None`: there is none.
    pub held_for: Option<Duration>,
}

/// A range of the order of keys: those with the prefix, behind one key and up to and with another, neither of which need
/// be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    pub prefix: String,
    pub after: Option<String>,
    pub through: Option<String>,
}

/// A piece of a scan, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanPart {
    pub number: i32,
    pub range: KeyRange,
    /// All up to and with this key is registered.
    pub reached: Option<String>,
    pub done: bool,
    pub counts: ScanCounts,
    pub unusable_example: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScanCounts {
    /// Keys that were listed, the unusable ones included.
    pub listed: u64,
    /// Of these, those that were not registered before.
    pub registered: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Copies of these that are wanted and were missing.
    pub due: u64,
    /// Copies at other replicas.
    pub adopted: u64,
    pub unusable: u64,
}

impl ScanCounts {
    /// Listed, and there already.
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

/// What a listing has shown of some keys in a row.
#[derive(Debug, Clone)]
pub struct ListedKeys {
    /// Rising.
    pub keys: Vec<ListedKey>,
    /// Unusable ones between and behind them.
    pub unusable: u64,
    pub unusable_example: Option<String>,
    /// The replica whose bucket was listed.
    pub holder: ReplicaName,
    /// Since the oldest of the listings was asked for.
    pub age: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedKey {
    pub key: ObjectKey,
    /// `None`: the listing does not say.
    pub size_bytes: Option<u64>,
    /// Other replicas whose listings show the same content.
    pub same_at: Vec<ReplicaName>,
}

/// Which page of a scan they are.
#[derive(Debug, Clone, Copy)]
pub struct ScanPage<'a> {
    pub scan: ScanId,
    pub part: i32,
    /// Where the page before has left the part.
    pub from: Option<&'a str>,
    /// All up to and with this key; `None`: it stays there.
    pub reached: Option<&'a str>,
    /// Nothing comes behind it.
    pub done: bool,
}

/// What became of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageResult {
    /// What the part has come to with it.
    Registered(ScanCounts),
    /// The part is elsewhere by now: somebody else is at it. Nothing was written.
    Elsewhere,
}

impl Database {
    /// The scan with these arguments that has begun and not ended.
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

    /// Begins a scan with these parts, held for so long; `None`: another process has begun the same. What is known of
    /// earlier ones that have ended is forgotten.
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

    /// Says that this process is at it, and will be for so long. Whether it may be: nobody else is.
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

    /// This process is not at it any more, so that the next need not wait.
    pub async fn release_scan(&self, scan: ScanId, holder: ScanHolder) -> Result<(), DatabaseError> {
        const NAME: &str = "walk::release_scan";
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {NAME}\nUPDATE {schema}.scans SET held_until = NULL WHERE id = $1 AND held_by = $2"
        ));
        with_timeout(NAME, sqlx::query(sql).bind(scan.0).bind(holder.0).execute(&self.pool)).await?;
        Ok(())
    }

    /// Forgets how far it came; what it has registered stays.
    pub async fn forget_scan(&self, scan: ScanId) -> Result<(), DatabaseError> {
        const NAME: &str = "walk::forget_scan";
        let sql = trusted_sql(format!("-- {NAME}\nDELETE FROM {}.scans WHERE id = $1", self.schema.quoted()));
        with_timeout(NAME, sqlx::query(sql).bind(scan.0).execute(&self.pool)).await?;
        Ok(())
    }

    /// Ends it, if all its parts are done: with this, all that it has registered is on the disk.
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

    /// Registers what is missing and moves the part on, both or neither. What is registered already stays as it is.
    ///
    /// A crash of PostgreSQL may take back the last pages, and with them how far the part was: unless copies are adopted, of which
    /// readers of the log have heard.
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

    /// `$1` scan, `$2` part, `$3` where it was, `$4` where it is with this, `$5` whether it is done, `$6` keys listed, `$7`
    /// unusable ones, `$8` one of these; `$9` to `$14` as `register_listed` takes them.
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
    // Cannot fail: they are texts and a boolean.
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
