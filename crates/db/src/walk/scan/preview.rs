//! Counts what a scan would register, for a dry run.

use copyhold_core::domain::micros;
use std::collections::HashMap;

use super::{ListedKey, ListedKeys, ScanCounts, signed};
use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::{PARKED, names_of, trusted_sql},
};

const LOOK: &str = "walk::preview_page";

impl Database {
    /// Counts what [`Self::register_page`] would write, for these keys alone; nothing is written.
    pub async fn preview_page(&self, listed: &ListedKeys) -> Result<ScanCounts, DatabaseError> {
        let schema = self.schema.quoted();
        let missing =
            names_of(&self.replicas, |r| format!("o.{} IS NULL AND o.{} < {PARKED}", r.column(), r.due_column()));
        let of_holder = self.replicas.iter().map(|r| format!("WHEN '{r}' THEN o.{}", r.column()));
        let sql = trusted_sql(format!(
            "-- {LOOK}
SELECT o.object_key, o.size_bytes,
       CASE WHEN o.created_at < {schema}.now_utc_micro_seconds() - $3 AND o.lock IS NULL AND o.content_hash IS NULL
             AND CASE $2::text {of_holder} END IS NOT NULL
             AND NOT EXISTS (SELECT FROM {schema}.unsettled u WHERE u.object_key = o.object_key)
            THEN {missing} ELSE '{{}}' END AS missing
  FROM {schema}.object_copies o WHERE o.object_key = ANY ($1::text[])",
            of_holder = of_holder.collect::<Vec<_>>().join(" "),
        ));
        let query = sqlx::query_as(sql)
            .bind(listed.keys.iter().map(|listed| listed.key.as_str()).collect::<Vec<_>>())
            .bind(listed.holder.as_str())
            .bind(micros(listed.age));
        let known: Vec<(String, Option<i64>, Vec<String>)> = with_timeout(LOOK, query.fetch_all(&self.pool)).await?;
        let known: HashMap<_, _> = known.into_iter().map(|(key, size, missing)| (key, (size, missing))).collect();
        let mut counts = ScanCounts {
            listed: listed.keys.len() as u64 + listed.unusable,
            unusable: listed.unusable,
            ..ScanCounts::default()
        };
        let new: Vec<_> = listed.keys.iter().filter(|listed| !known.contains_key(listed.key.as_str())).collect();
        counts.due = self.wanted_of(&new).await?.saturating_sub(new.len() as u64);
        for ListedKey { key, size_bytes, same_at } in &listed.keys {
            let adopted = match known.get(key.as_str()) {
                None => {
                    counts.registered += 1;
                    counts.bytes += size_bytes.unwrap_or_default();
                    counts.due = counts.due.saturating_sub(same_at.len() as u64);
                    same_at.len()
                }
                Some((Some(size), _)) if size_bytes.map(signed) != Some(*size) => 0,
                Some((_, missing)) => same_at.iter().filter(|r| missing.iter().any(|m| m == r.as_str())).count(),
            };
            counts.adopted += adopted as u64;
        }
        Ok(counts)
    }

    /// How many copies of these are wanted, by the rules in force.
    async fn wanted_of(&self, listed: &[&ListedKey]) -> Result<u64, DatabaseError> {
        const NAME: &str = "walk::wanted_of";
        let schema = self.schema.quoted();
        let names: Vec<_> = self.replicas.iter().map(|r| format!("'{r}'")).collect();
        let sql = trusted_sql(format!(
            "-- {NAME}
SELECT coalesce(sum((
    SELECT count(*) FROM unnest(ARRAY[{names}]) AS r(name)
     WHERE w.names IS NULL OR r.name = ANY (w.names)
        OR r.name = (SELECT p.name FROM {schema}.replicas p WHERE p.primary_since IS NOT NULL))), 0)::bigint
  FROM unnest($1::text[], $2::bigint[]) AS u(k, s)
 CROSS JOIN LATERAL (SELECT {schema}.replicas_by_rule(u.k, u.s)) AS w(names)",
            names = names.join(", ")
        ));
        let query = sqlx::query_scalar(sql)
            .bind(listed.iter().map(|listed| listed.key.as_str()).collect::<Vec<_>>())
            .bind(listed.iter().map(|listed| listed.size_bytes.map(signed)).collect::<Vec<_>>());
        let wanted: i64 = with_timeout(NAME, query.fetch_one(&self.pool)).await?;
        Ok(wanted.unsigned_abs())
    }
}
