//! The breaker of a replica in the table `replicas`: opened, probed by one daemon at a time, closed.

use std::time::Duration;

use copyhold_core::domain::{BreakerScope, EventKind, FailureClass, ReplicaName, next_probe, utc};

use super::{Notice, Queue, QueueError, append::logged, built, error::limited, micros};

/// An open breaker, as all daemons share it: why a replica is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// µs since the epoch by the database's clock. It names this opening: what was found out about an earlier one
    /// changes nothing.
    pub opened_at: i64,
    pub blocks: BreakerScope,
    /// Of the failure that opened it; `None`: a class of another version of this program.
    pub class: Option<FailureClass>,
    /// What the store said then.
    pub message: String,
    /// How long until somebody may try the store again; zero: now.
    pub probe_in: Duration,
    pub probes_failed: u32,
}

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    Well,
    Sick,
}

impl Probed {
    /// For people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Well => "it is well",
            Self::Sick => "it is not well",
        }
    }
}

impl Breaker {
    /// Whether it was opened because objects could not be read. What is said of a failed read begins with its source.
    #[must_use]
    pub fn is_of_reading(&self) -> bool {
        self.message.starts_with("source ")
    }

    /// For people: since when, and because of what.
    #[must_use]
    pub fn why(&self) -> String {
        let class = self.class.map_or("unknown", FailureClass::as_str);
        let since = utc(self.opened_at);
        format!("its breaker is open since {since}: {class}: {}", self.message)
    }
}

impl Queue {
    /// Opens a replica's breaker, unless it is open already and blocks as much. Whether it was us.
    pub async fn open_breaker(
        &self,
        replica: &ReplicaName,
        blocks: BreakerScope,
        class: FailureClass,
        message: &str,
    ) -> Result<bool, QueueError> {
        let schema = self.schema.quoted();
        let logged = self.logged(
            EventKind::ReplicaBreakerOpened,
            "'replica', name, 'blocks', breaker_blocks, 'class', breaker_class, 'message', breaker_message",
            "opened",
        );
        let sql = built(format!(
            "-- queue::open_breaker
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
        let opened = limited("queue::open_breaker", query.execute(&self.pool)).await?.rows_affected() > 0;
        if opened {
            self.notify(Notice::Replicas).await?;
        }
        Ok(opened)
    }

    /// Takes it upon us to probe a replica whose time for that has come. Nobody else does so for `within`, after which
    /// we are taken for dead.
    pub async fn take_probe(
        &self,
        replica: &ReplicaName,
        opened_at: i64,
        within: Duration,
    ) -> Result<bool, QueueError> {
        let schema = self.schema.quoted();
        let sql = built(format!(
            "-- queue::take_probe
UPDATE {schema}.replicas SET probe_at = {schema}.now_utc_micro_seconds() + $3
 WHERE name = $1 AND breaker_opened_at = $2 AND probe_at <= {schema}.now_utc_micro_seconds()"
        ));
        let query = sqlx::query(sql).bind(replica.as_str()).bind(opened_at).bind(micros(within));
        Ok(limited("queue::take_probe", query.execute(&self.pool)).await?.rows_affected() > 0)
    }

    /// Says how a probe ended: the breaker closes, or the next probe is later. Whether it is still the opening that
    /// was probed.
    pub async fn end_probe(&self, replica: &ReplicaName, breaker: &Breaker, ended: Probed) -> Result<bool, QueueError> {
        let schema = self.schema.quoted();
        let change = match ended {
            Probed::Well => {
                "breaker_opened_at = NULL, breaker_blocks = NULL, breaker_class = NULL, breaker_message = NULL,
       probe_at = NULL, probes_failed = 0"
                    .to_owned()
            }
            Probed::Sick => {
                let failed = breaker.probes_failed.saturating_add(1);
                let delay = micros(next_probe(breaker.class.unwrap_or(FailureClass::Transient), failed));
                format!("probes_failed = {failed}, probe_at = {schema}.now_utc_micro_seconds() + {delay}")
            }
        };
        let logged = match ended {
            Probed::Well => self.logged(EventKind::ReplicaBreakerClosed, "'replica', name, 'opened_at', $2", "ended"),
            Probed::Sick => logged(&schema, "", &[]),
        };
        let sql = built(format!(
            "-- queue::end_probe
WITH ended AS (
    UPDATE {schema}.replicas SET {change} WHERE name = $1 AND breaker_opened_at = $2 RETURNING name
),
{logged}
SELECT FROM ended CROSS JOIN logged"
        ));
        let query = sqlx::query(sql).bind(replica.as_str()).bind(breaker.opened_at);
        let ours = limited("queue::end_probe", query.execute(&self.pool)).await?.rows_affected() > 0;
        if ours {
            self.notify(Notice::Replicas).await?;
        }
        Ok(ours)
    }
}
