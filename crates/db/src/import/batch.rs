//! Imports one batch of rows of another program's table, and moves the stored position on in the same statement.

use std::time::Duration;

use copyhold_core::domain::Fence;
use sqlx::{
    Postgres, Row as _,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use super::{ImportPlan, ImportTally, statements};
use crate::{
    connections::pools::STATEMENT_TIMEOUT,
    error::{DatabaseError, within},
    handle::Database,
    sql::trusted_sql,
};

/// The end of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchEnd {
    /// With this key, in the table's own order; all rows with it are in the batch.
    Key(String),
    /// With the last row.
    End,
}

impl BatchEnd {
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Key(key) => Some(key),
            Self::End => None,
        }
    }
}

type Asked = Query<'static, Postgres, PgArguments>;

impl Database {
    /// Finds the end of a batch of about `rows` rows that begins after `after`; `None`: with the first row.
    /// A separate query, because the batch must have all rows of its last key, however many there are, and in an order
    /// in which different keys may be equal.
    pub async fn import_bound(
        &self,
        plan: &ImportPlan,
        after: Option<&str>,
        rows: u32,
    ) -> Result<BatchEnd, DatabaseError> {
        let bind = |query: Asked| match after {
            Some(after) => query.bind(after.to_owned()),
            None => query,
        };
        let row = self.in_order(statements::BOUND, statements::bound(plan, after, rows), bind).await?;
        let key = row.map(|row| row.try_get(0)).transpose().map_err(DatabaseError::database(statements::BOUND))?;
        Ok(key.map_or(BatchEnd::End, BatchEnd::Key))
    }

    /// Registers the rows after `after` and up to the bound, and moves the position on, in one statement. Returns the
    /// counts from the first row to there; `None`: the position has changed, or another process holds the import.
    pub async fn import_batch(
        &self,
        plan: &ImportPlan,
        fence: Fence,
        after: Option<&str>,
        until: &BatchEnd,
    ) -> Result<Option<ImportTally>, DatabaseError> {
        let sql = statements::batch(self.schema(), plan, after, until);
        let bind = |query: Asked| bounds(query, after, until).bind(plan.table.name.clone()).bind(fence.0);
        let row = self.in_order(statements::BATCH, sql, bind).await?;
        row.as_ref().map(ImportTally::parse).transpose().map_err(DatabaseError::database(statements::BATCH))
    }

    /// Counts what [`Database::import_batch`] would count of this batch alone; nothing is written.
    pub async fn import_count(
        &self,
        plan: &ImportPlan,
        after: Option<&str>,
        until: &BatchEnd,
    ) -> Result<ImportTally, DatabaseError> {
        const NAME: &str = statements::COUNT;
        let sql = statements::count(self.schema(), plan, after, until);
        let row = self.in_order(NAME, sql, |query| bounds(query, after, until)).await?;
        let row = row.ok_or_else(|| DatabaseError::Inconsistent { statement: NAME, what: "no answer".into() })?;
        ImportTally::parse(&row).map_err(DatabaseError::database(NAME))
    }

    /// Runs a statement that reads the other program's table, by its index whatever PostgreSQL estimates. It gives up
    /// before others wait long for its locks, whatever pooler stands in between.
    pub(super) async fn in_order(
        &self,
        name: &'static str,
        sql: String,
        bind: impl FnOnce(Asked) -> Asked,
    ) -> Result<Option<PgRow>, DatabaseError> {
        let query = bind(sqlx::query(trusted_sql(sql)));
        let timeout = format!("{}ms", STATEMENT_TIMEOUT.as_millis());
        let run = async {
            let limits = [("lock_timeout", "200ms"), ("statement_timeout", timeout.as_str())];
            let mut transaction = self.begin_planned(&limits).await?;
            let row = query.fetch_optional(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(row)
        };
        // The server's own limit comes first: a statement given up only here would go on there.
        within(STATEMENT_TIMEOUT + Duration::from_secs(5), name, Box::pin(run)).await
    }
}

fn bounds(query: Asked, after: Option<&str>, until: &BatchEnd) -> Asked {
    query.bind(after.map(str::to_owned)).bind(until.key().map(str::to_owned))
}
