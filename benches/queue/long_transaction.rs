//! The cost of another program's long transaction: VACUUM removes no dead row while it lasts.

use std::time::{Duration, Instant};

use anyhow::bail;
use sqlx::{Connection as _, PgConnection};

use super::copyhold_queue::{self, Claimer};
use crate::common::{
    comparison::{Rates, StopCondition},
    daemon::Daemon,
    database::{BenchDatabase, DatabaseServer},
    report::{at_least, percentile},
    stores::Stores,
};

/// All objects are missing, so that the work lasts for a minute.
const ROWS: u32 = 2_000_000;
const MEASURED_FOR: Duration = Duration::from_mins(1);
const TEMPLATE: &str = "pinned";
const INSERT_EVERY: Duration = Duration::from_millis(100);
const INSERTS: u32 = 600;
const BYTES: u64 = 1024;

pub(super) async fn play(grounds: &DatabaseServer) -> anyhow::Result<()> {
    let stores = Stores::here().await?;
    stores.fill(INSERTS, BYTES)?;
    let template = grounds.make(TEMPLATE).await?;
    template.fill(&stores, ROWS, "'backfill-' || md5(i::text)", "true").await?;
    template.pool.close().await;
    let goal = StopCondition { objects: u64::from(ROWS), at_most: MEASURED_FOR };
    let (mut without, mut with) = (Rates::default(), Rates::default());

    let ground = grounds.copy(TEMPLATE).await?;
    without.add(copyhold_queue::play(&ground, &stores, &goal).await?);
    drain(&ground, &stores).await?;
    let quick = after_the_drain(&ground, &stores).await?;
    println!("without a transaction elsewhere, {quick:.1} % of a daemon's claims took no more than 10 ms");
    grounds.clear(ground).await?;

    let ground = grounds.copy(TEMPLATE).await?;
    let pin = Pin::set(&ground).await?;
    with.add(copyhold_queue::play(&ground, &stores, &goal).await?);
    drain(&ground, &stores).await?;
    let quick = after_the_drain(&ground, &stores).await?;
    at_least("Q2", "percent-of-claims-within-10-ms", quick, 99.0);
    pin.take_away().await?;
    grounds.clear(ground).await?;

    let ground = grounds.copy(TEMPLATE).await?;
    let pin = Pin::set(&ground).await?;
    with.add(copyhold_queue::play(&ground, &stores, &goal).await?);
    pin.take_away().await?;
    grounds.clear(ground).await?;

    let ground = grounds.copy(TEMPLATE).await?;
    without.add(copyhold_queue::play(&ground, &stores, &goal).await?);
    grounds.clear(ground).await?;
    grounds.forget(TEMPLATE).await?;

    println!("with a transaction open elsewhere {with}, without {without}");
    at_least("Q2", "rate-with-by-rate-without", with.median() / without.median(), 0.7);
    stores.end().await
}

/// Another program's transaction, open since before the work began.
struct Pin(PgConnection);

impl Pin {
    async fn set(ground: &BenchDatabase) -> anyhow::Result<Self> {
        let mut connection = ground.connect().await?;
        sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM copyhold.replicas")
            .execute(&mut connection)
            .await?;
        Ok(Self(connection))
    }

    async fn take_away(mut self) -> anyhow::Result<()> {
        sqlx::raw_sql("COMMIT").execute(&mut self.0).await?;
        Ok(self.0.close().await?)
    }
}

/// Works until a million rows are done, if the minute was too short for that, and then drops the others.
async fn drain(ground: &BenchDatabase, stores: &Stores) -> anyhow::Result<()> {
    let done = ground.count("SELECT count(wasabi) FROM copyhold.object_copies").await?;
    let rest = u64::try_from((1_000_000 - done).max(0))?;
    let score =
        copyhold_queue::play(ground, stores, &StopCondition { objects: rest, at_most: Duration::from_mins(5) }).await?;
    if score.objects < rest {
        bail!("a million rows could not be drained: {score}");
    }
    // The remaining copies are no longer wanted, because a daemon with a backlog is never idle.
    ground.execute("UPDATE copyhold.object_copies SET due_wasabi = NULL, due_scw = NULL WHERE wasabi IS NULL").await
}

/// Gives a daemon whose lanes are full of dead entries one object after the other. Returns the percentage of its claims
/// that took no more than 10 ms.
async fn after_the_drain(ground: &BenchDatabase, stores: &Stores) -> anyhow::Result<f64> {
    let (folder, config) = ground.configured(stores)?;
    let mut daemon = Daemon::start(folder.path()).await?;
    while ground.count("SELECT count(*) FROM copyhold.daemons WHERE sleeping").await? == 0 {
        daemon.check()?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = daemon.metrics().await?;
    let mut ticks = tokio::time::interval(INSERT_EVERY);
    for i in 1..=INSERTS {
        ticks.tick().await;
        sqlx::query("INSERT INTO copyhold.object_copies (object_key, b2) VALUES ('object-' || $1, copyhold.now_utc_micro_seconds())")
            .bind(i64::from(i))
            .execute(&ground.pool)
            .await?;
    }
    let missing = "SELECT count(*) FROM copyhold.object_copies WHERE object_key LIKE 'object-%' AND (wasabi IS NULL OR scw IS NULL)";
    while ground.count(missing).await? > 0 {
        daemon.check()?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = daemon.metrics().await?;
    daemon.end().await?;
    let claims = |label| {
        let sum = |m: &crate::common::metrics::Metrics| m.sum("copyhold_claim_seconds_bucket", label);
        sum(&after) - sum(&before)
    };
    let (all, quick) = (claims("le=\"+Inf\""), claims("le=\"0.01\""));
    println!(
        "a daemon after that, one insert every {INSERT_EVERY:?}: {all:.0} claims, {:.0} of them longer than 10 ms",
        all - quick
    );

    // The same again, one claim at a time.
    let (queue, lane) = ground.queue(&config)?;
    let lease = Duration::from_mins(10);
    let mut claimer = Claimer::new(queue.clone(), queue.register_daemon("bench".to_owned(), lease).await?, lane);
    let mut took = Vec::new();
    for i in 1..=INSERTS / 4 {
        ticks.tick().await;
        sqlx::query("INSERT INTO copyhold.object_copies (object_key, b2) VALUES ('late-' || $1, copyhold.now_utc_micro_seconds())")
            .bind(i64::from(i))
            .execute(&ground.pool)
            .await?;
        let asked = Instant::now();
        let leases = claimer.claim(32).await?.leases;
        took.push(asked.elapsed().as_secs_f64() * 1000.0);
        claimer.complete(leases).await?;
    }
    took.sort_by(f64::total_cmp);
    println!(
        "a claim alone: p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
        percentile(&took, 50),
        percentile(&took, 95),
        percentile(&took, 99),
        percentile(&took, 100)
    );
    Ok(100.0 * quick / all)
}
