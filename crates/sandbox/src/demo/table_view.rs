//! The demo's view of the tables. It only reads.

use sqlx::{PgPool, postgres::PgPoolOptions};

use super::{
    client::options,
    environment::{Environment, OWNER},
};

#[derive(Debug)]
pub(super) struct TableView(PgPool);

/// The progress as the tables show it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) objects: i64,
    pub(super) wasabi: i64,
    pub(super) scw: i64,
    /// Objects that are recorded at every replica.
    pub(super) everywhere: i64,
    /// Rows that daemons have leased.
    pub(super) leased: i64,
    /// Copies whose last attempt failed.
    pub(super) failing: i64,
}

impl TableView {
    pub(super) fn new(environment: &Environment) -> anyhow::Result<Self> {
        let pool = PgPoolOptions::new().max_connections(3);
        Ok(Self(pool.connect_lazy_with(options(&environment.database(OWNER))?)))
    }

    pub(super) async fn counts(&self) -> sqlx::Result<Counts> {
        let counts = "SELECT count(*), count(wasabi), count(scw),
       count(*) FILTER (WHERE b2 IS NOT NULL AND wasabi IS NOT NULL AND scw IS NOT NULL),
       count(lock), (SELECT count(*) FROM copyhold.copy_failures)
FROM copyhold.object_copies";
        let (objects, wasabi, scw, everywhere, leased, failing) = sqlx::query_as(counts).fetch_one(&self.0).await?;
        Ok(Counts { objects, wasabi, scw, everywhere, leased, failing })
    }

    /// Returns the number of the daemon with this process, once it is registered.
    pub(super) async fn daemon(&self, process_id: u32) -> sqlx::Result<Option<i32>> {
        let daemon =
            "SELECT id FROM copyhold.daemons WHERE process_id = $1 AND alive_until > copyhold.now_utc_micro_seconds()";
        sqlx::query_scalar(daemon).bind(i64::from(process_id)).fetch_optional(&self.0).await
    }

    /// Returns the keys of the rows that a daemon has leased: its number is the upper part of its fences.
    pub(super) async fn held_by(&self, daemon: i32) -> sqlx::Result<Vec<String>> {
        let held = "SELECT object_key FROM copyhold.object_copies WHERE lock IS NOT NULL AND (lease >> 40)::int = $1";
        sqlx::query_scalar(held).bind(daemon).fetch_all(&self.0).await
    }

    /// Returns the keys of these whose copies are recorded everywhere.
    pub(super) async fn which_are_everywhere(&self, keys: &[String]) -> sqlx::Result<Vec<String>> {
        let which = "SELECT object_key FROM copyhold.object_copies
WHERE object_key = ANY ($1) AND b2 IS NOT NULL AND wasabi IS NOT NULL AND scw IS NOT NULL";
        sqlx::query_scalar(which).bind(keys).fetch_all(&self.0).await
    }

    /// Returns µs from registration to record at wasabi and at scw, for each object registered since this time (µs
    /// since the epoch).
    pub(super) async fn waits(&self, since: i64) -> sqlx::Result<Vec<(i64, i64)>> {
        let waits = "SELECT wasabi - created_at, scw - created_at FROM copyhold.object_copies
WHERE wasabi IS NOT NULL AND scw IS NOT NULL AND created_at >= $1";
        sqlx::query_as(waits).bind(since).fetch_all(&self.0).await
    }

    /// Returns µs from the first registration to the last record.
    pub(super) async fn took(&self) -> sqlx::Result<i64> {
        let took = "SELECT coalesce(max(greatest(wasabi, scw)) - min(created_at), 0) FROM copyhold.object_copies";
        sqlx::query_scalar(took).fetch_one(&self.0).await
    }

    /// Returns the time of the database's clock, µs since the epoch.
    pub(super) async fn now(&self) -> sqlx::Result<i64> {
        sqlx::query_scalar("SELECT copyhold.now_utc_micro_seconds()").fetch_one(&self.0).await
    }

    /// Returns why some copies are missing, for an error: the commonest reasons, one per line.
    pub(super) async fn reasons(&self) -> sqlx::Result<Vec<String>> {
        let reasons = "SELECT count(*) || ' to ' || replica || ' (' || class || '), for example ' || min(message)
FROM copyhold.copy_failures GROUP BY replica, class ORDER BY count(*) DESC LIMIT 5";
        sqlx::query_scalar(reasons).fetch_all(&self.0).await
    }

    pub(super) async fn close(&self) {
        self.0.close().await;
    }
}
