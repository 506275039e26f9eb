use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use crate::common::{daemon::Daemon, environment::Environment};

/// An application that registers the objects of the environment in order, at a steady rate.
#[derive(Default)]
pub(super) struct Application {
    registered: AtomicU32,
    over: AtomicBool,
}

/// The objects that were registered within some time, by the numbers in their keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) first: u32,
    pub(super) last: u32,
}

impl Application {
    /// Registers one object per interval, until the run ends.
    pub(super) async fn run(&self, stage: &Environment, every: Duration) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(every);
        while !self.over.load(Ordering::Relaxed) {
            ticks.tick().await;
            let i = self.registered.load(Ordering::Relaxed) + 1;
            sqlx::query(
                "INSERT INTO copyhold.object_copies (object_key, b2) VALUES ('object-' || $1, copyhold.now_utc_micro_seconds())",
            )
            .bind(i64::from(i))
            .execute(&stage.pool)
            .await?;
            self.registered.store(i, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Waits this long and returns the objects that were registered meanwhile.
    pub(super) async fn during(&self, time: Duration) -> Span {
        let first = self.registered.load(Ordering::Relaxed) + 1;
        sleep(time).await;
        Span { first, last: self.registered.load(Ordering::Relaxed) }
    }
}

impl Span {
    pub(super) fn objects(self) -> u32 {
        (self.last + 1).saturating_sub(self.first)
    }

    /// Returns milliseconds from registration to the record at scw, for each of these objects, sorted.
    pub(super) async fn lags(self, stage: &Environment) -> anyhow::Result<Vec<f64>> {
        let sql = "SELECT ((scw - created_at) / 1000.0)::float8 FROM copyhold.object_copies
WHERE object_key = ANY (SELECT 'object-' || i FROM generate_series($1::bigint, $2) i) AND scw IS NOT NULL ORDER BY 1";
        let sql = sqlx::query_scalar(sql).bind(i64::from(self.first)).bind(i64::from(self.last));
        Ok(sql.fetch_all(&stage.pool).await?)
    }
}

/// Waits until a query's only value is 0.
pub(super) async fn until_none(
    stage: &Environment,
    daemon: &mut Daemon,
    query: &'static str,
    at_most: Duration,
) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let none = async {
        while stage.count(query).await? > 0 {
            daemon.check()?;
            sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(at_most, none).await.with_context(|| format!("never nothing: {query}"))??;
    Ok(begun.elapsed())
}
