//! F3: four daemons of 16 workers copy 10,000 objects, and while no daemon dies no store sees an object uploaded twice.
//!
//! The stores count what they accepted. The benchmark also prints the throughput, and the throughput of a minimal
//! client with the same requests on the same machine: both share the cores with the stores and PostgreSQL.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use copyhold_core::domain::ObjectKey;
use copyhold_sandbox::s3::Op;

use crate::common::{
    daemon::Daemon,
    environment::{Disk, Environment},
    minimal_copy::MinimalCopier,
    play,
    report::at_most,
    stores::Stores,
};
use tokio::task::JoinSet;

const DAEMONS: u32 = 4;
const WORKERS: u32 = 16;
const OBJECTS: u32 = 10_000;
const BYTES: u64 = 10 * 1024;
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub async fn run(_words: &[String]) -> anyhow::Result<()> {
    play(async || {
        for disk in Disk::BOTH {
            exactly_once(disk).await?;
        }
        Ok(())
    })
    .await
}

async fn exactly_once(disk: Disk) -> anyhow::Result<()> {
    let stores = Stores::here().await?;
    stores.fill(OBJECTS, BYTES)?;
    let stage = Environment::begin(disk, &stores, &format!("[workers]\ncount = {WORKERS}\n")).await?;
    let mut daemons = Vec::new();
    for _ in 0..DAEMONS {
        daemons.push(stage.daemon().await?);
    }
    stage.until_idle(i64::from(DAEMONS)).await?;
    stage.register(OBJECTS).await?;
    while stage.unfinished().await? > 0 {
        daemons.iter_mut().try_for_each(Daemon::check)?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let rate = f64::from(OBJECTS) / stage.took().await?.as_secs_f64();
    let cpu = daemons.iter().map(Daemon::cpu_seconds).sum::<anyhow::Result<f64>>()?;
    let wrong = not_once(&stores)?;
    let reads = f64::from(u32::try_from(stores.bucket("b2")?.calls(Op::GetObject))?);
    for daemon in daemons {
        daemon.end().await?;
    }
    let floor = bare(&stage).await?;
    println!(
        "speed: {rate:.0} objects/s to two targets, {:.2} ms of the daemons' CPU and {:.2} reads per object; \
         a bare client {floor:.0} objects/s: {:.1} times ours",
        cpu * 1000.0 / f64::from(OBJECTS),
        reads / f64::from(OBJECTS),
        floor / rate
    );
    at_most("F3", &format!("not-uploaded-once-{}", disk.name()), wrong, 0);
    stage.end().await?;
    stores.end().await
}

/// Returns the number of copies that were uploaded more than once, or never.
fn not_once(stores: &Stores) -> anyhow::Result<usize> {
    let mut wrong = 0;
    for target in ["wasabi", "scw"] {
        let uploads = stores.bucket(target)?.counts(copyhold_sandbox::s3::Counts::writes_by_key);
        wrong += (1..=OBJECTS).filter(|i| uploads.get(&format!("object-{i}")) != Some(&1)).count();
    }
    Ok(wrong)
}

/// Returns objects per second without PostgreSQL, with as many at once as the daemons had workers.
async fn bare(stage: &Environment) -> anyhow::Result<f64> {
    let at_once = DAEMONS * WORKERS;
    let client = Arc::new(MinimalCopier::connect(&stage.config, at_once as usize).await?);
    let next = Arc::new(AtomicU32::new(1));
    let mut workers = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..at_once {
        let (client, next) = (Arc::clone(&client), Arc::clone(&next));
        workers.spawn(async move {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i > OBJECTS {
                    return anyhow::Ok(());
                }
                client.copy(&ObjectKey::new(format!("object-{i}"))?).await?;
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(f64::from(OBJECTS) / begun.elapsed().as_secs_f64())
}
