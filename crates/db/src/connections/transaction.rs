//! A transaction on a connection of the pool. If it does not end, its connection is closed, and so it is rolled back.

use std::ops::{Deref, DerefMut};

use sqlx::{Executor as _, PgConnection};

use super::pool::{Connections, Disposal, LentConnection};

/// An open transaction.
#[derive(Debug)]
pub struct OpenTransaction(LentConnection);

impl Connections {
    /// Begins a transaction.
    pub async fn begin(&self) -> Result<OpenTransaction, sqlx::Error> {
        let mut connected = self.acquire().await?;
        let begun = connected.execute(sqlx::raw_sql("BEGIN")).await;
        connected.judge(&begun);
        begun?;
        connected.set_disposal(Disposal::Closed);
        Ok(OpenTransaction(connected))
    }
}

impl OpenTransaction {
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.end("COMMIT").await
    }

    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, statement: &'static str) -> Result<(), sqlx::Error> {
        let ended = self.0.execute(sqlx::raw_sql(statement)).await;
        self.0.judge(&ended);
        ended.map(drop)
    }
}

impl Deref for OpenTransaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for OpenTransaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}
