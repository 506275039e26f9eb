//! The memory of a daemon whose workers all copy huge objects.

use std::time::{Duration, Instant};

use super::copyhold_daemon::CopyholdDaemon;
use crate::common::{machine, report::at_most, stores::Stores};

/// Objects in transfer at the same time: three quarters of the workers. One target has permits for no more, and all of
/// these objects want the same targets.
const OBJECTS: u32 = 64;
const WORKERS: u32 = 85;
const FOR: Duration = Duration::from_mins(1);
const BUDGET_MIB: f64 = 256.0;
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn play() -> anyhow::Result<()> {
    println!("- {OBJECTS} workers inside objects of 5 GiB");
    // All objects have one content, which is hashed once.
    let stores = Stores::elsewhere((1..=OBJECTS).map(|i| format!("object-{i}:1:5GiB"))).await?;
    let settings = format!("[workers]\ncount = {WORKERS}\nreserved = 0\nmemory = \"{BUDGET_MIB}MiB\"\n");
    let mut ours = CopyholdDaemon::begin(&stores, &settings).await?;
    let (idle, _) = ours.daemon.resident_mib()?;
    ours.stage.register(OBJECTS).await?;
    let leased = "SELECT count(lock) FROM copyhold.object_copies";
    while ours.stage.count(leased).await? < i64::from(OBJECTS) {
        ours.daemon.check()?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let (begun, cpu) = (Instant::now(), ours.daemon.cpu_seconds()?);
    while begun.elapsed() < FOR {
        ours.daemon.check()?;
        let now = ours.stage.count(leased).await?;
        anyhow::ensure!(now == i64::from(OBJECTS), "{now} of {OBJECTS} are under way");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let (resident, peak) = ours.daemon.resident_mib()?;
    let read = ours.daemon.metrics().await?.sum("copyhold_source_bytes_total", "");
    println!(
        "{idle:.0} MiB idle, {resident:.0} MiB at the end, {peak:.0} MiB at most; {:.0} MB read, {:.1} s of CPU; {}",
        read / 1e6,
        ours.daemon.cpu_seconds()? - cpu,
        machine::load()
    );
    at_most("C4", "peak-rss-mib-64-workers", peak, BUDGET_MIB + 100.0);
    // It would be busy for minutes more, and nothing else is measured.
    ours.daemon.kill().await?;
    ours.stage.end().await?;
    stores.end().await
}
