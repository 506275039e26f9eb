//! Queries about the server itself: whether it answers, its clock, and the settings of our sessions.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{
    connections::{Connections, ReadOnlyCause, ReadOnlyServer, SESSION_SETTINGS},
    error::{DatabaseError, with_timeout},
    handle::Database,
    sql::trusted_sql,
};

impl Database {
    /// One round trip: checks whether PostgreSQL answers, and whether it is writable.
    pub async fn probe(&self) -> Result<Option<ReadOnlyServer>, DatabaseError> {
        probe(&self.pool).await
    }

    /// Returns the time of the server's clock.
    pub async fn server_time(&self) -> Result<SystemTime, DatabaseError> {
        const NAME: &str = "server::server_time";
        let sql = "-- server::server_time
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let micros: i64 = with_timeout(NAME, sqlx::query_scalar(sql).fetch_one(&self.pool)).await?;
        Ok(UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or_default()))
    }

    /// Returns the time of the schema's clock function, in µs since the epoch.
    pub async fn database_now(&self) -> Result<i64, DatabaseError> {
        let sql =
            trusted_sql(format!("-- server::database_now\nSELECT {}.now_utc_micro_seconds()", self.schema.quoted()));
        with_timeout("server::database_now", sqlx::query_scalar(sql).fetch_one(&self.pool)).await
    }

    /// Settings of this role's sessions that statements rely on and that have other values, each in a clause: behind a
    /// pooler a daemon cannot set them.
    pub async fn session_deviations(&self) -> Result<Vec<String>, DatabaseError> {
        const NAME: &str = "server::session_deviations";
        let sql = "-- server::session_deviations
SELECT w.name, current_setting(w.name) FROM unnest($1::text[], $2::text[]) AS w(name, value)
 WHERE current_setting(w.name) <> w.value";
        // Limits may differ, and are shown in other units.
        let of_taste = |name: &str| name.ends_with("_timeout") || ["jit", "client_min_messages"].contains(&name);
        let relied_on = SESSION_SETTINGS.iter().filter(|(name, _)| !of_taste(name));
        let (names, values): (Vec<_>, Vec<_>) = relied_on.copied().unzip();
        let query = sqlx::query_as(sql).bind(&names).bind(values).fetch_all(&self.pool);
        let found: Vec<(String, String)> = with_timeout(NAME, query).await?;
        Ok(found.into_iter().map(|(name, value)| format!("{name} is {value}")).collect())
    }
}

/// One round trip: checks whether PostgreSQL answers, and whether it is writable.
pub async fn probe(pool: &Connections) -> Result<Option<ReadOnlyServer>, DatabaseError> {
    const NAME: &str = "server::probe";
    let sql = "-- server::probe
SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'";
    let (recovers, read_only) = with_timeout(NAME, sqlx::query_as(sql).fetch_one(pool)).await?;
    let cause = match (recovers, read_only) {
        (true, _) => ReadOnlyCause::Recovery,
        (false, true) => ReadOnlyCause::Setting,
        (false, false) => return Ok(None),
    };
    let known = pool.read_only().filter(|known| known.cause == cause);
    Ok(Some(known.unwrap_or_else(|| ReadOnlyServer { at: "the end of database.url".to_owned(), cause })))
}
