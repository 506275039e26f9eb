//! Estimates what a new replica will cost.

use std::time::Duration;

use copyhold_core::domain::{EventKind, ReplicaName, Rule};

use super::{RULES_COLUMNS, bind_rules, first_that_fits};
use crate::{
    connections::pools::STATEMENT_TIMEOUT,
    error::{DatabaseError, within},
    handle::Database,
    sql::trusted_sql,
};

const NAME: &str = "rules::expected_copies";
const PACE: &str = "rules::copy_rate";
/// Of a table with more rows than this, about so many are read.
const SAMPLED_ABOVE: u64 = 100_000;
/// Of the latest events.
const EVENTS_AT_MOST: i64 = 100_000;

/// In how many requests objects are sent.
#[derive(Debug, Clone, Copy)]
pub struct PartSizes {
    /// Up to this size in one request.
    pub whole_up_to: u64,
    /// Larger objects in parts of this size, or of a larger one where there would be too many.
    pub part_bytes: u64,
    pub max_parts: u32,
}

impl PartSizes {
    /// The number of parts of an object whose size is in this column; NULL if it goes in one request, or the size is
    /// unknown.
    pub(super) fn parts(&self, column: &str) -> String {
        let Self { whole_up_to, part_bytes, max_parts } = self;
        format!(
            "CASE WHEN {column} > {whole_up_to}
                  THEN ceil({column} / greatest({part_bytes}::numeric, ceil({column} / {max_parts}::numeric)))::bigint END"
        )
    }
}

/// The copies that would be made at one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedCopies {
    pub objects: u64,
    /// As far as sizes are known.
    pub bytes: u64,
    pub of_unknown_size: u64,
    /// Objects that no rule fits, and that are therefore not wanted there.
    pub undecided: u64,
    /// Requests at the source.
    pub gets: u64,
    /// Requests at the replica: one for an object sent whole; otherwise one per part, one to start and one to complete
    /// the upload.
    pub puts: u64,
    /// They were counted; else they were estimated from a sample.
    pub exact: bool,
}

/// How fast copies were made in the busiest minute of the last hour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CopyRate {
    pub copies_per_second: f64,
    pub bytes_per_second: f64,
}

impl CopyRate {
    /// How long these copies would take.
    #[must_use]
    pub fn takes(self, expected: &ExpectedCopies) -> Option<Duration> {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let (objects, bytes) = (expected.objects as f64, expected.bytes as f64);
        let by_bytes = if bytes > 0.0 { bytes / self.bytes_per_second } else { 0.0 };
        Duration::try_from_secs_f64(by_bytes.max(objects / self.copies_per_second)).ok()
    }
}

impl Database {
    /// Estimates the copies that these rules want at replicas that were just added, or are about to be.
    pub async fn expected_copies(
        &self,
        rules: &[Rule],
        newcomers: &[ReplicaName],
        sizes: &PartSizes,
    ) -> Result<Vec<ExpectedCopies>, DatabaseError> {
        let about = self.estimate_objects().await?;
        let exact = about <= SAMPLED_ABOVE;
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let percent = if exact { 100.0 } else { 100.0 * SAMPLED_ABOVE as f64 / about as f64 };
        // A replica that no rule names is wanted by every object that no rule fits: `rules_state.newcomers`.
        let named = newcomers.iter().map(|r| rules.iter().any(|rule| rule.replicas.contains(r))).collect::<Vec<_>>();
        // Whole pages of the table: its rows lie there in the order of arrival.
        let sql = format!(
            "-- {NAME}
WITH {RULES_COLUMNS},
sampled AS (
    SELECT o.size_bytes AS size, {wanted} AS wanted
      FROM {schema}.object_copies o TABLESAMPLE SYSTEM ($6::double precision)
),
requests AS (
    SELECT s.size, s.wanted, {parts} AS parts FROM sampled s
),
found AS (
    SELECT n.place, count(*) FILTER (WHERE v.wanted) AS objects, sum(q.size) FILTER (WHERE v.wanted) AS bytes,
           count(*) FILTER (WHERE v.wanted AND q.size IS NULL) AS unknown, count(*) FILTER (WHERE v.wanted IS NULL) AS undecided,
           sum(coalesce(q.parts, 1)) FILTER (WHERE v.wanted) AS gets,
           sum(coalesce(q.parts + 2, 1)) FILTER (WHERE v.wanted) AS puts
      FROM unnest($7::text[], $8::bool[]) WITH ORDINALITY AS n(name, named, place)
      CROSS JOIN requests q
      CROSS JOIN LATERAL (SELECT CASE WHEN q.wanted IS NOT NULL THEN n.name = ANY (q.wanted)
                                      WHEN n.named THEN NULL ELSE true END AS wanted) AS v
     GROUP BY n.place
)
SELECT coalesce(f.objects, 0) * 100 / $6, coalesce(f.bytes, 0)::double precision * 100 / $6, coalesce(f.unknown, 0) * 100 / $6,
       coalesce(f.undecided, 0) * 100 / $6, coalesce(f.gets, 0)::double precision * 100 / $6,
       coalesce(f.puts, 0)::double precision * 100 / $6
  FROM generate_series(1, cardinality($7::text[])) AS g(place) LEFT JOIN found f USING (place)
 ORDER BY g.place",
            schema = self.schema.quoted(),
            wanted = first_that_fits("said", "o.object_key", "o.size_bytes"),
            parts = sizes.parts("s.size")
        );
        let query = bind_rules(sqlx::query_as(trusted_sql(sql)), rules)
            .bind(percent)
            .bind(newcomers.iter().map(ToString::to_string).collect::<Vec<_>>())
            .bind(named);
        let rows: Vec<(f64, f64, f64, f64, f64, f64)> =
            within(STATEMENT_TIMEOUT, NAME, query.fetch_all(&self.pool)).await?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "figures of an estimate")]
        let expected =
            |(objects, bytes, unknown, undecided, gets, puts): (f64, f64, f64, f64, f64, f64)| ExpectedCopies {
                objects: objects.round() as u64,
                bytes: bytes.round() as u64,
                of_unknown_size: unknown.round() as u64,
                undecided: undecided.round() as u64,
                gets: gets.round() as u64,
                puts: puts.round() as u64,
                exact,
            };
        Ok(rows.into_iter().map(expected).collect())
    }

    /// The rate at which copies were made lately, from the log; `None`: none was made in the last hour, or the log
    /// lacks such events.
    pub async fn copy_rate(&self) -> Result<Option<CopyRate>, DatabaseError> {
        let schema = self.schema.quoted();
        let kind = EventKind::ObjectCopied;
        let sql = format!(
            "-- {PACE}
WITH copied AS (
    SELECT l.date_created, jsonb_array_length(l.event_data -> 'replicas') AS copies,
           coalesce((l.event_data ->> 'size_bytes')::bigint, 0) AS bytes
      FROM {schema}.log l
     WHERE l.id > (SELECT max(id) FROM {schema}.log) - {EVENTS_AT_MOST}
       AND l.date_created > statement_timestamp() - interval '1 hour' AND l.event_data ->> 'kind' = '{kind}'
),
minutes AS (
    SELECT sum(copies) AS copies, sum(copies * bytes) AS bytes FROM copied GROUP BY date_trunc('minute', date_created)
)
SELECT max(copies)::double precision / 60, max(bytes)::double precision / 60 FROM minutes"
        );
        let query = sqlx::query_as(trusted_sql(sql));
        let (copies, bytes): (Option<f64>, Option<f64>) =
            within(STATEMENT_TIMEOUT, PACE, query.fetch_one(&self.pool)).await?;
        let pace = copies.zip(bytes).filter(|(copies, _)| *copies > 0.0);
        Ok(pace.map(|(copies_per_second, bytes_per_second)| CopyRate { copies_per_second, bytes_per_second }))
    }
}
