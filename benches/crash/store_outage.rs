//! How one unavailable or slow replica affects the others.

use std::time::Duration;

use copyhold_sandbox::s3::{Fault, Op, When};
use tokio::time::Instant;

use super::registration_load::{Application, until_none};
use crate::common::{
    daemon::Daemon,
    environment::{Disk, Environment},
    report::{at_least, at_most, percentile},
    stores::Stores,
};

const BYTES: u64 = 1024;
const EVERY: Duration = Duration::from_millis(20);
/// The length of each outage of a replica, and of each healthy phase in between.
const AWAY: Duration = Duration::from_secs(30);
const DRAINED_WITHIN: Duration = Duration::from_mins(5);
const MISSING: &str =
    "SELECT count(*) FROM copyhold.object_copies WHERE wasabi IS NULL OR scw IS NULL OR lock IS NOT NULL";
const UPDATES: &str =
    "SELECT n_tup_upd FROM pg_stat_user_tables WHERE (schemaname, relname) = ('copyhold', 'object_copies')";
/// The greatest age of the statistics: a busy session reports its work once a second, an idle one after ten.
const STATISTICS_LAG: Duration = Duration::from_secs(12);

pub(super) async fn play() -> anyhow::Result<()> {
    println!("- a target away");
    target_away().await?;
    println!("- the primary away");
    primary_away().await?;
    println!("- a target that takes 30 s per object");
    slow_target().await
}

/// The daemon's work so far.
struct Ledger {
    claimed: f64,
    probes: i64,
}

impl Ledger {
    async fn read(stage: &Environment, daemon: &Daemon) -> anyhow::Result<Self> {
        Ok(Self {
            claimed: daemon.metrics().await?.sum("copyhold_claims_total", ""),
            probes: stage.count("SELECT sum(probes_failed)::bigint FROM copyhold.replicas").await?,
        })
    }
}

async fn target_away() -> anyhow::Result<()> {
    let stores = Stores::here().await?;
    stores.fill(60_000, BYTES)?;
    let stage = Environment::begin(Disk::Plain, &stores, "").await?;
    let mut daemon = stage.daemon().await?;
    let application = Application::default();
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let play = async {
        application.during(Duration::from_secs(5)).await;
        for fault in [Fault::Reset, Fault::Stall] {
            let well = application.during(AWAY).await;
            without.extend(well.lags(&stage).await?);
            let before = Ledger::read(&stage, &daemon).await?;
            let outage = stores.bucket("wasabi")?.order(fault.clone(), When::always());
            let away = application.during(AWAY).await;
            let after = Ledger::read(&stage, &daemon).await?;
            outage.clear();
            with.extend(away.lags(&stage).await?);
            let drained = until_none(
                &stage,
                &mut daemon,
                "SELECT count(*) FROM copyhold.object_copies WHERE wasabi IS NULL AND created_at < copyhold.now_utc_micro_seconds() - 2000000",
                DRAINED_WITHIN,
            )
            .await?;
            let beyond = after.claimed - before.claimed - f64::from(away.objects());
            println!(
                "{fault:?} for {AWAY:?}: {} objects registered, {beyond:.0} rows claimed beyond them, {} probes failed; drained {:.1} s after its end",
                away.objects(),
                after.probes,
                drained.as_secs_f64()
            );
            // Each worker may have begun a copy before the first failures are known.
            let few = f64::from(u32::try_from(after.probes)?) + 32.0;
            at_most("Q6", &format!("claims-for-a-target-away-{fault:?}"), beyond, few);
        }
        application.end();
        anyhow::Ok(())
    };
    tokio::try_join!(application.run(&stage, EVERY), play)?;
    for lags in [&mut with, &mut without] {
        lags.sort_by(f64::total_cmp);
    }
    for percent in [50, 95] {
        let (with, without) = (percentile(&with, percent), percentile(&without, percent));
        println!("the other target's lag, p{percent}: {with:.1} ms with the outage, {without:.1} ms without");
        at_most("Q6", &format!("lag-p{percent}-with-by-without"), with / without, 1.1);
    }
    daemon.end().await?;
    stage.end().await?;
    stores.end().await
}

async fn primary_away() -> anyhow::Result<()> {
    let stores = Stores::here().await?;
    stores.fill(20_000, BYTES)?;
    let stage = Environment::begin(Disk::Plain, &stores, "").await?;
    let mut daemon = stage.daemon().await?;
    let application = Application::default();
    let play = async {
        application.during(Duration::from_secs(5)).await;
        let outage = stores.bucket("b2")?.order(Fault::Reset, When::always());
        tokio::time::sleep(STATISTICS_LAG).await;
        let before = stage.count(UPDATES).await?;
        let away = application.during(AWAY).await;
        tokio::time::sleep(STATISTICS_LAG).await;
        let updates = f64::from(u32::try_from(stage.count(UPDATES).await? - before)?);
        let rows = f64::from(away.objects());
        let attempts = stage.count("SELECT coalesce(sum(attempts), 0)::bigint FROM copyhold.copy_failures").await?;
        outage.clear();
        application.end();
        let drained = until_none(&stage, &mut daemon, MISSING, DRAINED_WITHIN).await?;
        println!("{rows} rows, {updates} updates; drained {:.1} s after its end", drained.as_secs_f64());
        at_most("Q6", "updates-per-row-without-a-source", updates / rows, 2.0);
        at_most("Q6", "attempts-counted-without-a-source", attempts, 0);
        anyhow::Ok(())
    };
    tokio::try_join!(application.run(&stage, EVERY), play)?;
    daemon.end().await?;
    stage.end().await?;
    stores.end().await
}

/// Measures the throughput of the other target, which never runs out of work, beside a slow target and, in turns,
/// beside a paused one. The target has a usual latency, so that workers are scarce, and not the cores that all
/// processes share.
async fn slow_target() -> anyhow::Result<()> {
    const OBJECTS: u32 = 80_000;
    const TURN: Duration = Duration::from_secs(20);
    let stores = Stores::here().await?;
    stores.fill(OBJECTS, BYTES)?;
    let stage = Environment::begin(Disk::Plain, &stores, "").await?;
    let queue = stage.queue();
    let wasabi = copyhold_core::domain::ReplicaName::new("wasabi")?;
    stores.bucket("wasabi")?.order(Fault::Delay(Duration::from_secs(30)), When::op(Op::PutObject));
    stores.bucket("scw")?.order(Fault::Delay(Duration::from_millis(100)), When::op(Op::PutObject));
    let mut daemon = stage.daemon().await?;
    stage.register(OBJECTS).await?;
    let done = "SELECT count(scw) FROM copyhold.object_copies";
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        for (rates, paused) in [(&mut beside, false), (&mut alone, true)] {
            if paused {
                queue.pause(&wasabi, None, Some("measured without it")).await?;
            } else {
                queue.resume(&wasabi).await?;
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
            let (begun, before) = (Instant::now(), stage.count(done).await?);
            tokio::time::sleep(TURN).await;
            daemon.check()?;
            let copies = u32::try_from(stage.count(done).await? - before)?;
            rates.push(f64::from(copies) / begun.elapsed().as_secs_f64());
        }
    }
    let left = stage.count("SELECT count(*) FROM copyhold.object_copies WHERE scw IS NULL").await?;
    anyhow::ensure!(left > 0, "it ran out of work");
    for rates in [&mut alone, &mut beside] {
        rates.sort_by(f64::total_cmp);
    }
    println!("the other target's copies per second: beside the slow one {beside:.0?}, alone {alone:.0?}");
    at_least("Q6", "throughput-beside-a-slow-target-by-alone", percentile(&beside, 50) / percentile(&alone, 50), 0.9);
    drop(daemon);
    stage.end().await?;
    stores.end().await
}
