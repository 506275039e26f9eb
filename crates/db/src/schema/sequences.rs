//! Finds, reports and repairs sequences that are behind the numbers in use.

use std::{fmt, time::Duration};

use copyhold_core::domain::SchemaName;
use sqlx::PgConnection;

use super::append_functions::SEQUENCES_BEHIND;
use crate::{
    error::{DatabaseError, within},
    handle::Database,
    sql::trusted_sql,
};

/// Checking the whole of a large table takes long; it is done only where the sample shows a problem.
const MENDED_WITHIN: Duration = Duration::from_mins(30);
const LOOKED_WITHIN: Duration = Duration::from_secs(10);

/// A sequence that would assign numbers again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BehindSequence {
    pub name: String,
    /// The last number that it assigned; 0: none.
    pub stands_at: i64,
    /// The greatest number in use.
    pub used: i64,
}

impl fmt::Display for BehindSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} stands at {}, and {} is in use", self.name, self.stands_at, self.used)
    }
}

impl From<(String, i64, i64)> for BehindSequence {
    fn from((name, stands_at, used): (String, i64, i64)) -> Self {
        Self { name, stands_at, used }
    }
}

impl BehindSequence {
    /// All of them, in one clause.
    #[must_use]
    pub fn list(all: &[Self]) -> String {
        all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }
}

/// As [`Database::mend_sequences`], on this connection, without a time limit.
pub(crate) async fn mend_on(
    connection: &mut PgConnection,
    schema: &SchemaName,
) -> Result<Vec<BehindSequence>, DatabaseError> {
    let sql = format!(
        "-- schema::migrate\nSELECT sequence_name, stands_at, used FROM {}.{SEQUENCES_BEHIND}(true)",
        schema.quoted()
    );
    let mended: Vec<(String, i64, i64)> = sqlx::query_as(trusted_sql(sql))
        .fetch_all(connection)
        .await
        .map_err(DatabaseError::database("schema::migrate"))?;
    Ok(mended.into_iter().map(BehindSequence::from).collect())
}

impl Database {
    /// Returns the sequences that are behind their tables, as after a switchover by logical replication. Of the objects
    /// it reads a sample.
    pub async fn sequences_behind(&self) -> Result<Vec<BehindSequence>, DatabaseError> {
        const NAME: &str = "schema::sequences_behind";
        let sql = format!(
            "-- {NAME}\nSELECT sequence_name, stands_at, used FROM {}.{SEQUENCES_BEHIND}(false)",
            self.schema.quoted()
        );
        let behind: Vec<(String, i64, i64)> =
            within(LOOKED_WITHIN, NAME, sqlx::query_as(trusted_sql(sql)).fetch_all(&self.pool)).await?;
        Ok(behind.into_iter().map(BehindSequence::from).collect())
    }

    /// Sets them to the greatest number in use; returns those that were behind.
    pub async fn mend_sequences(&self) -> Result<Vec<BehindSequence>, DatabaseError> {
        const NAME: &str = "schema::mend_sequences";
        let mend = async {
            let mut transaction = self.pool.begin().await?;
            // For this transaction alone: it may have to read the whole table.
            let limits = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '10s'";
            sqlx::raw_sql(limits).execute(&mut *transaction).await?;
            let sql = format!(
                "-- {NAME}\nSELECT sequence_name, stands_at, used FROM {}.{SEQUENCES_BEHIND}(true)",
                self.schema.quoted()
            );
            let mended: Vec<(String, i64, i64)> = sqlx::query_as(trusted_sql(sql)).fetch_all(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(mended.into_iter().map(BehindSequence::from).collect())
        };
        within(MENDED_WITHIN, NAME, mend).await
    }
}
