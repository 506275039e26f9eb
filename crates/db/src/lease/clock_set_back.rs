//! Corrects times in the future after the database's clock was set back: a due time from a clock that was two hours
//! ahead would otherwise wait for two hours.
//! It does not decide whether leases have expired. Tests: `tests/it/clock_back.rs`.

use std::time::Duration;

use copyhold_core::domain::{ReplicaName, micros};

use super::orphaned_multipart::UPLOAD_CHECK_INTERVAL;
use crate::{
    connections::pools::STATEMENT_TIMEOUT,
    error::{DatabaseError, with_timeout, within},
    handle::Database,
    sql::{PARKED, trusted_sql},
};

const NAME: &str = "lease::pull_in";
/// Times less far in the future are noise, or come from a heartbeat at this moment.
const TOLERATED: Duration = Duration::from_secs(5);
/// Waiting copies become due within this time, spread over it.
const WITHIN: Duration = Duration::from_secs(30);
/// No class of failure makes a copy wait for so long: the longest wait is about an hour.
const LONGEST_WAIT: Duration = Duration::from_mins(90);
/// No store waits longer for its next probe.
const LONGEST_PROBE: Duration = Duration::from_mins(10);
/// Rows of one statement.
const BATCH: i64 = 1000;

/// The result of a correction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockCorrection {
    /// How far the clock was ahead, as far as that is visible.
    pub ahead: Duration,
    /// Copies whose due time was corrected.
    pub copies: u64,
}

/// How far in the future impossible times lie.
#[derive(Debug, Clone, Copy)]
struct FutureTimes {
    /// The latest time that was written as the present.
    clock: Duration,
    /// Of a copy that waits longer than any back-off; zero: there is none.
    wait: Duration,
}

impl Database {
    /// Checks whether times were written by a clock that was ahead of the present one, and corrects them. `stepped`:
    /// the clock is known to have been set back. `lease_time`: of this daemon.
    /// It may die at any point and is then repeated: the times that it decides by are written last.
    pub async fn pull_in(&self, stepped: bool, lease_time: Duration) -> Result<Option<ClockCorrection>, DatabaseError> {
        let FutureTimes { clock, wait } = self.future().await?;
        let was_ahead = stepped || clock >= TOLERATED;
        if !was_ahead && wait.is_zero() {
            return Ok(None);
        }
        // Without another sign, only what waits longer than any back-off.
        let beyond = if was_ahead { WITHIN } else { LONGEST_WAIT };
        let mut copies = 0;
        for replica in &self.replicas {
            loop {
                let moved = self.pull_in_due(replica, beyond).await?;
                copies += moved;
                if moved == 0 {
                    break;
                }
            }
        }
        if was_ahead {
            self.pull_in_leases(lease_time).await?;
            self.pull_in_rest(lease_time).await?;
        }
        Ok(Some(ClockCorrection { ahead: clock.max(wait), copies }))
    }

    /// Reads the times that lie impossibly far in the future.
    async fn future(&self) -> Result<FutureTimes, DatabaseError> {
        let schema = self.schema.quoted();
        let now = format!("{schema}.now_utc_micro_seconds()");
        let waits = |r: &ReplicaName| {
            let (copy, due) = (r.column(), r.due_column());
            format!(
                "(SELECT {due} - {now} FROM {schema}.object_copies
      WHERE {copy} IS NULL AND {due} < {PARKED} AND lock IS NULL AND {due} > {now} + {longest}
      ORDER BY {due} DESC, id DESC LIMIT 1)",
                longest = micros(LONGEST_WAIT)
            )
        };
        let waits = self.replicas.iter().map(waits).collect::<Vec<_>>().join(",\n    ");
        // Each of them but the probe's was written as the present.
        let sql = trusted_sql(format!(
            "-- lease::future_times
SELECT greatest(
    (SELECT (extract(epoch FROM max(as_of) - statement_timestamp()) * 1000000)::bigint FROM {schema}.backlog),
    (SELECT max(alive_until - lease_timeout_us) - {now} FROM {schema}.daemons),
    (SELECT max(breaker_opened_at) - {now} FROM {schema}.replicas),
    (SELECT max(probe_at) - {now} - {probe} FROM {schema}.replicas),
    (SELECT max(noted_at) - {now} FROM {schema}.unsettled),
    (SELECT max(greatest(begun_at, last_at)) - {now} FROM {schema}.multipart_uploads), 0),
  greatest({waits}, 0)",
            probe = micros(LONGEST_PROBE),
        ));
        let query = sqlx::query_as(sql).fetch_one(&self.pool);
        let (clock, wait): (i64, i64) = with_timeout("lease::future_times", query).await?;
        let us = |us: i64| Duration::from_micros(us.max(0).unsigned_abs());
        Ok(FutureTimes { clock: us(clock), wait: us(wait) })
    }

    /// Corrects one batch of one lane, and of leased rows: their other copies wait in the same row.
    async fn pull_in_due(&self, replica: &ReplicaName, beyond: Duration) -> Result<u64, DatabaseError> {
        let schema = self.schema.quoted();
        let now = format!("{schema}.now_utc_micro_seconds()");
        let (copy, due) = (replica.column(), replica.due_column());
        let (within, beyond) = (micros(WITHIN), micros(beyond));
        let chosen = |lock: &str, order: &str| {
            format!(
                "SELECT object_key FROM {schema}.object_copies
          WHERE {copy} IS NULL AND {due} < {PARKED} AND {lock} AND {due} > {now} + {beyond}
          ORDER BY {order} LIMIT {BATCH} FOR NO KEY UPDATE SKIP LOCKED"
            )
        };
        let sql = trusted_sql(format!(
            "-- {NAME}
UPDATE {schema}.object_copies o SET {due} = {now} + (random() * {within})::bigint
 WHERE o.object_key = ANY (ARRAY(
         {free}) || ARRAY(
         {leased}))
   AND o.{copy} IS NULL AND o.{due} > {now} + {beyond} AND o.{due} < {PARKED}",
            free = chosen("lock IS NULL", &format!("{due} DESC, id DESC")),
            leased = chosen("lock IS NOT NULL", "lock DESC"),
        ));
        Ok(with_timeout(NAME, sqlx::query(sql).execute(&self.pool)).await?.rows_affected())
    }

    /// The leases of dead holders would last for as long as the clock was ahead. A living holder renews its own.
    async fn pull_in_leases(&self, lease_time: Duration) -> Result<(), DatabaseError> {
        let schema = self.schema.quoted();
        let now = format!("{schema}.now_utc_micro_seconds()");
        let sql = trusted_sql(format!(
            "-- lease::pull_in_leases
WITH longest AS MATERIALIZED (
    SELECT greatest($1::bigint, (SELECT max(lease_timeout_us) FROM {schema}.daemons)) AS us
)
UPDATE {schema}.object_copies o SET lock = {now} + longest.us
  FROM longest
 WHERE o.object_key = ANY (ARRAY(
         SELECT object_key FROM {schema}.object_copies
          WHERE lock IS NOT NULL AND lock > {now} + (SELECT us FROM longest)
          ORDER BY lock DESC LIMIT 10 * {BATCH} FOR NO KEY UPDATE SKIP LOCKED))
   AND o.lock > {now} + longest.us"
        ));
        let query = sqlx::query(sql).bind(micros(lease_time)).execute(&self.pool);
        within(STATEMENT_TIMEOUT, "lease::pull_in_leases", query).await?;
        Ok(())
    }

    /// Corrects probes, unsettled writes, uploads, daemons and figures. The next check decides by some of them.
    async fn pull_in_rest(&self, lease_time: Duration) -> Result<(), DatabaseError> {
        let schema = self.schema.quoted();
        let now = format!("{schema}.now_utc_micro_seconds()");
        let minute = micros(Duration::from_mins(1));
        let longest = format!(
            "greatest(600000000, {}, (SELECT max(2 * d.lease_timeout_us) FROM {schema}.daemons d))",
            micros(2 * lease_time)
        );
        let statements = [
            format!("UPDATE {schema}.replicas SET probe_at = {now} WHERE probe_at > {now}"),
            format!("UPDATE {schema}.replicas SET breaker_opened_at = {now} WHERE breaker_opened_at > {now}"),
            // For as long after the note as before, and not shorter.
            format!(
                "UPDATE {schema}.unsettled SET noted_at = {now}, verify_at = {now} + greatest(verify_at - noted_at, 0),
       settled_at = {now} + greatest(settled_at - noted_at, 0)
 WHERE noted_at > {now}"
            ),
            format!(
                "UPDATE {schema}.claims_intact SET unsettled_until = {now} + {longest}
 WHERE unsettled_until > {now} + {longest}"
            ),
            format!(
                "UPDATE {schema}.multipart_uploads
   SET begun_at = least(begun_at, {now}), last_at = least(last_at, {now}), condemned_at = least(condemned_at, {now}),
       look_at = least(look_at, {now} + {})
 WHERE greatest(begun_at, last_at, condemned_at) > {now} OR look_at > {now} + {}",
                micros(UPLOAD_CHECK_INTERVAL),
                micros(6 * 6 * UPLOAD_CHECK_INTERVAL)
            ),
            format!("UPDATE {schema}.scans SET held_until = {now} + {minute} WHERE held_until > {now} + {minute}"),
            format!(
                "UPDATE {schema}.daemons SET alive_until = {now} + lease_timeout_us, started_at = least(started_at, {now})
 WHERE alive_until > {now} + lease_timeout_us"
            ),
            format!("UPDATE {schema}.backlog SET as_of = 'epoch' WHERE as_of > statement_timestamp()"),
        ];
        for statement in statements {
            let sql = trusted_sql(format!("-- lease::pull_in_rest\n{statement}"));
            with_timeout("lease::pull_in_rest", sqlx::query(sql).execute(&self.pool)).await?;
        }
        Ok(())
    }
}
