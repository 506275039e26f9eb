//! Statements that change the schema, sent one by one.

use std::time::Duration;

use sqlx::PgConnection;
use tracing::warn;

use crate::{error::DatabaseError, retry_while_down::jittered, sql::trusted_sql};

/// Sends one statement by itself.
pub(crate) async fn execute(connection: &mut PgConnection, sql: String) -> Result<(), DatabaseError> {
    sqlx::raw_sql(trusted_sql(sql)).execute(connection).await.map_err(DatabaseError::database("schema::migrate"))?;
    Ok(())
}

/// Runs an ALTER that briefly needs an exclusive lock on the table, without queueing in front of the application: it
/// gives up after 30 ms and tries again for as long as it takes, and logs which sessions hold the table. Behind one
/// open reader a waiting ALTER held up an INSERT for 4.3 s; like this, for 35 ms.
pub(crate) async fn execute_politely(
    connection: &mut PgConnection,
    table: &str,
    sql: &str,
) -> Result<(), DatabaseError> {
    let mut tries = 0_u32;
    loop {
        let polite = format!("BEGIN; SET LOCAL lock_timeout = '30ms'; {sql}; COMMIT");
        match execute(connection, polite).await {
            Err(e) if e.sqlstate().as_deref() == Some("55P03") => {
                execute(connection, "ROLLBACK".into()).await?;
                if tries.is_multiple_of(50) {
                    let others = in_the_way(connection, table).await?;
                    warn!(tries, "Waiting for {table}, which is in use by {others}");
                }
                tries += 1;
                tokio::time::sleep(jittered(Duration::from_millis(100))).await;
            }
            Err(e) => {
                // The caller gets the error of the failed statement, not of this one.
                let _ = execute(connection, "ROLLBACK".into()).await;
                return Err(e);
            }
            Ok(()) => return Ok(()),
        }
    }
}

async fn in_the_way(connection: &mut PgConnection, table: &str) -> Result<String, DatabaseError> {
    let others: Option<String> = sqlx::query_scalar(
        "-- schema::migrate
SELECT string_agg(DISTINCT format('pid %s (%s, %s since %s)', a.pid, coalesce(nullif(a.application_name, ''), 'no name'),
                         a.state, date_trunc('second', a.xact_start)), ', ')
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.relation = to_regclass($1) AND l.granted AND a.pid <> pg_backend_pid()",
    )
    .bind(table)
    .fetch_one(connection)
    .await
    .map_err(DatabaseError::database("schema::migrate"))?;
    Ok(others.unwrap_or_else(|| "sessions that have just ended".into()))
}
