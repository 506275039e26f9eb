//! Asks PostgreSQL for its clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Queue, QueueError, error::limited};

impl Queue {
    /// Returns what the server's clock says.
    pub async fn server_time(&self) -> Result<SystemTime, QueueError> {
        const NAME: &str = "queue::server_time";
        let sql = "-- queue::server_time
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let micros: i64 = limited(NAME, sqlx::query_scalar(sql).fetch_one(&self.pool)).await?;
        Ok(UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or_default()))
    }
}
