//! The table `unsettled`: writes that were sent and whose outcome is unknown.
//! A store may carry out such a write later, over what was recorded meanwhile. Until it is settled, each copy recorded
//! under it is read again, and no entry is deleted before that.

use std::{collections::BTreeMap, time::Duration};

use copyhold_core::domain::{Content, ContentHash, MetadataHash, ObjectKey, ReplicaName, SchemaName, micros};
use sqlx::{Postgres, SqlStr, postgres::PgArguments, query::QueryAs};

use crate::{
    error::{DatabaseError, key_of, with_timeout},
    handle::Database,
    sql::{names_of, trusted_sql},
};

const TAKE: &str = "lease::claim_unsettled";
const NOTE: &str = "lease::note_unsettled";
const SETTLE: &str = "lease::settle";
/// Entries that one statement checks at most.
const JUDGED: i64 = 256;

/// The first check comes so soon because most late writes arrive within seconds. Each further check waits three times
/// as long. The last one, which is the guarantee, comes when the entry is settled.
const FIRST_CHECK: Duration = Duration::from_secs(10);
/// A scan records a page at most this long after its listing, or adopts nothing of it. Entries are kept for this much
/// longer, so that nothing is adopted that was listed before the late write. µs.
pub(crate) const LISTED_WITHIN: i64 = 60_000_000;
/// µs between two checks at least.
const NEXT_LOOK: i64 = 5_000_000;

type BoundQuery<'q, O> = QueryAs<'q, Postgres, O, PgArguments>;

/// A write that was sent to a replica and whose outcome is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsettledWrite {
    pub key: ObjectKey,
    pub replica: ReplicaName,
    /// The content that was sent.
    pub content: Content,
    pub metadata: Option<MetadataHash>,
    /// After this time the store no longer carries it out.
    pub settle: Duration,
}

/// A recorded copy that has to be read again, because a write to it is not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsettledCopy {
    pub replica: ReplicaName,
    /// µs since the epoch at which the last such write was noted: a later one makes another entry.
    pub noted_at: i64,
    /// The content that such a write carried; `None`: unknown.
    pub sent: Option<Content>,
    /// The hash of its metadata; `None`: unknown.
    pub sent_metadata: Option<MetadataHash>,
    /// No write can arrive any more: the result of this reading is final.
    pub settled: bool,
}

/// The due entries that a claim has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DueUnsettled {
    /// Copies to read, by object.
    pub to_read: BTreeMap<ObjectKey, Vec<UnsettledCopy>>,
    /// More entries may be due now.
    pub more: bool,
}

/// The writes that may still arrive at a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsettledState {
    /// Copies with an unsettled write.
    pub copies: i64,
    /// PostgreSQL crashed lately, and claims may be lost: there may be writes that no daemon knows of.
    pub after_crash: bool,
    /// How long until no write can arrive any more, if all copies can be read then.
    pub settled_in: Duration,
}

impl UnsettledState {
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.copies == 0 && !self.after_crash
    }
}

/// The part of a statement that writes entries. `entries`: a query with the rows `(object_key, replica, size_bytes,
/// content_hash, metadata_hash, verify_in, settle)`, the last two in µs from now.
/// A copy that is noted twice with different contents has an unknown content from then on.
pub(crate) fn insert(schema: &str, entries: &str) -> String {
    let now = format!("{schema}.now_utc_micro_seconds()");
    format!(
        "INSERT INTO {schema}.unsettled AS u
        (object_key, replica, size_bytes, content_hash, metadata_hash, noted_at, verify_at, settled_at)
    SELECT e.object_key, e.replica,
           CASE WHEN one THEN min(e.size_bytes) END, CASE WHEN one THEN min(e.content_hash) END,
           CASE WHEN one THEN min(e.metadata_hash) END,
           {now}, {now} + min(e.verify_in), {now} + max(e.settle)
      FROM (SELECT e.*, count(*) OVER same = 1
                     OR (min(e.content_hash) OVER same = max(e.content_hash) OVER same
                         AND min(e.size_bytes) OVER same = max(e.size_bytes) OVER same
                         AND min(e.metadata_hash) OVER same IS NOT DISTINCT FROM max(e.metadata_hash) OVER same
                         AND count(e.content_hash) OVER same = count(*) OVER same
                         AND count(e.metadata_hash) OVER same IN (0, count(*) OVER same)) AS one
              FROM ({entries}) AS e(object_key, replica, size_bytes, content_hash, metadata_hash, verify_in, settle)
            WINDOW same AS (PARTITION BY e.object_key, e.replica)) AS e
     GROUP BY e.object_key, e.replica, e.one
     ORDER BY e.object_key, e.replica
    ON CONFLICT (object_key, replica) DO UPDATE
       SET content_hash = CASE WHEN u.content_hash = excluded.content_hash AND u.size_bytes = excluded.size_bytes
                                AND u.metadata_hash IS NOT DISTINCT FROM excluded.metadata_hash
                               THEN u.content_hash END,
           noted_at = excluded.noted_at,
           verify_at = least(u.verify_at, excluded.verify_at),
           settled_at = greatest(u.settled_at, excluded.settled_at)
    RETURNING 1"
    )
}

/// A query for the time until which claims that a crash of PostgreSQL lost may still have holders: what is recorded
/// before it is not settled. While no daemon has noted the crash yet, that is a whole settling time from now.
pub(crate) fn until(schema: &str) -> String {
    format!(
        "SELECT coalesce((SELECT c.unsettled_until FROM {schema}.claims_intact c),
                     {schema}.now_utc_micro_seconds() + {}) AS until",
        longest_settle(schema)
    )
}

/// µs after which no write of any daemon arrives any more, by the longest of their lease times.
/// Not less than the completion of an upload may take.
fn longest_settle(schema: &str) -> String {
    format!("greatest(600000000, (SELECT max(2 * d.lease_timeout_us) FROM {schema}.daemons d))")
}

/// µs from the note of a write to the first check.
pub(crate) fn first_check() -> i64 {
    micros(FIRST_CHECK)
}

/// `$1` keys, `$2` replicas, `$3` sizes, `$4` hashes, `$5` hashes of the metadata, `$6` µs to settle: one entry each.
fn note(schema: &SchemaName) -> SqlStr {
    let schema = schema.quoted();
    let entries = format!(
        "SELECT k, r, s, h, m, {}, t
      FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) AS n(k, r, s, h, m, t)",
        first_check()
    );
    trusted_sql(format!("-- {NOTE}\n{}", insert(&schema, &entries)))
}

/// `$1` copies to read at most, `$2` µs until a copy that is read now is claimed again, `$3` the replicas that this
/// daemon may read.
/// Deletes settled entries that need no reading: the object is gone, it has the content that was sent, or no copy of it
/// is recorded there and no worker is making one. Of a leased row without a hash nothing is known yet: its holder may
/// be about to record what the late write has overwritten. What is recorded after this statement's snapshot is recorded
/// after the late write.
/// All other entries are postponed before anything is read: a reader that dies loses nothing.
pub(crate) fn take(schema: &SchemaName, replicas: &[ReplicaName]) -> SqlStr {
    let schema = schema.quoted();
    let now = format!("{schema}.now_utc_micro_seconds()");
    let recorded = names_of(replicas, |r| format!("o.{} IS NOT NULL", r.column()));
    trusted_sql(format!(
        "-- {TAKE}
WITH due AS MATERIALIZED (
    SELECT u.object_key, u.replica, u.size_bytes, u.content_hash, u.metadata_hash, u.noted_at,
           u.settled_at + {LISTED_WITHIN} AS settled_at
      FROM unnest($3::text[]) AS served(replica)
     CROSS JOIN LATERAL (
         SELECT * FROM {schema}.unsettled u
          WHERE u.replica = served.replica AND u.verify_at <= {now}
          ORDER BY u.verify_at
          LIMIT {JUDGED}) AS u
),
judged AS MATERIALIZED (
    SELECT d.object_key, d.replica, d.size_bytes, d.content_hash, d.metadata_hash, d.noted_at, d.settled_at,
           d.settled_at <= {now} AS settled,
           o.object_key IS NOT NULL AND o.lock IS NULL AS free,
           o.object_key IS NOT NULL AND d.replica = ANY ({recorded}) AS recorded,
           o.object_key IS NULL
             OR (d.content_hash = o.content_hash AND d.size_bytes = o.size_bytes
                 AND d.metadata_hash IS NOT DISTINCT FROM o.metadata_hash) IS TRUE AS harmless
      FROM due d LEFT JOIN {schema}.object_copies o ON o.object_key = d.object_key
),
chosen AS MATERIALIZED (
    SELECT j.*, j.free AND j.recorded AND NOT j.harmless AS is_to_read,
           row_number() OVER (PARTITION BY j.free AND j.recorded AND NOT j.harmless ORDER BY j.settled_at) AS place
      FROM judged j
),
dropped AS (
    DELETE FROM {schema}.unsettled u USING chosen c
     WHERE u.object_key = c.object_key AND u.replica = c.replica AND u.noted_at = c.noted_at
       AND c.settled AND (c.harmless OR (c.free AND NOT c.recorded))
    RETURNING 1
),
moved AS (
    UPDATE {schema}.unsettled u
       SET verify_at = CASE WHEN c.settled AND c.is_to_read THEN {now} + $2
                            ELSE greatest({now} + {NEXT_LOOK},
                                          least(c.settled_at, {now} + 2 * ({now} - c.noted_at))) END
      FROM chosen c
     WHERE u.object_key = c.object_key AND u.replica = c.replica AND u.noted_at = c.noted_at
       AND NOT (c.settled AND (c.harmless OR (c.free AND NOT c.recorded)))
       AND (NOT c.is_to_read OR c.place <= $1)
    RETURNING u.object_key, u.replica, u.size_bytes, u.content_hash, u.metadata_hash, u.noted_at, c.settled, c.is_to_read
)
SELECT object_key, replica, size_bytes, content_hash, metadata_hash, noted_at, settled, (SELECT count(*) FROM chosen) >= {JUDGED}
           OR (SELECT count(*) FROM chosen WHERE is_to_read) > $1 AS more
  FROM moved WHERE is_to_read
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, (SELECT count(*) FROM chosen) >= {JUDGED} AND (SELECT count(*) FROM dropped) > 0"
    ))
}

/// Binds the next six parameters: one entry per write, as in [`note`].
pub(crate) fn bind_writes<'q, O>(
    query: BoundQuery<'q, O>,
    writes: impl Iterator<Item = &'q UnsettledWrite> + Clone,
) -> BoundQuery<'q, O> {
    query
        .bind(writes.clone().map(|w| w.key.as_str()).collect::<Vec<_>>())
        .bind(writes.clone().map(|w| w.replica.as_str()).collect::<Vec<_>>())
        .bind(writes.clone().map(|w| w.content.size_bytes.cast_signed()).collect::<Vec<_>>())
        .bind(writes.clone().map(|w| w.content.hash.to_bigint()).collect::<Vec<_>>())
        .bind(writes.clone().map(|w| w.metadata.map(MetadataHash::to_bigint)).collect::<Vec<_>>())
        .bind(writes.map(|w| micros(w.settle)).collect::<Vec<_>>())
}

impl Database {
    /// Notes writes of unknown outcome. No lease guards this: such a write is a fact, whichever daemon holds the row.
    pub async fn note_unsettled(&self, writes: &[UnsettledWrite]) -> Result<(), DatabaseError> {
        let query = bind_writes(sqlx::query_as::<_, (i32,)>(note(&self.schema)), writes.iter());
        with_timeout(NOTE, query.fetch_all(&self.pool)).await?;
        Ok(())
    }

    /// Claims up to `limit` recorded copies at these replicas that have to be read. They are claimed again, the settled
    /// ones after `again`, until [`Database::settle`] confirms the last reading: a reader that dies loses nothing.
    pub async fn claim_unsettled(
        &self,
        readable: &[ReplicaName],
        limit: usize,
        again: Duration,
    ) -> Result<DueUnsettled, DatabaseError> {
        type Row =
            (Option<String>, Option<String>, Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<bool>, bool);
        let query = sqlx::query_as(self.statements.claim_unsettled.clone())
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(micros(again))
            .bind(readable.iter().map(ReplicaName::as_str).collect::<Vec<_>>());
        let rows: Vec<Row> = with_timeout(TAKE, query.fetch_all(&self.pool)).await?;
        let mut taken = DueUnsettled::default();
        for (key, replica, size, hash, metadata, noted_at, settled, more) in rows {
            taken.more |= more;
            let (Some(key), Some(name), Some(noted_at)) = (key, replica, noted_at) else { continue };
            let replica = ReplicaName::new(&name).map_err(|e| DatabaseError::Inconsistent {
                statement: TAKE,
                what: format!("replica \"{name}\": {e}"),
            })?;
            let sent = size
                .zip(hash)
                .map(|(size, hash)| Content { size_bytes: size.unsigned_abs(), hash: ContentHash::from_bigint(hash) });
            let sent_metadata = metadata.map(MetadataHash::from_bigint);
            let copy = UnsettledCopy { replica, noted_at, sent, sent_metadata, settled: settled == Some(true) };
            taken.to_read.entry(key_of(TAKE, key)?).or_default().push(copy);
        }
        Ok(taken)
    }

    /// Deletes entries of an object whose last reading was right. An entry that was noted again meanwhile stays.
    pub async fn settle(&self, key: &ObjectKey, read: &[&UnsettledCopy]) -> Result<(), DatabaseError> {
        let sql = trusted_sql(format!(
            "-- {SETTLE}
DELETE FROM {}.unsettled u USING unnest($2::text[], $3::bigint[]) AS s(replica, noted_at)
 WHERE u.object_key = $1 AND u.replica = s.replica AND u.noted_at = s.noted_at",
            self.schema.quoted()
        ));
        let query = sqlx::query(sql)
            .bind(key.as_str())
            .bind(read.iter().map(|one| one.replica.as_str()).collect::<Vec<_>>())
            .bind(read.iter().map(|one| one.noted_at).collect::<Vec<_>>());
        with_timeout(SETTLE, query.execute(&self.pool)).await?;
        Ok(())
    }

    /// Notes a crash of PostgreSQL since the last check of any daemon: claims may be lost with it. Returns whether
    /// there was one.
    pub async fn note_crash(&self) -> Result<bool, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- lease::note_crash
INSERT INTO {schema}.claims_intact (unsettled_until)
SELECT {schema}.now_utc_micro_seconds() + {}
 WHERE NOT EXISTS (SELECT FROM {schema}.claims_intact)
ON CONFLICT DO NOTHING",
            longest_settle(&schema)
        ));
        let done = with_timeout("lease::note_crash", sqlx::query(sql).execute(&self.pool)).await?;
        Ok(done.rows_affected() > 0)
    }

    /// Returns which writes may still arrive at a replica.
    pub async fn unsettled_at(&self, replica: &ReplicaName) -> Result<UnsettledState, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- lease::unsettled_at
SELECT u.copies, lost.until > {schema}.now_utc_micro_seconds(),
       greatest(u.settled_at + {LISTED_WITHIN}, CASE WHEN lost.until > {schema}.now_utc_micro_seconds() THEN lost.until END,
                {schema}.now_utc_micro_seconds()) - {schema}.now_utc_micro_seconds()
  FROM (SELECT count(*) AS copies, max(settled_at) AS settled_at FROM {schema}.unsettled WHERE replica = $1) AS u
 CROSS JOIN ({}) AS lost",
            until(&schema)
        ));
        let query = sqlx::query_as(sql).bind(replica.as_str());
        let (copies, after_crash, wait): (i64, bool, i64) =
            with_timeout("lease::unsettled_at", query.fetch_one(&self.pool)).await?;
        Ok(UnsettledState { copies, after_crash, settled_in: Duration::from_micros(wait.unsigned_abs()) })
    }
}
