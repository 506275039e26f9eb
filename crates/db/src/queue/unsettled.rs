//! The table `unsettled`: writes that were sent and whose end was not seen.
//!
//! A store may carry such a write out later, over what was recorded meanwhile. Until it is settled, each recorded copy
//! under it is read again, and no entry is deleted before that.

use std::{collections::BTreeMap, time::Duration};

use copyhold_core::domain::{Content, ContentHash, MetadataHash, ObjectKey, ReplicaName, SchemaName};
use sqlx::{Postgres, SqlStr, postgres::PgArguments, query::QueryAs};

use super::{Queue, QueueError, answer::key_of, built, error::limited, micros, sql::names_of};

const TAKE: &str = "queue::take_unsettled";
const NOTE: &str = "queue::note_unsettled";
const SETTLE: &str = "queue::settle";
/// Entries that one statement judges at most.
const JUDGED: i64 = 256;

/// The first look comes so soon: most late writes arrive within seconds. Each further look comes three times as late,
/// and the last one, which is the guarantee, when the entry is settled.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// A scan writes a page of a listing no later than this after it was listed, or adopts nothing of it: so an entry is kept
/// for so much longer that nothing is adopted that was listed before the late write. µs.
pub(super) const LISTED_WITHIN: i64 = 60_000_000;
/// µs between two looks at least.
const NEXT_LOOK: i64 = 5_000_000;

type Bound<'q, O> = QueryAs<'q, Postgres, O, PgArguments>;

/// A write that was sent to a replica and whose end was not seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsettledWrite {
    pub key: ObjectKey,
    pub replica: ReplicaName,
    /// What it carried.
    pub content: Content,
    pub metadata: Option<MetadataHash>,
    /// After this time the store carries it out no more.
    pub settle: Duration,
}

/// A recorded copy that is to be read, because a write under it is not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unverified {
    pub replica: ReplicaName,
    /// µs since the epoch at which the last such write was noted: a later one is another entry.
    pub noted_at: i64,
    /// What such a write carried; `None`: unknown.
    pub sent: Option<Content>,
    /// The hash of its metadata; `None`: unknown.
    pub sent_metadata: Option<MetadataHash>,
    /// Nothing can arrive any more: what this reading shows is final.
    pub settled: bool,
}

/// What a look at the entries that are due has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TakenUnsettled {
    /// Copies to read, by object.
    pub to_read: BTreeMap<ObjectKey, Vec<Unverified>>,
    /// There may be more that is due now.
    pub more: bool,
}

/// What may still arrive at a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsettledAt {
    /// Copies under which a write was noted.
    pub copies: i64,
    /// PostgreSQL has crashed lately, and claims may be lost: there may be writes that nobody knows of.
    pub after_crash: bool,
    /// How long until nothing can arrive any more, if all can be read then.
    pub settled_in: Duration,
}

impl UnsettledAt {
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.copies == 0 && !self.after_crash
    }
}

/// The part of a statement that writes entries. `entries`: a query with the rows
/// `(object_key, replica, size_bytes, content_hash, metadata_hash, verify_in, settle)`, the last two in µs from now.
///
/// What is noted twice of one copy with different contents is of unknown content from then on.
pub(super) fn insert(schema: &str, entries: &str) -> String {
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

/// A query for the time until which claims of a PostgreSQL that has crashed may still have holders that nobody knows of:
/// what is recorded before it is not settled. While no daemon has noted the crash yet, that is a whole settling time from now.
pub(super) fn until(schema: &str) -> String {
    format!(
        "SELECT coalesce((SELECT c.unsettled_until FROM {schema}.claims_intact c),
                     {schema}.now_utc_micro_seconds() + {}) AS until",
        longest_settle(schema)
    )
}

/// µs after which nothing that any daemon has sent arrives any more, by the longest of their lease times.
///
/// Not less than the completion of an upload may take.
fn longest_settle(schema: &str) -> String {
    format!("greatest(600000000, (SELECT max(2 * d.lease_timeout_us) FROM {schema}.daemons d))")
}

/// µs from the note of a write to the first look.
pub(super) fn bucket_contents() -> i64 {
    micros(FIRST_LOOK)
}

/// `$1` keys, `$2` replicas, `$3` sizes, `$4` hashes, `$5` hashes of the metadata, `$6` µs to settle: one entry each.
fn note(schema: &SchemaName) -> SqlStr {
    let schema = schema.quoted();
    let entries = format!(
        "SELECT k, r, s, h, m, {}, t
      FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) AS n(k, r, s, h, m, t)",
        bucket_contents()
    );
    built(format!("-- {NOTE}\n{}", insert(&schema, &entries)))
}

/// `$1` copies to read at most, `$2` µs until one that is read now is taken again, `$3` the replicas that this daemon
/// may read.
///
/// Drops what is settled and needs no reading: the object is gone, it has the content that was sent, or no copy of it is
/// recorded there and nobody is making one. Of a leased row without a hash nothing is known yet: its holder may be about
/// to record what the late write has hit. What comes after this statement's snapshot comes after the late write.
/// All others are due again later, before anything is read: a reader that dies loses nothing.
pub(super) fn take(schema: &SchemaName, replicas: &[ReplicaName]) -> SqlStr {
    let schema = schema.quoted();
    let now = format!("{schema}.now_utc_micro_seconds()");
    let recorded = names_of(replicas, |r| format!("o.{} IS NOT NULL", r.column()));
    built(format!(
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
pub(super) fn bind_writes<'q, O>(
    query: Bound<'q, O>,
    writes: impl Iterator<Item = &'q UnsettledWrite> + Clone,
) -> Bound<'q, O> {
    query
        .bind(writes.clone().map(|w| w.key.as_str()).collect::<Vec<_>>())
        .bind(writes.clone().map(|w| w.replica.as_str()).collect::<Vec<_>>())
        .bind(writes.clone().map(|w| w.content.size_bytes.cast_signed()).collect::<Vec<_>>())
        .bind(writes.clone().map(|w| w.content.hash.to_bigint()).collect::<Vec<_>>())
        .bind(writes.clone().map(|w| w.metadata.map(MetadataHash::to_bigint)).collect::<Vec<_>>())
        .bind(writes.map(|w| micros(w.settle)).collect::<Vec<_>>())
}

impl Queue {
    /// Notes writes whose end was not seen. Guarded by no lease: such a write is a fact whoever holds the row.
    pub async fn note_unsettled(&self, writes: &[UnsettledWrite]) -> Result<(), QueueError> {
        let query = bind_writes(sqlx::query_as::<_, (i32,)>(note(&self.schema)), writes.iter());
        limited(NOTE, query.fetch_all(&self.pool)).await?;
        Ok(())
    }

    /// Up to `limit` recorded copies at these replicas that are to be read. Whatever becomes of the reader, they are
    /// taken again, those that are settled after `again`, until [`Queue::settle`] says that the last reading was right.
    pub async fn take_unsettled(
        &self,
        readable: &[ReplicaName],
        limit: usize,
        again: Duration,
    ) -> Result<TakenUnsettled, QueueError> {
        type Row =
            (Option<String>, Option<String>, Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<bool>, bool);
        let query = sqlx::query_as(self.statements.take_unsettled.clone())
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(micros(again))
            .bind(readable.iter().map(ReplicaName::as_str).collect::<Vec<_>>());
        let rows: Vec<Row> = limited(TAKE, query.fetch_all(&self.pool)).await?;
        let mut taken = TakenUnsettled::default();
        for (key, replica, size, hash, metadata, noted_at, settled, more) in rows {
            taken.more |= more;
            let (Some(key), Some(name), Some(noted_at)) = (key, replica, noted_at) else { continue };
            let replica = ReplicaName::new(&name)
                .map_err(|e| QueueError::Inconsistent { statement: TAKE, what: format!("replica \"{name}\": {e}") })?;
            let sent = size
                .zip(hash)
                .map(|(size, hash)| Content { size_bytes: size.unsigned_abs(), hash: ContentHash::from_bigint(hash) });
            let sent_metadata = metadata.map(MetadataHash::from_bigint);
            let copy = Unverified { replica, noted_at, sent, sent_metadata, settled: settled == Some(true) };
            taken.to_read.entry(key_of(TAKE, key)?).or_default().push(copy);
        }
        Ok(taken)
    }

    /// Forgets entries of an object whose last reading was right. An entry that was noted anew meanwhile stays.
    pub async fn settle(&self, key: &ObjectKey, read: &[&Unverified]) -> Result<(), QueueError> {
        let sql = built(format!(
            "-- {SETTLE}
DELETE FROM {}.unsettled u USING unnest($2::text[], $3::bigint[]) AS s(replica, noted_at)
 WHERE u.object_key = $1 AND u.replica = s.replica AND u.noted_at = s.noted_at",
            self.schema.quoted()
        ));
        let query = sqlx::query(sql)
            .bind(key.as_str())
            .bind(read.iter().map(|one| one.replica.as_str()).collect::<Vec<_>>())
            .bind(read.iter().map(|one| one.noted_at).collect::<Vec<_>>());
        limited(SETTLE, query.execute(&self.pool)).await?;
        Ok(())
    }

    /// Notes that PostgreSQL has crashed since any daemon has looked last, and claims may be lost with it. `true`: it had.
    pub async fn note_crash(&self) -> Result<bool, QueueError> {
        let schema = self.schema.quoted();
        let sql = built(format!(
            "-- queue::note_crash
INSERT INTO {schema}.claims_intact (unsettled_until)
SELECT {schema}.now_utc_micro_seconds() + {}
 WHERE NOT EXISTS (SELECT FROM {schema}.claims_intact)
ON CONFLICT DO NOTHING",
            longest_settle(&schema)
        ));
        let done = limited("queue::note_crash", sqlx::query(sql).execute(&self.pool)).await?;
        Ok(done.rows_affected() > 0)
    }

    /// What may still arrive at a replica.
    pub async fn unsettled_at(&self, replica: &ReplicaName) -> Result<UnsettledAt, QueueError> {
        let schema = self.schema.quoted();
        let sql = built(format!(
            "-- queue::unsettled_at
SELECT u.copies, lost.until > {schema}.now_utc_micro_seconds(),
       greatest(u.settled_at + {LISTED_WITHIN}, CASE WHEN lost.until > {schema}.now_utc_micro_seconds() THEN lost.until END,
                {schema}.now_utc_micro_seconds()) - {schema}.now_utc_micro_seconds()
  FROM (SELECT count(*) AS copies, max(settled_at) AS settled_at FROM {schema}.unsettled WHERE replica = $1) AS u
 CROSS JOIN ({}) AS lost",
            until(&schema)
        ));
        let query = sqlx::query_as(sql).bind(replica.as_str());
        let (copies, after_crash, wait): (i64, bool, i64) =
            limited("queue::unsettled_at", query.fetch_one(&self.pool)).await?;
        Ok(UnsettledAt { copies, after_crash, settled_in: Duration::from_micros(wait.unsigned_abs()) })
    }
}
