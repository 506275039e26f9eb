//! Which objects a trial takes, and by which a store is asked something simple. Looks at few rows, and changes none.

use std::{collections::HashSet, time::Duration};

use rand::RngExt as _;
use sqlx::Row as _;

use super::{Queue, QueueError, answer::key_of, built, claim::statements::claimable, error::limited};
use crate::domain::{Generation, ObjectKey, ReplicaName};

/// Rows that are looked at in each place. Newest first this takes 0.09 ms, oldest first 19.7 ms behind 10,000 rows that
/// have failed.
const LOOKED_AT: i64 = 64;

/// Which of a lane's due objects are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// Those without a failure on record there: half from the lane's newest end, half from random places.
    Untried,
    /// The same first, then those whose last failure is the longest ago.
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

/// Where a lane is looked at.
#[derive(Debug, Clone, Copy)]
enum Place {
    NewestEnd,
    Behind { due: i64, id: i64 },
}

impl Queue {
    /// Up to `most` due objects that `lane` lacks, to be tried there. `held_by`: only those that are on record there.
    pub async fn trial_keys(
        &self,
        lane: &ReplicaName,
        pick: Pick,
        most: usize,
        held_by: Option<&ReplicaName>,
    ) -> Result<Vec<ObjectKey>, QueueError> {
        let Some([first, last]) = self.ends_of(lane).await? else { return Ok(Vec::new()) };
        let newest = self.candidates(lane, Place::NewestEnd, held_by).await?;
        let mut random = Vec::new();
        for _ in 0..most.div_ceil(2) {
            let place = somewhere(first, last);
            random.push(self.candidates(lane, place, held_by).await?);
        }
        Ok(chosen(pick, most, newest, random))
    }

    /// Up to four keys that are on record at the replica, by which its store can be asked something simple.
    pub async fn recorded_keys(&self, replica: &ReplicaName) -> Result<Vec<ObjectKey>, QueueError> {
        let (schema, copy) = (self.schema.quoted(), replica.column());
        let end = |order: &str| {
            format!(
                "(SELECT object_key FROM (SELECT object_key, {copy} AS copy FROM {schema}.object_copies
          ORDER BY object_key {order} LIMIT 1000) AS looked_at WHERE copy IS NOT NULL LIMIT 2)"
            )
        };
        let sql = built(format!("-- queue::recorded_keys\n{}\nUNION\n{}", end("ASC"), end("DESC")));
        let keys: Vec<String> = limited("queue::recorded_keys", sqlx::query_scalar(sql).fetch_all(&self.pool)).await?;
        keys.into_iter().map(|key| key_of("queue::recorded_keys", key)).collect()
    }

    /// How long ago this generation's copy first failed; `None`: no failure is on record.
    pub async fn failing_for(
        &self,
        key: &ObjectKey,
        replica: &ReplicaName,
        generation: Generation,
    ) -> Result<Option<Duration>, QueueError> {
        let schema = self.schema.quoted();
        let sql = built(format!(
            "-- queue::failing_for
SELECT greatest({schema}.now_utc_micro_seconds() - first_at, 0) FROM {schema}.copy_failures
 WHERE object_key = $1 AND replica = $2 AND generation = $3"
        ));
        let query = sqlx::query_scalar(sql).bind(key.as_str()).bind(replica.as_str()).bind(generation.0);
        let us: Option<i64> = limited("queue::failing_for", query.fetch_optional(&self.pool)).await?;
        Ok(us.map(|us| Duration::from_micros(us.unsigned_abs())))
    }

    /// The first and the last due place of a lane; `None`: nothing is due.
    async fn ends_of(&self, lane: &ReplicaName) -> Result<Option<[(i64, i64); 2]>, QueueError> {
        let (schema, due) = (self.schema.quoted(), lane.due_column());
        let end = |order: &str| {
            format!(
                "(SELECT {due}, id FROM {schema}.object_copies WHERE {}
   ORDER BY {due} {order}, id {order} LIMIT 1)",
                claimable(&self.schema, lane)
            )
        };
        let sql = built(format!("-- queue::trial_ends\n{}\nUNION ALL\n{}", end("ASC"), end("DESC")));
        let ends: Vec<(i64, i64)> = limited("queue::trial_ends", sqlx::query_as(sql).fetch_all(&self.pool)).await?;
        Ok(ends.try_into().ok())
    }

    async fn candidates(
        &self,
        lane: &ReplicaName,
        place: Place,
        held_by: Option<&ReplicaName>,
    ) -> Result<Vec<Candidate>, QueueError> {
        const NAME: &str = "queue::trial_candidates";
        let (schema, due) = (self.schema.quoted(), lane.due_column());
        let held = held_by.map_or_else(String::new, |replica| format!(" WHERE o.{} IS NOT NULL", replica.column()));
        let claimable = claimable(&self.schema, lane);
        let (place, order, from) = match place {
            // True: both forms take the same parameters.
            Place::NewestEnd => ("$3::bigint = $4::bigint".to_owned(), "DESC", (0, 0)),
            Place::Behind { due: after, id } => {
                (format!("({due}, id) >= ($3::bigint, $4::bigint)"), "ASC", (after, id))
            }
        };
        let sql = built(format!(
            "-- {NAME}
SELECT o.object_key, o.size_bytes, (
           SELECT f.last_at FROM {schema}.copy_failures f
            WHERE f.object_key = o.object_key AND f.replica = $2 AND f.generation = o.generation) AS failed_at
  FROM (SELECT * FROM {schema}.object_copies
         WHERE {claimable} AND {place}
         ORDER BY {due} {order}, id {order} LIMIT $1) AS o{held}"
        ));
        let query = sqlx::query(sql).bind(LOOKED_AT).bind(lane.as_str()).bind(from.0).bind(from.1);
        let rows = limited(NAME, query.fetch_all(&self.pool)).await?;
        let candidate = |row: &sqlx::postgres::PgRow| {
            Ok(Candidate {
                key: ObjectKey::new(row.try_get::<String, _>("object_key")?)
                    .map_err(|e| sqlx::Error::Decode(e.into()))?,
                size_bytes: row.try_get("size_bytes")?,
                failed_at: row.try_get("failed_at")?,
            })
        };
        rows.iter().map(candidate).collect::<Result<_, sqlx::Error>>().map_err(QueueError::database(NAME))
    }
}

/// A random place between two of a lane. Rows that never waited share one due time, or come in the order of their ids.
fn somewhere((first_due, first_id): (i64, i64), (last_due, last_id): (i64, i64)) -> Place {
    let mut rng = rand::rng();
    if first_due == last_due || rng.random() {
        let id = rng.random_range(first_id.min(last_id)..=first_id.max(last_id));
        Place::Behind { due: first_due, id }
    } else {
        Place::Behind { due: rng.random_range(first_due.min(last_due)..=first_due.max(last_due)), id: i64::MIN }
    }
}

/// Chooses among those that were seen; `random`: one list for each place.
fn chosen(pick: Pick, most: usize, newest: Vec<Candidate>, random: Vec<Vec<Candidate>>) -> Vec<ObjectKey> {
    let mut all: Vec<Candidate> = Vec::new();
    let mut take = |from: Vec<Candidate>| {
        for candidate in from {
            if !all.iter().any(|known| known.key == candidate.key) {
                all.push(candidate);
            }
        }
    };
    // In the order of preference: half of the newest, then one of each random place, then whatever else was seen.
    let untried = |from: &[Candidate], n: usize| -> Vec<Candidate> {
        from.iter().filter(|candidate| candidate.failed_at.is_none()).take(n).cloned().collect()
    };
    take(untried(&newest, most / 2));
    let seen: HashSet<_> = newest.iter().take(most / 2).map(|candidate| candidate.key.clone()).collect();
    for place in &random {
        let others: Vec<_> = place.iter().filter(|candidate| !seen.contains(&candidate.key)).cloned().collect();
        take(untried(&others, 1));
    }
    take(newest);
    random.into_iter().for_each(take);
    match pick {
        Pick::Untried => all.retain(|candidate| candidate.failed_at.is_none()),
        // Stable: those without a failure stay in their order.
        Pick::Any => all.sort_by_key(|candidate| candidate.failed_at),
        Pick::Smallest => all.sort_by_key(|candidate| candidate.size_bytes.unwrap_or(i64::MAX)),
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
    fn a_trial_takes_two_of_the_newest_and_one_of_each_random_place_that_have_not_failed() {
        let newest = vec![candidate(9, Some(1)), candidate(8, None), candidate(7, None), candidate(6, None)];
        let random =
            vec![vec![candidate(3, Some(2)), candidate(4, None)], vec![candidate(8, None), candidate(5, None)]];
        assert_eq!(chosen(Pick::Untried, 4, newest.clone(), random), keys(&[8, 7, 4, 5]));
        assert_eq!(chosen(Pick::Untried, 4, newest, Vec::new()), keys(&[8, 7, 6]));
        assert!(chosen(Pick::Untried, 4, vec![candidate(9, Some(1))], Vec::new()).is_empty());
    }

    #[test]
    fn a_probe_takes_the_untried_first_and_then_those_that_failed_the_longest_ago() {
        let newest = vec![candidate(9, Some(5)), candidate(8, None), candidate(7, Some(3))];
        assert_eq!(chosen(Pick::Any, 4, newest.clone(), Vec::new()), keys(&[8, 7, 9]));
        assert_eq!(chosen(Pick::Smallest, 1, newest, Vec::new()), keys(&[9]));
    }
}
