//! Logs that a holder has lost its lease. It changes no row.

use copyhold_core::domain::{EventKind, Fence, ObjectKey};

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::{FENCE_RANDOM_BITS, trusted_sql},
};

impl Database {
    /// Logs that our lease of a row was lost. A row that still carries it was only registered again, and is not logged.
    pub async fn log_lost_lease(&self, key: &ObjectKey, fence: Fence) -> Result<(), DatabaseError> {
        const NAME: &str = "lease::log_lost";
        let whence = format!(
            "(SELECT $1::text AS k, $2::bigint AS f) AS lost
    WHERE NOT EXISTS (SELECT FROM {}.object_copies o WHERE o.object_key = k AND o.lease = f)",
            self.schema.quoted()
        );
        let members = format!("'object_key', k, 'daemon', f >> {FENCE_RANDOM_BITS}");
        let logged = self.logged(EventKind::LeaseLost, &members, &whence);
        let sql = trusted_sql(format!("-- {NAME}\nWITH {logged}\nSELECT last FROM logged"));
        with_timeout(NAME, sqlx::query(sql).bind(key.as_str()).bind(fence.0).execute(&self.pool)).await?;
        Ok(())
    }
}
