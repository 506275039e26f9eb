//! The maintenance of the log's partitions, and its size. It never decides how long events are kept.

use copyhold_core::domain::micros;
use std::time::Duration;

use super::read::log_bytes;
use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::trusted_sql,
};

/// A maintenance step of the log, one short statement each. One daemon at a time does any of them; a call during
/// another's does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogDuty {
    /// Begins a new partition, if the current one is old or large.
    Turn,
    /// Creates the partitions that are needed soon.
    Make,
    /// Drops the oldest partition, if all its events are older than the retention, or if all partitions together are
    /// too large.
    Drop,
}

impl LogDuty {
    pub const ALL: [Self; 3] = [Self::Turn, Self::Make, Self::Drop];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Make => "log::make_partitions",
            Self::Turn => "log::begin_partition",
            Self::Drop => "log::drop_partition",
        }
    }
}

/// How long events are kept, and how many bytes of them; an event beyond either limit is dropped.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    pub keep_for: Duration,
    pub keep_bytes: u64,
}

impl Database {
    /// Runs one step once. Returns whether it did something, and may have more to do.
    pub async fn tidy_log(&self, duty: LogDuty, retention: Retention) -> Result<bool, DatabaseError> {
        let schema = self.schema.quoted();
        let call = match duty {
            LogDuty::Make => format!("{schema}.make_log_partitions() > 0"),
            LogDuty::Turn => format!("{schema}.turn_log_page($2, $3)"),
            LogDuty::Drop => format!("{schema}.drop_log_partition($2, $3) IS NOT NULL"),
        };
        let sql = trusted_sql(format!(
            "-- {}\nSELECT CASE WHEN pg_try_advisory_xact_lock(hashtextextended($1, 0)) THEN {call} END",
            duty.name()
        ));
        let query = sqlx::query_scalar(sql).bind(format!("{}:log_retention", self.schema));
        let (keep_us, keep_bytes) =
            (micros(retention.keep_for), i64::try_from(retention.keep_bytes).unwrap_or(i64::MAX));
        let query = match duty {
            LogDuty::Make => query,
            LogDuty::Turn | LogDuty::Drop => query.bind(keep_us).bind(keep_bytes),
        };
        let done: Option<bool> = with_timeout(duty.name(), query.fetch_one(&self.pool)).await?;
        Ok(done.unwrap_or(false))
    }

    /// Bytes of the log, its indexes included.
    pub async fn log_bytes(&self) -> Result<u64, DatabaseError> {
        let sql = trusted_sql(format!("-- log::bytes\nSELECT {}", log_bytes(&self.schema)));
        let bytes: i64 = with_timeout("log::bytes", sqlx::query_scalar(sql).fetch_one(&self.pool)).await?;
        Ok(bytes.unsigned_abs())
    }
}
