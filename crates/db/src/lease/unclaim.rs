//! Frees the rows of a claim whose answer was lost.

use copyhold_core::domain::{Fence, SchemaName};

use crate::{
    error::{DatabaseError, with_timeout},
    handle::Database,
};

/// More rows than any claim leases.
const BATCH: usize = 1000;

/// `$1` the fence. Scans all leased rows, those of other daemons too: it is for the rare case. ORDER BY the index's
/// column makes PostgreSQL use that index.
pub(crate) fn statement(schema: &SchemaName) -> String {
    let schema = schema.quoted();
    format!(
        "UPDATE {schema}.object_copies o
   SET lock = NULL, lease = NULL
 WHERE o.object_key = ANY (ARRAY(
         SELECT object_key FROM {schema}.object_copies
          WHERE lock IS NOT NULL AND lease = $1::bigint
          ORDER BY lock
          LIMIT {BATCH}
          FOR NO KEY UPDATE SKIP LOCKED))
   AND o.lease = $1::bigint
RETURNING o.object_key"
    )
}

impl Database {
    /// Frees the rows of a claim whose answer was lost, and returns how many there were. No worker copies them: a lease
    /// begins with the answer.
    pub async fn unclaim(&self, fence: Fence) -> Result<usize, DatabaseError> {
        let query = sqlx::query(self.statements.unclaim.clone()).bind(fence.0);
        Ok(with_timeout("lease::unclaim", query.fetch_all(&self.pool)).await?.len())
    }
}
