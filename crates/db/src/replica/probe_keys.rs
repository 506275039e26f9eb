//! Chooses the objects for a probe of a store. It reads few rows, and changes none.

use std::{collections::HashSet, time::Duration};

use copyhold_core::domain::{Generation, ObjectKey, ReplicaName};
use rand::RngExt as _;
use sqlx::Row as _;

use crate::{
    error::{DatabaseError, key_of, with_timeout},
    handle::Database,
    sql::{claimable, trusted_sql},
};

/// Rows that are read at each position. Newest first this takes 0.09 ms, oldest first 19.7 ms behind 10,000 rows that
/// have failed.
const LOOKED_AT: i64 = 64;

/// Which due objects of a lane are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKeyChoice {
    /// Objects without a recorded failure there that were not tried before: one from the lane's newest end, the others
    /// from random positions.
    Untried,
    /// The same first, then those that were tried before, then those whose last failure is the longest ago.
    Any,
    /// The smallest one.
    Smallest,
}

/// A due object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    key: ObjectKey,
    size_bytes: Option<i64>,
    /// µs since the epoch; `None`: it has no failure on record there in this generation.
    failed_at: Option<i64>,
}

/// Where a lane is read.
#[derive(Debug, Clone, Copy)]
enum LaneEnd {
    NewestEnd,
    Behind { due: i64, id: i64 },
}

/// The positions between which a lane's due rows are.
#[derive(Debug, Clone, Copy)]
struct DueRange {
    first_due: i64,
    first_id: i64,
    /// Among the rows that are due at the same time as the first.
    last_id: i64,
    last_due: i64,
}

impl Database {
    /// Up to `most` due objects that `lane` lacks, to be tried there. `held_by`: only objects that are recorded there.
    /// `tried`: objects that were tried before.
    pub async fn probe_keys(
        &self,
        lane: &ReplicaName,
        pick: ProbeKeyChoice,
        most: usize,
        held_by: Option<&ReplicaName>,
        tried: &HashSet<ObjectKey>,
    ) -> Result<Vec<ObjectKey>, DatabaseError> {
        let Some(ends) = self.ends_of(lane).await? else { return Ok(Vec::new()) };
        let newest = self.candidates(lane, LaneEnd::NewestEnd, held_by).await?;
        let mut random = Vec::new();
        for i in 1..most {
            random.push(self.candidates(lane, ends.somewhere(i), held_by).await?);
        }
        Ok(chosen(pick, most, &newest, &random, tried))
    }

    /// Up to four keys that are recorded at the replica, for a simple request to its store.
    pub async fn recorded_keys(&self, replica: &ReplicaName) -> Result<Vec<ObjectKey>, DatabaseError> {
        let (schema, copy) = (self.schema.quoted(), replica.column());
        let end = |order: &str| {
            format!(
                "(SELECT object_key FROM (SELECT object_key, {copy} AS copy FROM {schema}.object_copies
          ORDER BY object_key {order} LIMIT 1000) AS looked_at WHERE copy IS NOT NULL LIMIT 2)"
            )
        };
        let sql = trusted_sql(format!("-- replica::recorded_keys\n{}\nUNION\n{}", end("ASC"), end("DESC")));
        let keys: Vec<String> =
            with_timeout("replica::recorded_keys", sqlx::query_scalar(sql).fetch_all(&self.pool)).await?;
        keys.into_iter().map(|key| key_of("replica::recorded_keys", key)).collect()
    }

    /// How long ago this generation's copy first failed; `None`: no failure is on record.
    pub async fn failing_for(
        &self,
        key: &ObjectKey,
        replica: &ReplicaName,
        generation: Generation,
    ) -> Result<Option<Duration>, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- replica::failing_for
SELECT greatest({schema}.now_utc_micro_seconds() - first_at, 0) FROM {schema}.copy_failures
 WHERE object_key = $1 AND replica = $2 AND generation = $3"
        ));
        let query = sqlx::query_scalar(sql).bind(key.as_str()).bind(replica.as_str()).bind(generation.0);
        let us: Option<i64> = with_timeout("replica::failing_for", query.fetch_optional(&self.pool)).await?;
        Ok(us.map(|us| Duration::from_micros(us.unsigned_abs())))
    }

    /// The positions between which its due rows are; `None`: no row is due.
    async fn ends_of(&self, lane: &ReplicaName) -> Result<Option<DueRange>, DatabaseError> {
        let (schema, due) = (self.schema.quoted(), lane.due_column());
        let claimable = claimable(&self.schema, lane);
        let sql = trusted_sql(format!(
            "-- replica::probe_key_range
SELECT first.due AS first_due, first.id AS first_id, same.id AS last_id, last.due AS last_due
  FROM (SELECT {due} AS due, id FROM {schema}.object_copies WHERE {claimable}
         ORDER BY {due}, id LIMIT 1) AS first,
       LATERAL (SELECT id FROM {schema}.object_copies WHERE {claimable} AND {due} = first.due
                 ORDER BY {due} DESC, id DESC LIMIT 1) AS same,
       (SELECT {due} AS due FROM {schema}.object_copies WHERE {claimable}
         ORDER BY {due} DESC, id DESC LIMIT 1) AS last"
        ));
        let ends: Option<(i64, i64, i64, i64)> =
            with_timeout("replica::probe_key_range", sqlx::query_as(sql).fetch_optional(&self.pool)).await?;
        Ok(ends.map(|(first_due, first_id, last_id, last_due)| DueRange { first_due, first_id, last_id, last_due }))
    }

    async fn candidates(
        &self,
        lane: &ReplicaName,
        place: LaneEnd,
        held_by: Option<&ReplicaName>,
    ) -> Result<Vec<Candidate>, DatabaseError> {
        const NAME: &str = "replica::probe_candidates";
        let (schema, due) = (self.schema.quoted(), lane.due_column());
        let held = held_by.map_or_else(String::new, |replica| format!(" WHERE o.{} IS NOT NULL", replica.column()));
        let claimable = claimable(&self.schema, lane);
        let (place, order, from) = match place {
            // True: both forms take the same parameters.
            LaneEnd::NewestEnd => ("$3::bigint = $4::bigint".to_owned(), "DESC", (0, 0)),
            LaneEnd::Behind { due: after, id } => {
                (format!("({due}, id) >= ($3::bigint, $4::bigint)"), "ASC", (after, id))
            }
        };
        let sql = trusted_sql(format!(
            "-- {NAME}
SELECT o.object_key, o.size_bytes, (
           SELECT f.last_at FROM {schema}.copy_failures f
            WHERE f.object_key = o.object_key AND f.replica = $2 AND f.generation = o.generation) AS failed_at
  FROM (SELECT * FROM {schema}.object_copies
         WHERE {claimable} AND {place}
         ORDER BY {due} {order}, id {order} LIMIT $1) AS o{held}"
        ));
        let query = sqlx::query(sql).bind(LOOKED_AT).bind(lane.as_str()).bind(from.0).bind(from.1);
        let rows = with_timeout(NAME, query.fetch_all(&self.pool)).await?;
        let candidate = |row: &sqlx::postgres::PgRow| {
            Ok(Candidate {
                key: ObjectKey::new(row.try_get::<String, _>("object_key")?)
                    .map_err(|e| sqlx::Error::Decode(e.into()))?,
                size_bytes: row.try_get("size_bytes")?,
                failed_at: row.try_get("failed_at")?,
            })
        };
        rows.iter().map(candidate).collect::<Result<_, sqlx::Error>>().map_err(DatabaseError::database(NAME))
    }
}

impl DueRange {
    /// The `i`th random position.
    /// Objects that were registered together are due at the same time, and are tried in the order of their ids. What
    /// was tried since is due later. How the rest is spread over time is unknown: an hour of work may be followed by
    /// days of retries. So each length of time from the first is as likely as its double.
    fn somewhere(self, i: usize) -> LaneEnd {
        let mut rng = rand::rng();
        if self.last_id > self.first_id && !i.is_multiple_of(3) {
            return LaneEnd::Behind { due: self.first_due, id: rng.random_range(self.first_id..=self.last_id) };
        }
        let span = self.last_due.saturating_sub(self.first_due).max(0) >> rng.random_range(0..32);
        LaneEnd::Behind { due: self.first_due + rng.random_range(0..=span), id: i64::MIN }
    }
}

/// Chooses among the candidates; `random`: one list for each position.
fn chosen(
    pick: ProbeKeyChoice,
    most: usize,
    newest: &[Candidate],
    random: &[Vec<Candidate>],
    tried: &HashSet<ObjectKey>,
) -> Vec<ObjectKey> {
    let mut all: Vec<Candidate> = Vec::new();
    let is_fresh = |candidate: &Candidate| candidate.failed_at.is_none() && !tried.contains(&candidate.key);
    let mut take = |from: &[Candidate], most: usize, of: &dyn Fn(&Candidate) -> bool| {
        let mut taken = 0;
        for candidate in from.iter().filter(|candidate| of(candidate)) {
            if taken < most && !all.iter().any(|known| known.key == candidate.key) {
                all.push(candidate.clone());
                taken += 1;
            }
        }
    };
    // In the order of preference: one of each position, then all others.
    let places = || std::iter::once(newest).chain(random.iter().map(Vec::as_slice));
    places().for_each(|place| take(place, 1, &is_fresh));
    places().for_each(|place| take(place, usize::MAX, &|_| true));
    match pick {
        ProbeKeyChoice::Untried => all.retain(is_fresh),
        // Stable: those without a failure stay in their order.
        ProbeKeyChoice::Any => all.sort_by_key(|candidate| (tried.contains(&candidate.key), candidate.failed_at)),
        ProbeKeyChoice::Smallest => all.sort_by_key(|candidate| candidate.size_bytes.unwrap_or(i64::MAX)),
    }
    all.into_iter().take(most).map(|candidate| candidate.key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(i: i64, failed_at: Option<i64>) -> Candidate {
        Candidate { key: ObjectKey::new(format!("k{i}")).unwrap(), size_bytes: Some(100 - i), failed_at }
    }

    fn keys(of: &[i64]) -> Vec<ObjectKey> {
        of.iter().map(|i| ObjectKey::new(format!("k{i}")).unwrap()).collect()
    }

    #[test]
    fn a_trial_takes_one_of_each_place_that_has_neither_failed_nor_been_tried() {
        let newest = vec![candidate(9, Some(1)), candidate(8, None), candidate(7, None), candidate(6, None)];
        let random =
            vec![vec![candidate(3, Some(2)), candidate(4, None)], vec![candidate(8, None), candidate(5, None)]];
        let none = HashSet::new();
        let fresh = |most, newest: &[Candidate], random: &[Vec<Candidate>], tried: &HashSet<ObjectKey>| {
            chosen(ProbeKeyChoice::Untried, most, newest, random, tried)
        };
        assert_eq!(fresh(4, &newest, &random, &none), keys(&[8, 4, 5, 7]));
        assert_eq!(fresh(4, &newest, &random, &keys(&[8, 4]).into_iter().collect()), keys(&[7, 5, 6]));
        assert_eq!(fresh(4, &newest, &[], &none), keys(&[8, 7, 6]));
        assert!(fresh(4, &newest[..1], &[], &none).is_empty());
    }

    #[test]
    fn a_probe_takes_the_untried_first_and_then_those_that_failed_the_longest_ago() {
        let newest = vec![candidate(9, Some(5)), candidate(8, None), candidate(7, Some(3)), candidate(6, None)];
        let none = HashSet::new();
        assert_eq!(chosen(ProbeKeyChoice::Any, 4, &newest, &[], &none), keys(&[8, 6, 7, 9]));
        let tried = keys(&[8, 7]).into_iter().collect();
        assert_eq!(chosen(ProbeKeyChoice::Any, 4, &newest, &[], &tried), keys(&[6, 9, 8, 7]));
        assert_eq!(chosen(ProbeKeyChoice::Smallest, 1, &newest, &[], &none), keys(&[9]));
    }

    #[test]
    fn random_places_are_all_over_what_is_due_at_once_and_near_the_first_as_well_as_far_from_it() {
        let hour = 3_600_000_000;
        let ends = DueRange { first_due: 1000, first_id: 10, last_id: 10_000, last_due: 1000 + 24 * hour };
        let places: Vec<_> = (0..3000).map(|i| ends.somewhere(i)).collect();
        let ids =
            || places.iter().filter_map(|p| if let LaneEnd::Behind { due: 1000, id } = p { Some(*id) } else { None });
        for quarter in 0..4 {
            let part = 10 + quarter * 2500..10 + (quarter + 1) * 2500;
            assert!(ids().filter(|id| part.contains(id)).count() > 300, "{quarter}");
        }
        let later = |than: i64| {
            places.iter().filter(|p| matches!(p, LaneEnd::Behind { due, id: i64::MIN } if *due > 1000 + than)).count()
        };
        // Behind an hour, and in its first second.
        assert!(later(hour) > 30);
        assert!(1000 - later(1_000_000) > 100);
        let one = DueRange { last_id: 10, ..ends };
        assert!((0..100).all(|i| matches!(one.somewhere(i), LaneEnd::Behind { id: i64::MIN, .. })));
    }
}
