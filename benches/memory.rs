//! F4: resident memory of a daemon that copies eight objects of 1 GiB at once to two targets on a budget of 64 MiB.
//!
//! The measured daemon is the real program in its own process. The stores are another process, whose source makes its
//! bytes from seeds and whose targets keep only hashes. Memory does not depend on the disk, so there is one run.

use std::time::Duration;

use copyhold_sandbox::s3::Synthetic;

use crate::common::{
    daemon::Daemon,
    environment::{Disk, Environment},
    machine, play,
    report::at_most,
    stores::Stores,
};
use anyhow::bail;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use md5::{Digest as _, Md5};

const OBJECTS: u32 = 8;
const GIB: u64 = 1 << 30;
const BUDGET_MIB: f64 = 64.0;
const PEAK_MIB: f64 = 150.0;
/// Often enough to see that all objects are under way at once; a GiB takes seconds.
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub async fn run(_words: &[String]) -> anyhow::Result<()> {
    play(memory).await
}

async fn memory() -> anyhow::Result<()> {
    let stores = Stores::elsewhere((1..=OBJECTS).map(|i| format!("object-{i}:{i}:{GIB}"))).await?;
    let stage = Environment::begin(Disk::Plain, &stores, "[workers]\nmemory = \"64MiB\"\n").await?;
    let mut daemon = stage.daemon().await?;
    stage.until_idle(1).await?;
    let (idle, _) = daemon.resident_mib()?;
    let most_at_once = copy_all(&stage, &mut daemon).await?;
    let (_, peak) = daemon.resident_mib()?;
    compare(&stage).await?;
    say_speed(&stage, &daemon).await?;
    println!(
        "resident: {idle:.1} MiB idle, {peak:.1} MiB at most, {BUDGET_MIB} MiB of it objects; {most_at_once} objects at once; \
         {:.2} times idle and budget together",
        peak / (idle + BUDGET_MIB)
    );
    at_most("F4", "peak-rss-mib", peak, PEAK_MIB);
    daemon.end().await?;
    stage.end().await?;
    stores.end().await
}

/// Checks how many objects were under way at once, which must have been all.
async fn copy_all(stage: &Environment, daemon: &mut Daemon) -> anyhow::Result<i64> {
    stage.register(OBJECTS).await?;
    let mut most = 0;
    while stage.unfinished().await? > 0 {
        most = most.max(stage.count("SELECT count(lock) FROM copyhold.object_copies").await?);
        daemon.check()?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if most != i64::from(OBJECTS) {
        bail!("{most} objects of {OBJECTS} were under way at once; the daemon said\n{}", daemon.said());
    }
    Ok(most)
}

/// Checks that the recorded content is the source's.
async fn compare(stage: &Environment) -> anyhow::Result<()> {
    for i in 1..=OBJECTS {
        let sql = "SELECT content_hash FROM copyhold.object_copies WHERE object_key = 'object-' || $1";
        let hash: Option<i64> = sqlx::query_scalar(sql).bind(i64::from(i)).fetch_one(&stage.pool).await?;
        let object = Synthetic::new(u64::from(i), GIB);
        if hash != Some(object.hash().to_bigint()) {
            bail!("object-{i} was not copied as it is");
        }
    }
    Ok(())
}

/// Prints the throughput, and the share of hashing, which no copy can avoid: CRC-64/NVME and MD5 of each byte once.
async fn say_speed(stage: &Environment, daemon: &Daemon) -> anyhow::Result<()> {
    let took = stage.took().await?.as_secs_f64();
    let cpu = daemon.cpu_seconds()? / f64::from(OBJECTS);
    let hashing = hashing_a_gib()?;
    println!(
        "speed: {OBJECTS} GiB in {took:.1} s, {:.0} MiB/s read and twice that written; {cpu:.2} s of CPU per GiB, hashing alone \
         {hashing:.2} s: {:.1} times",
        f64::from(OBJECTS) * 1024.0 / took,
        cpu / hashing
    );
    Ok(())
}

/// Returns the seconds of CPU that hashing takes on this machine.
fn hashing_a_gib() -> anyhow::Result<f64> {
    let some = Synthetic::new(0, GIB / 4);
    let pieces: Vec<_> = some.pieces(0..some.size_bytes).collect();
    let before = machine::cpu_seconds_of_this_thread()?;
    let (mut md5, mut crc) = (Md5::new(), Crc::new(CrcAlgorithm::Crc64Nvme));
    for piece in &pieces {
        md5.update(piece);
        crc.update(piece);
    }
    std::hint::black_box((md5.finalize(), crc.finalize()));
    Ok((machine::cpu_seconds_of_this_thread()? - before) * 4.0)
}
