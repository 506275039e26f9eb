//! How long a new object waits for an idle daemon: from the commit of the application's insert until its lease is
//! visible, by one clock, too long by one query at most (1 ms and a round trip). As `herd`: the cost with eight idle
//! daemons.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use rand::RngExt as _;

use crate::common::{
    environment::{Disk, Environment},
    report::{at_most, percentile},
    stores::Stores,
};

const WARM_UP: u32 = 20;
const MEASURED: u32 = 200;
/// Objects per run without notifications; each waits for a poll.
const WITHOUT_NOTICE: u32 = 12;
const HERD: usize = 8;
const COUNTED: u32 = 100;
/// The time between two objects whose statements are counted.
const EVERY: Duration = Duration::from_millis(100);

pub(super) async fn play() -> anyhow::Result<()> {
    for disk in Disk::BOTH {
        let stores = Stores::here().await?;
        stores.fill(WARM_UP + MEASURED + WITHOUT_NOTICE, 1024)?;
        let stage = Environment::begin(disk, &stores, "").await?;
        let daemon = stage.daemon().await?;
        let mut next = 1;
        let name = disk.name();

        let waits = pick_ups(&stage, 1, &mut next, WARM_UP + MEASURED).await?;
        tell(&format!("{name}, one daemon"), &waits);
        at_most("E4", &format!("p50-ms-{name}"), percentile(&waits, 50), 5.0);
        at_most("E4", &format!("p99-ms-{name}"), percentile(&waits, 99), 25.0);

        sqlx::raw_sql("ALTER TABLE copyhold.object_copies DISABLE TRIGGER wake_sleepers").execute(&stage.pool).await?;
        let waits = pick_ups(&stage, 1, &mut next, WITHOUT_NOTICE).await?;
        tell(&format!("{name}, notices lost"), &waits);
        // The poll interval is five seconds, and a fifth more at most.
        at_most("E4", &format!("longest-ms-notices-lost-{name}"), percentile(&waits, 100), 6_100.0);
        sqlx::raw_sql("ALTER TABLE copyhold.object_copies ENABLE TRIGGER wake_sleepers").execute(&stage.pool).await?;

        daemon.end().await?;
        stage.end().await?;
        stores.end().await?;
    }
    polling().await
}

/// Measures the cost of notifying all daemons.
pub(super) async fn herd() -> anyhow::Result<()> {
    let stores = Stores::here().await?;
    stores.fill(WARM_UP + MEASURED + 2 * COUNTED, 1024)?;
    let stage = Environment::begin(Disk::Plain, &stores, "").await?;
    let (mut daemons, mut next) = (vec![stage.daemon().await?], 1);
    let alone = statements(&stage, 1, &mut next).await?;
    while daemons.len() < HERD {
        daemons.push(stage.daemon().await?);
    }
    let all = statements(&stage, HERD, &mut next).await?;
    println!("statements per object, 10 objects/s: {alone:.1} with one daemon, {all:.1} with {HERD}");
    let waits = pick_ups(&stage, HERD, &mut next, WARM_UP + MEASURED).await?;
    tell(&format!("{HERD} daemons"), &waits);
    for daemon in daemons {
        daemon.end().await?;
    }
    stage.end().await?;
    stores.end().await
}

async fn polling() -> anyhow::Result<()> {
    let stores = Stores::here().await?;
    stores.fill(WITHOUT_NOTICE, 1024)?;
    let stage = Environment::begin(Disk::Plain, &stores, "").await?;
    stage.configure_database("wakeup = \"poll\"")?;
    let daemon = stage.daemon().await?;
    let waits = pick_ups(&stage, 0, &mut 1, WITHOUT_NOTICE).await?;
    tell("wakeup = \"poll\"", &waits);
    at_most("E4", "longest-ms-poll", percentile(&waits, 100), 1_300.0);
    daemon.end().await?;
    stage.end().await?;
    stores.end().await
}

fn tell(what: &str, waits: &[f64]) {
    println!(
        "{what}: from commit to claim p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms of {}",
        percentile(waits, 50),
        percentile(waits, 99),
        percentile(waits, 100),
        waits.len()
    );
}

/// Returns milliseconds, sorted, without the first few if there are many. Each object is inserted when everything is
/// idle.
async fn pick_ups(stage: &Environment, sleepers: usize, next: &mut u32, objects: u32) -> anyhow::Result<Vec<f64>> {
    let mut waits = Vec::new();
    for i in 0..objects {
        while stage.unfinished().await? > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stage.until_idle(i64::try_from(sleepers)?).await?;
        let pause = rand::rng().random_range(20..60);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let took = pick_up(stage, *next).await.with_context(|| format!("object-{next}"))?;
        *next += 1;
        if i >= WARM_UP || objects < WARM_UP {
            waits.push(took.as_secs_f64() * 1000.0);
        }
    }
    waits.sort_by(f64::total_cmp);
    Ok(waits)
}

async fn register(stage: &Environment, i: u32) -> anyhow::Result<()> {
    sqlx::query("INSERT INTO copyhold.object_copies (object_key, b2) VALUES ($1, copyhold.now_utc_micro_seconds())")
        .bind(format!("object-{i}"))
        .execute(&stage.pool)
        .await?;
    Ok(())
}

async fn pick_up(stage: &Environment, i: u32) -> anyhow::Result<Duration> {
    register(stage, i).await?;
    let committed = Instant::now();
    let look = "SELECT lock IS NOT NULL OR wasabi IS NOT NULL FROM copyhold.object_copies WHERE object_key = $1";
    while !sqlx::query_scalar::<_, bool>(look).bind(format!("object-{i}")).fetch_one(&stage.pool).await? {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(committed.elapsed())
}

/// Returns transactions per object that is registered while all daemons are idle, above the number without objects.
async fn statements(stage: &Environment, daemons: usize, next: &mut u32) -> anyhow::Result<f64> {
    stage.until_idle(i64::try_from(daemons)?).await?;
    let idle = transactions(stage, async || {
        tokio::time::sleep(EVERY * COUNTED).await;
        Ok(())
    });
    let idle = idle.await?;
    let busy = transactions(stage, async || {
        let mut ticks = tokio::time::interval(EVERY);
        for _ in 0..COUNTED {
            ticks.tick().await;
            register(stage, *next).await?;
            *next += 1;
        }
        ticks.tick().await;
        Ok(())
    });
    Ok((busy.await? - idle) / f64::from(COUNTED))
}

async fn transactions(stage: &Environment, during: impl AsyncFnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    // Idle sessions report their statistics after ten seconds.
    const TOLD: Duration = Duration::from_secs(12);
    let count = "SELECT (xact_commit + xact_rollback)::float8 FROM pg_stat_database WHERE datname = current_database()";
    tokio::time::sleep(TOLD).await;
    let before: f64 = sqlx::query_scalar(count).fetch_one(&stage.pool).await?;
    during().await?;
    tokio::time::sleep(TOLD).await;
    let after: f64 = sqlx::query_scalar(count).fetch_one(&stage.pool).await?;
    Ok(after - before)
}
