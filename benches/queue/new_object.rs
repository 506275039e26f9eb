//! How long a new object waits during a backfill that keeps every other worker busy.

use std::time::Duration;

use anyhow::Context as _;
use copyhold_sandbox::s3::{Fault, Op, When};

use crate::common::{
    daemon::Daemon,
    database::DatabaseServer,
    report::{at_most, percentile},
    stores::Stores,
};

const BACKFILL: u32 = 1_000_000;
/// The objects of the backfill, more than are copied meanwhile.
const THERE: u32 = 40_000;
const BYTES: u64 = 1024;
/// The stores' latency, so high that each object keeps a worker busy for long.
const DISTANCE: Duration = Duration::from_millis(200);
const FRESH: u32 = 240;
const EVERY: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_mins(2);

pub(super) async fn play(grounds: &DatabaseServer) -> anyhow::Result<()> {
    let stores = Stores::here().await?;
    stores.fill(THERE, BYTES)?;
    for target in ["wasabi", "scw"] {
        stores.bucket(target)?.order(Fault::Delay(DISTANCE), When::op(Op::PutObject));
    }
    let ground = grounds.make("backfill").await?;
    ground.fill(&stores, BACKFILL, "'object-' || i", "true").await?;
    let (folder, config) = ground.configured(&stores)?;
    let mut daemon = Daemon::start(folder.path()).await?;
    let busy = i64::try_from(config.workers.count - config.workers.reserved)?;
    let leased = "SELECT count(*) FROM copyhold.object_copies WHERE lock IS NOT NULL";
    while ground.count(leased).await? < busy {
        daemon.check()?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let copied = "SELECT count(wasabi) FROM copyhold.object_copies WHERE object_key LIKE 'object-%'";
    let before = ground.count(copied).await?;
    let mut ticks = tokio::time::interval(EVERY);
    for i in 1..=FRESH {
        ticks.tick().await;
        let key = format!("fresh-{i}");
        stores.bucket("b2")?.put(&key, vec![7; 1024]);
        sqlx::query(
            "INSERT INTO copyhold.object_copies (object_key, b2) VALUES ($1, copyhold.now_utc_micro_seconds())",
        )
        .bind(key)
        .execute(&ground.pool)
        .await?;
    }
    let during = ground.count(copied).await? - before;
    let wait =
        "SELECT count(*) FROM copyhold.object_copies WHERE object_key LIKE 'fresh-%' AND coalesce(wasabi, scw) IS NULL";
    let all = async {
        while ground.count(wait).await? > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, all).await.context("fresh objects are not copied")??;
    daemon.check()?;
    let waits = "SELECT ((least(wasabi, scw) - created_at) / 1000.0)::float8 FROM copyhold.object_copies
                 WHERE object_key LIKE 'fresh-%' ORDER BY 1";
    let waits: Vec<f64> = sqlx::query_scalar(waits).fetch_all(&ground.pool).await?;
    println!(
        "{FRESH} fresh objects during a backfill of {BACKFILL}, of which {during} were copied meanwhile: p50 {:.0} ms, p99 {:.0} ms, longest {:.0} ms",
        percentile(&waits, 50),
        percentile(&waits, 99),
        percentile(&waits, 100)
    );
    at_most("Q4", "fresh-p99-ms", percentile(&waits, 99), 2000.0);
    daemon.end().await?;
    grounds.clear(ground).await?;
    stores.end().await
}
