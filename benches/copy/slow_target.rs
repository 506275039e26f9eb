//! How much throughput one target loses beside another that has a hundredth of its bandwidth.

use std::time::{Duration, Instant};

use copyhold_core::domain::ReplicaName;
use copyhold_sandbox::s3::{BucketOptions, Fault, Op, Synthetic, When};

use super::{baseline::PART_BYTES, copyhold_daemon::CopyholdDaemon};
use crate::common::{
    report::{at_least, percentile},
    stores::Stores,
};

const LOOK_EVERY: Duration = Duration::from_millis(50);

const OBJECTS: u32 = 4000;
const BYTES: u64 = 48 << 20;
/// The bandwidth of one connection to the fast target: it is the bottleneck, not the cores that all processes share.
const BYTES_PER_SECOND: u64 = 3_000_000;
/// Slow copies may hold half of the memory. The other half is enough for all work under way, five objects of three
/// parts. Otherwise the memory would be measured.
const SETTINGS: &str = "[workers]\ncount = 6\nreserved = 0\nmemory = \"512MiB\"\n";
/// The time until the daemon gives up the first copies to the slow target, and retries them alone.
const SETTLE: Duration = Duration::from_secs(75);
const TURN: Duration = Duration::from_secs(45);
const TURNS: usize = 2;

pub(super) async fn play() -> anyhow::Result<()> {
    println!("- a target at a hundredth of the other's bandwidth");
    let (mut beside, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        alone.push(turn(true).await?);
        beside.push(turn(false).await?);
    }
    for rates in [&mut beside, &mut alone] {
        rates.sort_by(f64::total_cmp);
    }
    at_least("C6", "throughput-beside-a-slow-target-by-alone", percentile(&beside, 50) / percentile(&alone, 50), 0.9);
    Ok(())
}

/// Measures the throughput of the fast target in MB/s, with separate stores and a separate daemon: copies to the slow
/// one continue for minutes after it is paused.
async fn turn(alone: bool) -> anyhow::Result<f64> {
    let stores = Stores::here_as(&Stores::REPLICAS, &BucketOptions::digest_only()).await?;
    let (source, fast, slow) = (stores.bucket("b2")?, stores.bucket("scw")?, stores.bucket("wasabi")?);
    let object = Synthetic::new(1, BYTES);
    source.put_synthetic_in_parts("object-1", object, PART_BYTES);
    let etag = source.inspect("object-1").expect("was just put").etag;
    (2..=OBJECTS).for_each(|i| source.put_synthetic_as(&format!("object-{i}"), object, &etag));
    for op in [Op::PutObject, Op::UploadPart] {
        fast.order(Fault::DripUpload { bytes_per_second: BYTES_PER_SECOND }, When::op(op));
        slow.order(Fault::DripUpload { bytes_per_second: BYTES_PER_SECOND / 100 }, When::op(op));
    }
    let mut ours = CopyholdDaemon::begin(&stores, SETTINGS).await?;
    if alone {
        ours.stage.queue().pause(&ReplicaName::new("wasabi")?, None, Some("measured without it")).await?;
        while !ours.daemon.said().contains("Not copying to wasabi") {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    ours.stage.register(OBJECTS).await?;
    tokio::time::sleep(SETTLE).await;
    let (begun, before) = (Instant::now(), [&fast, &slow].map(taken));
    tokio::time::sleep(TURN).await;
    ours.daemon.check()?;
    let seconds = begun.elapsed().as_secs_f64();
    let [fast, slow] = [(&fast, before[0]), (&slow, before[1])].map(|(to, from)| megabytes(taken(to) - from) / seconds);
    println!("{}: fast {fast:.1} MB/s, slow {slow:.2} MB/s", if alone { "alone" } else { "beside" });
    let left = ours.stage.count("SELECT count(*) FROM copyhold.object_copies WHERE scw IS NULL").await?;
    anyhow::ensure!(left > 0, "it ran out of work");
    ours.daemon.kill().await?;
    ours.stage.end().await?;
    stores.end().await?;
    Ok(fast)
}

fn taken(bucket: &copyhold_sandbox::s3::BucketHandle) -> u64 {
    bucket.moved(Op::UploadPart).received
}

#[expect(clippy::cast_precision_loss, reason = "megabytes")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
