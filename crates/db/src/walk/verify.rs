//! Reads the recorded copies in the order of keys, for an audit that compares them with the stores. Also stores the
//! hash of the metadata that an audit has read.

use copyhold_core::domain::{Content, ContentHash, Generation, MetadataHash, ObjectKey, ReplicaName, SourceReading};
use sqlx::{Row as _, postgres::PgRow};

use crate::{
    error::{DatabaseError, with_timeout},
    handle::{Database, HotStatement},
    sql::trusted_sql,
};

const PAGE: &str = "walk::recorded_page";
const KEYS: &str = "walk::recorded_of";
const NOTE: &str = "walk::note_metadata";
const COUNT: &str = "walk::count_range";

/// Objects of one answer, about.
const OBJECTS: u32 = 256;
/// Keys that one statement reads to find those of a sample: 2 ms by the key's index. The limit bounds the time where
/// each of them must be looked up in a table on a slow disk.
const LOOK_AT_MOST: u32 = 2_500;
/// Up to so many keys of a range are counted.
const COUNT_AT_MOST: i64 = 100_000;

/// Which objects are read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ObjectRange {
    /// Byte for byte: nothing in it is a pattern.
    pub prefix: Option<String>,
    /// `None`: all of them.
    pub sample: Option<KeySample>,
}

/// Chooses objects by a hash of their keys.
///
/// The same seed chooses the same objects, whatever happens to the table meanwhile, and chooses each of them
/// independently. TABLESAMPLE SYSTEM would read less: whole pages of the table, whose objects arrived together and are
/// damaged together, and with the same seed other objects as soon as rows have moved. This costs reading every key of
/// the index, 1 µs each (two million keys in 1.9 s), which is little beside reading one object in a thousand from every
/// store.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KeySample {
    /// The share of all objects: more than 0, at most 1.
    pub share: f64,
    pub seed: u32,
}

impl ObjectRange {
    /// How many keys to read for one answer.
    fn look(&self) -> u32 {
        self.sample.map_or(OBJECTS, |sample| sample.look())
    }
}

impl KeySample {
    /// Hashes below it are chosen, of all 64-bit numbers; `None`: every one.
    fn threshold(&self) -> Option<i64> {
        // 53 bits are precise enough for a share; more would not fit.
        #[expect(clippy::cast_possible_truncation, reason = "a share of 1 is none, and less than that fits")]
        let below = (self.share * 2f64.powi(64)) as i128;
        i64::try_from(i128::from(i64::MIN) + below).ok()
    }

    /// How many keys to read for one answer.
    fn look(&self) -> u32 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number, cut below")]
        let look = (f64::from(OBJECTS) / self.share) as u32;
        look.clamp(OBJECTS, LOOK_AT_MOST)
    }
}

/// The row of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedObject {
    pub key: ObjectKey,
    pub generation: Generation,
    /// The content that the first complete read of this generation found; `None`: it was not read yet.
    pub content: Option<Content>,
    /// The replicas of the configuration with a recorded copy, with its time in µs.
    pub recorded: Vec<(ReplicaName, i64)>,
    /// How the source described the object in that read; `None`: unknown.
    pub source: Option<SourceReading>,
    /// The metadata of that read; `None`: it was not compared.
    pub metadata: Option<MetadataHash>,
}

/// One page of recorded objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedPage {
    /// In the order of keys.
    pub objects: Vec<RecordedObject>,
    /// All keys up to and including this one are read; `None`: all of them.
    pub last: Option<ObjectKey>,
}

impl Database {
    /// Returns the next objects of the range after this key; `None`: from its beginning.
    /// Costs the same at every position, and whatever PostgreSQL estimates of the table: where it estimates a small
    /// range, it would read and sort all of it for each page. Its transaction ends before a store is read.
    pub async fn recorded_page(
        &self,
        range: &ObjectRange,
        after: Option<&ObjectKey>,
    ) -> Result<RecordedPage, DatabaseError> {
        let bounds = Bounds::of(range, after);
        let (look, sql) = (range.look(), trusted_sql(self.page_statement(range, &bounds)));
        let query = sqlx::query(sql)
            .bind(bounds.from)
            .bind(bounds.before)
            .bind(range.sample.and_then(|s| s.threshold()))
            .bind(range.sample.map_or(0, |s| i64::from(s.seed)));
        let read = async {
            let mut transaction = self.begin_planned(&[]).await?;
            let rows = query.fetch_all(&mut *transaction).await?;
            transaction.rollback().await?;
            Ok(rows)
        };
        let rows = with_timeout(PAGE, Box::pin(read)).await?;
        let parse = || {
            let mut page = RecordedPage { objects: Vec::new(), last: None };
            for row in &rows {
                if row.try_get::<i64, _>("looked")? == i64::from(look) {
                    page.last = Some(key(row.try_get("last")?)?);
                }
                if row.try_get::<Option<&str>, _>("object_key")?.is_some() {
                    page.objects.push(self.recorded_object(row)?);
                }
            }
            page.objects.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(page)
        };
        parse().map_err(DatabaseError::database(PAGE))
    }

    /// `$1` and `$2` the bounds, `$3` the hash below which a key is chosen, `$4` the hash's seed.
    /// The limit is a literal: with a bound limit PostgreSQL may plan to read the whole table.
    fn page_statement(&self, range: &ObjectRange, bounds: &Bounds) -> String {
        let schema = self.schema.quoted();
        format!(
            "-- {PAGE}
WITH looked AS MATERIALIZED (
    SELECT object_key FROM {schema}.object_copies WHERE {within} ORDER BY object_key LIMIT {look}
),
place AS (SELECT max(object_key) AS last, count(*) AS looked FROM looked)
SELECT place.last, place.looked, o.*
FROM place LEFT JOIN (
    SELECT {columns} FROM {schema}.object_copies o
     WHERE o.object_key = ANY (ARRAY(
         SELECT object_key FROM looked WHERE $3::bigint IS NULL OR hashtextextended(object_key, $4) < $3))
) o ON true",
            within = bounds.condition(),
            look = range.look(),
            columns = self.recorded_columns(),
        )
    }

    /// The statements that walk through the table, for a check of their plans.
    pub(crate) fn page_statements(&self) -> [HotStatement; 2] {
        let sample = Some(KeySample { share: 0.001, seed: 0 });
        let prefix = Some("k".to_owned());
        let hot = |name: &str, range: &ObjectRange| HotStatement {
            name: name.into(),
            sql: self.page_statement(range, &Bounds::of(range, None)),
            by_function: true,
        };
        [
            hot("recorded_page", &ObjectRange { prefix: prefix.clone(), sample: None }),
            hot("recorded_sample", &ObjectRange { prefix, sample }),
        ]
    }

    /// Returns those of `keys` that are registered, in the order of keys.
    pub async fn recorded_of(&self, keys: &[ObjectKey]) -> Result<Vec<RecordedObject>, DatabaseError> {
        let sql = trusted_sql(format!(
            "-- {KEYS}
SELECT {columns} FROM {schema}.object_copies o WHERE o.object_key = ANY ($1::text[]) ORDER BY o.object_key",
            schema = self.schema.quoted(),
            columns = self.recorded_columns(),
        ));
        let query = sqlx::query(sql).bind(keys.iter().map(ObjectKey::as_str).collect::<Vec<_>>());
        let rows = with_timeout(KEYS, query.fetch_all(&self.pool)).await?;
        rows.iter()
            .map(|row| self.recorded_object(row))
            .collect::<Result<_, _>>()
            .map_err(DatabaseError::database(KEYS))
    }

    /// Stores the metadata of an object that has none recorded, unless the generation has changed or the row is leased
    /// or locked.
    pub async fn note_metadata(
        &self,
        key: &ObjectKey,
        generation: Generation,
        metadata: MetadataHash,
    ) -> Result<(), DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- {NOTE}
WITH held AS MATERIALIZED (
    SELECT o.object_key FROM {schema}.object_copies o
     WHERE o.object_key = $1 AND o.generation = $2 AND o.metadata_hash IS NULL AND o.lock IS NULL
       FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {schema}.object_copies o SET metadata_hash = $3 FROM held WHERE o.object_key = held.object_key"
        ));
        let query = sqlx::query(sql).bind(key.as_str()).bind(generation.0).bind(metadata.to_bigint());
        with_timeout(NOTE, query.execute(&self.pool)).await?;
        Ok(())
    }

    /// Estimates how many objects the range has from there on, for a display of progress; `None`: too many to be
    /// counted.
    pub async fn count_range(
        &self,
        range: &ObjectRange,
        after: Option<&ObjectKey>,
    ) -> Result<Option<u64>, DatabaseError> {
        let schema = self.schema.quoted();
        let bounds = Bounds::of(range, after);
        // For a large table as a whole PostgreSQL has an estimate.
        let estimate = if range.prefix.is_none() && after.is_none() {
            format!(
                "(SELECT nullif(reltuples, -1)::bigint FROM pg_class WHERE oid = '{schema}.object_copies'::regclass)"
            )
        } else {
            "NULL".to_owned()
        };
        let sql = trusted_sql(format!(
            "-- {COUNT}
SELECT CASE WHEN n < {COUNT_AT_MOST} THEN n ELSE {estimate} END
FROM (SELECT count(*) AS n FROM (
    SELECT FROM {schema}.object_copies WHERE {within} ORDER BY object_key LIMIT {COUNT_AT_MOST}) AS k) AS counted",
            within = bounds.condition(),
        ));
        let query = sqlx::query_scalar(sql).bind(bounds.from).bind(bounds.before);
        let count: Option<i64> = with_timeout(COUNT, query.fetch_one(&self.pool)).await?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "about how many, none of them negative"
        )]
        let sampled = |count: i64| (count as f64 * range.sample.map_or(1.0, |s| s.share)).round() as u64;
        Ok(count.map(sampled))
    }

    /// The columns of [`RecordedObject`]: the times in the order of our replicas.
    fn recorded_columns(&self) -> String {
        let times: Vec<_> = self.replicas.iter().map(|r| format!("o.{}", r.column())).collect();
        format!(
            "o.object_key, o.generation, o.size_bytes, o.content_hash, o.metadata_hash, o.source_replica, o.source_modified, o.source_tag,
       ARRAY[{}]::bigint[] AS recorded",
            times.join(", ")
        )
    }

    fn recorded_object(&self, row: &PgRow) -> Result<RecordedObject, sqlx::Error> {
        let size_bytes = row.try_get::<Option<i64>, _>("size_bytes")?.map(i64::cast_unsigned);
        let hash = row.try_get::<Option<i64>, _>("content_hash")?.map(ContentHash::from_bigint);
        let source = row.try_get::<Option<String>, _>("source_replica")?.map(|name| {
            Ok::<_, sqlx::Error>(SourceReading {
                replica: ReplicaName::new(name).map_err(|e| sqlx::Error::Decode(e.into()))?,
                modified_us: row.try_get("source_modified")?,
                tag: row.try_get("source_tag")?,
            })
        });
        let times: Vec<Option<i64>> = row.try_get("recorded")?;
        let recorded = self.replicas.iter().zip(times).filter_map(|(replica, at)| Some((replica.clone(), at?)));
        Ok(RecordedObject {
            key: key(row.try_get("object_key")?)?,
            generation: Generation(row.try_get("generation")?),
            content: size_bytes.zip(hash).map(|(size_bytes, hash)| Content { size_bytes, hash }),
            recorded: recorded.collect(),
            source: source.transpose()?,
            metadata: row.try_get::<Option<i64>, _>("metadata_hash")?.map(MetadataHash::from_bigint),
        })
    }
}

fn key(text: String) -> Result<ObjectKey, sqlx::Error> {
    ObjectKey::new(text).map_err(|e| sqlx::Error::Decode(e.into()))
}

/// A range of keys: `$1` and `$2`.
struct Bounds {
    from: Option<String>,
    /// Whether the key `from` itself is excluded.
    beyond: bool,
    before: Option<String>,
}

impl Bounds {
    fn of(range: &ObjectRange, after: Option<&ObjectKey>) -> Self {
        let prefix = range.prefix.as_deref().unwrap_or_default();
        let before = behind_all_with(prefix);
        match after {
            // A key before the range is not a position in it.
            Some(after) if after.as_str() >= prefix => {
                Self { from: Some(after.as_str().to_owned()), beyond: true, before }
            }
            _ => Self { from: (!prefix.is_empty()).then(|| prefix.to_owned()), beyond: false, before },
        }
    }

    /// Both parameters are always bound, so both are always named.
    fn condition(&self) -> String {
        let from = match (&self.from, self.beyond) {
            (None, _) => "$1::text IS NULL",
            (Some(_), true) => "object_key > $1::text",
            (Some(_), false) => "object_key >= $1::text",
        };
        let before = if self.before.is_some() { "object_key < $2::text" } else { "$2::text IS NULL" };
        format!("{from} AND {before}")
    }
}

/// The first string in the order of bytes after all that begin with `prefix`; `None`: there is none. In UTF-8 the order
/// of bytes is that of characters.
fn behind_all_with(prefix: &str) -> Option<String> {
    let mut rest = prefix.to_owned();
    while let Some(last) = rest.pop() {
        let next = match last {
            // Between them are surrogates, which are no characters.
            '\u{d7ff}' => Some('\u{e000}'),
            last => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            rest.push(next);
            return Some(rest);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_of_the_last_characters_of_all_has_an_end_all_the_same() {
        assert_eq!(behind_all_with("photos/").as_deref(), Some("photos0"));
        assert_eq!(behind_all_with("a\u{d7ff}").as_deref(), Some("a\u{e000}"));
        assert_eq!(behind_all_with("a\u{10ffff}\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(behind_all_with("\u{10ffff}"), None);
        assert_eq!(behind_all_with(""), None);
    }

    proptest::proptest! {
        #[test]
        fn a_range_has_what_begins_with_its_prefix_and_nothing_else(prefix: String, text: String, more: String) {
            let within = |text: &str| text >= prefix.as_str() && behind_all_with(&prefix).is_none_or(|end| text < end.as_str());
            proptest::prop_assert_eq!(within(&text), text.starts_with(&prefix));
            let with_it = prefix.clone() + &more;
            proptest::prop_assert!(within(&with_it));
        }
    }

    #[test]
    fn a_share_is_a_threshold_of_all_hashes() {
        let threshold = |share| KeySample { share, seed: 1 }.threshold();
        assert_eq!(threshold(1.0), None);
        assert_eq!(threshold(0.5), Some(0));
        assert_eq!(threshold(f64::MIN_POSITIVE), Some(i64::MIN));
        assert_eq!(KeySample { share: 0.2, seed: 1 }.look(), 1_280);
        assert_eq!(KeySample { share: 1e-9, seed: 1 }.look(), LOOK_AT_MOST);
    }
}
