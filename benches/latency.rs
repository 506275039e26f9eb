//! F5: how long a small object waits, from the commit of its row to the record of both copies, while the daemon is
//! idle.
//!
//! One clock measures both ends: the wait begins when COMMIT is answered, and ends when another statement reads both
//! times, which are then committed and on disk. So it is an upper bound, too long by one query at most (1 ms and a
//! round trip). The times in the row are the starts of the statements: they exclude the commits, and are printed beside
//! it.

use std::time::{Duration, Instant};

use copyhold_core::domain::{ObjectKey, Outcome, ReplicaName, Verified};
use copyhold_db::lease::{LanePosition, Report};

use crate::common::{
    environment::{Disk, Environment},
    minimal_copy::MinimalCopier,
    play,
    report::{at_most, percentile},
    stores::Stores,
};
use anyhow::Context as _;
use sqlx::{PgPool, Row as _};
use tokio::task::JoinSet;

const BYTES: u64 = 10 * 1024;
const EVERY: Duration = Duration::from_millis(200);
const WARM_UP: u32 = 25;
const MEASURED: u32 = 400;
const BARE: u32 = 50;
const P99_MS: f64 = 100.0;
/// So long that the time limit itself misses no bar.
const AT_MOST: Duration = Duration::from_secs(30);

pub async fn run(_words: &[String]) -> anyhow::Result<()> {
    play(async || {
        for disk in Disk::BOTH {
            latency(disk).await?;
        }
        Ok(())
    })
    .await
}

async fn latency(disk: Disk) -> anyhow::Result<()> {
    let stores = Stores::here().await?;
    stores.fill(WARM_UP + MEASURED + BARE, BYTES)?;
    let stage = Environment::begin(disk, &stores, "").await?;
    let daemon = stage.daemon().await?;
    stage.until_idle(1).await?;
    let seen = register_steadily(&stage.pool).await?;
    let recorded = by_the_database(&stage.pool).await?;
    daemon.end().await?;
    let bare = bare(&stage).await?;
    let (p50, p99) = (percentile(&seen, 50), percentile(&seen, 99));
    println!(
        "seen: p50 {p50:.1} ms, p99 {p99:.1} ms, longest {:.1} ms; by the rows' own times: p50 {:.1} ms, p99 {:.1} ms",
        percentile(&seen, 100),
        percentile(&recorded, 50),
        percentile(&recorded, 99),
    );
    let floor = percentile(&bare, 50);
    println!(
        "claim, GET, two PUTs, completion, and nothing else: p50 {floor:.1} ms; we take {:.1} times that",
        p50 / floor
    );
    at_most("F5", &format!("p99-ms-{}", disk.name()), p99, P99_MS);
    stage.end().await?;
    stores.end().await
}

/// Returns the milliseconds of each object after the warm-up, sorted. A late object does not delay the next.
async fn register_steadily(pool: &PgPool) -> anyhow::Result<Vec<f64>> {
    let mut ticks = tokio::time::interval(EVERY);
    let mut waiting = JoinSet::new();
    for i in 1..=WARM_UP + MEASURED {
        ticks.tick().await;
        let waits = wait_for(pool.clone(), i);
        waiting.spawn(async move { (i, tokio::time::timeout(AT_MOST, waits).await) });
    }
    let mut seen = Vec::new();
    while let Some(waited) = waiting.join_next().await {
        let (i, waited) = waited?;
        let waited = waited.with_context(|| format!("object-{i} is not copied"))??;
        if i > WARM_UP {
            seen.push(millis(waited));
        }
    }
    Ok(sorted(seen))
}

async fn wait_for(pool: PgPool, i: u32) -> anyhow::Result<Duration> {
    let key = format!("object-{i}");
    let mut connection = pool.acquire().await?;
    sqlx::query("INSERT INTO copyhold.object_copies (object_key, b2) VALUES ($1, copyhold.now_utc_micro_seconds())")
        .bind(&key)
        .execute(&mut *connection)
        .await?;
    let committed = Instant::now();
    let look = "SELECT wasabi IS NOT NULL AND scw IS NOT NULL FROM copyhold.object_copies WHERE object_key = $1";
    while !sqlx::query_scalar::<_, bool>(look).bind(&key).fetch_one(&mut *connection).await? {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(committed.elapsed())
}

/// Returns the time from the start of the registering statement to the start of the recording one.
async fn by_the_database(pool: &PgPool) -> anyhow::Result<Vec<f64>> {
    let sql = "SELECT (greatest(wasabi, scw) - created_at) / 1000.0::float8 AS ms FROM copyhold.object_copies ORDER BY id OFFSET $1";
    let rows = sqlx::query(sql).bind(i64::from(WARM_UP)).fetch_all(pool).await?;
    Ok(sorted(rows.iter().map(|row| row.try_get("ms")).collect::<Result<_, _>>()?))
}

/// Runs the same statements and requests one after the other, in a client that knows when to begin. They are equally
/// rare, so that disk and cores are equally idle in between.
async fn bare(stage: &Environment) -> anyhow::Result<Vec<f64>> {
    let client = MinimalCopier::connect(&stage.config, 1).await?;
    let queue = stage.queue();
    let daemon = queue.register_daemon("bare".to_owned(), Duration::from_mins(1)).await?;
    let targets = [ReplicaName::new("wasabi")?, ReplicaName::new("scw")?];
    let mut took = Vec::new();
    let mut ticks = tokio::time::interval(EVERY);
    for i in WARM_UP + MEASURED + 1..=WARM_UP + MEASURED + BARE {
        ticks.tick().await;
        queue.register(&[ObjectKey::new(format!("object-{i}"))?], None).await?;
        let begun = Instant::now();
        let lease = queue
            .claim(&daemon, &targets[0], 1, LanePosition::BEGINNING)
            .await?
            .leases
            .pop()
            .context("nothing to claim")?;
        let content = client.copy(&lease.key).await?;
        let report = Report {
            key: lease.key,
            generation: lease.generation,
            fence: lease.fence,
            content: Some(content),
            outcomes: targets.iter().map(|t| (t.clone(), Outcome::recorded(Verified::Compared))).collect(),
            release: true,
            metadata: None,
            source: None,
            not_carried: None,
            survived: false,
            unsettled: Vec::new(),
        };
        queue.complete(&[report]).await?;
        took.push(millis(begun.elapsed()));
    }
    queue.deregister_daemon(daemon.id).await?;
    Ok(sorted(took))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}
