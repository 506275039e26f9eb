//! The breaker of a replica in the table `replicas`: opened, probed by one daemon at a time, closed.

use std::time::Duration;

use copyhold_core::domain::{BreakerScope, EventKind, FailureClass, ReplicaName, micros, next_probe, utc};

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    log::append::logged,
    notify::notification::Notification,
    sql::trusted_sql,
};

/// An open breaker, as all daemons share it: why no daemon uses a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// µs since the epoch by the database's clock. It identifies this opening: results of probes of an earlier one
    /// change nothing.
    pub opened_at: i64,
    pub blocks: BreakerScope,
    /// The class of the failure that opened it; `None`: a class of another version of this program.
    pub class: Option<FailureClass>,
    /// The message of that failure.
    pub message: String,
    /// How long until a daemon may probe the store again; zero: now.
    pub probe_in: Duration,
    pub probes_failed: u32,
}

/// The result of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeResult {
    Healthy,
    Unhealthy,
}

impl ProbeResult {
    /// A clause for operators.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Healthy => "it is well",
            Self::Unhealthy => "it is unhealthy",
        }
    }
}

impl Breaker {
    /// Whether failed reads opened it: the message of a failed read begins with its source.
    #[must_use]
    pub fn is_of_reading(&self) -> bool {
        self.message.starts_with("source ")
    }

    /// A clause for operators: since when, and why.
    #[must_use]
    pub fn why(&self) -> String {
        let class = self.class.map_or("unknown", FailureClass::as_str);
        let since = utc(self.opened_at);
        format!("its breaker is open since {since}: {class}: {}", self.message)
    }
}

impl Database {
    /// Opens a replica's breaker, unless it is open already and blocks as much. Returns whether this call opened it.
    pub async fn open_breaker(
        &self,
        replica: &ReplicaName,
        blocks: BreakerScope,
        class: FailureClass,
        message: &str,
    ) -> Result<bool, DatabaseError> {
        let schema = self.schema.quoted();
        let logged = self.logged(
            EventKind::ReplicaBreakerOpened,
            "'replica', name, 'blocks', breaker_blocks, 'class', breaker_class, 'message', breaker_message",
            "opened",
        );
        let sql = trusted_sql(format!(
            "-- replica::open_breaker
WITH opened AS (
    UPDATE {schema}.replicas
       SET breaker_opened_at = {schema}.now_utc_micro_seconds(), breaker_blocks = $2, breaker_class = $3,
           breaker_message = $4, probe_at = {schema}.now_utc_micro_seconds() + $5, probes_failed = 0
     WHERE name = $1 AND (breaker_opened_at IS NULL OR breaker_blocks = '{writing}' AND $2 = '{all}')
    RETURNING name, breaker_blocks, breaker_class, breaker_message
),
{logged}
SELECT FROM opened CROSS JOIN logged",
            writing = BreakerScope::Writing.as_str(),
            all = BreakerScope::All.as_str(),
        ));
        let query = sqlx::query(sql)
            .bind(replica.as_str())
            .bind(blocks.as_str())
            .bind(class.as_str())
            .bind(message)
            .bind(micros(next_probe(class, 0)));
        let opened = with_timeout("replica::open_breaker", query.execute(&self.pool)).await?.rows_affected() > 0;
        if opened {
            self.notify(Notification::Replicas).await?;
        }
        Ok(opened)
    }

    /// Claims the due probe of a replica for this daemon. No other daemon probes it for `within`, after which this one
    /// is presumed dead.
    pub async fn claim_probe(
        &self,
        replica: &ReplicaName,
        opened_at: i64,
        within: Duration,
    ) -> Result<bool, DatabaseError> {
        let schema = self.schema.quoted();
        let sql = trusted_sql(format!(
            "-- replica::claim_probe
UPDATE {schema}.replicas SET probe_at = {schema}.now_utc_micro_seconds() + $3
 WHERE name = $1 AND breaker_opened_at = $2 AND probe_at <= {schema}.now_utc_micro_seconds()"
        ));
        let query = sqlx::query(sql).bind(replica.as_str()).bind(opened_at).bind(micros(within));
        Ok(with_timeout("replica::claim_probe", query.execute(&self.pool)).await?.rows_affected() > 0)
    }

    /// Records the result of a probe: the breaker closes, or the next probe is later. Returns whether the opening that
    /// was probed is still in force.
    pub async fn end_probe(
        &self,
        replica: &ReplicaName,
        breaker: &Breaker,
        ended: ProbeResult,
    ) -> Result<bool, DatabaseError> {
        let schema = self.schema.quoted();
        let change = match ended {
            ProbeResult::Healthy => {
                "breaker_opened_at = NULL, breaker_blocks = NULL, breaker_class = NULL, breaker_message = NULL,
       probe_at = NULL, probes_failed = 0"
                    .to_owned()
            }
            ProbeResult::Unhealthy => {
                let failed = breaker.probes_failed.saturating_add(1);
                let delay = micros(next_probe(breaker.class.unwrap_or(FailureClass::Transient), failed));
                format!("probes_failed = {failed}, probe_at = {schema}.now_utc_micro_seconds() + {delay}")
            }
        };
        let logged = match ended {
            ProbeResult::Healthy => {
                self.logged(EventKind::ReplicaBreakerClosed, "'replica', name, 'opened_at', $2", "ended")
            }
            ProbeResult::Unhealthy => logged(&schema, "", &[]),
        };
        let sql = trusted_sql(format!(
            "-- replica::end_probe
WITH ended AS (
    UPDATE {schema}.replicas SET {change} WHERE name = $1 AND breaker_opened_at = $2 RETURNING name
),
{logged}
SELECT FROM ended CROSS JOIN logged"
        ));
        let query = sqlx::query(sql).bind(replica.as_str()).bind(breaker.opened_at);
        let ours = with_timeout("replica::end_probe", query.execute(&self.pool)).await?.rows_affected() > 0;
        if ours {
            self.notify(Notification::Replicas).await?;
        }
        Ok(ours)
    }
}
