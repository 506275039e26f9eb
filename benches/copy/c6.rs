//! What one target loses by another that has a hundredth of its bandwidth.

use std::time::{Duration, Instant};

use copyhold::{
    domain::ReplicaName,
    sandbox::s3::{BucketOptions, Fault, Op, Synthetic, When},
};

use super::{
    common::{
        report::{at_least, percentile},
        stores::Stores,
    },
    ours::Ours,
};

const OBJECTS: u32 = 4000;
const BYTES: u64 = 48 << 20;
/// Of one connection to the fast target: bandwidth is what is scarce, and not the cores that all of this shares.
const BYTES_PER_SECOND: u64 = 4_000_000;
const SETTLE: Duration = Duration::from_secs(20);
const TURN: Duration = Duration::from_secs(30);
const TURNS: usize = 3;

pub(super) async fn play() -> anyhow::Result<()> {
    println!("- a target at a hundredth of the other's bandwidth");
    let stores = Stores::here_as(&Stores::REPLICAS, &BucketOptions::digest_only()).await?;
    let (source, fast, slow) = (stores.bucket("b2")?, stores.bucket("scw")?, stores.bucket("wasabi")?);
    let object = Synthetic::new(1, BYTES);
    source.put_synthetic_in_parts("object-1", object, 16 << 20);
    let etag = source.inspect("object-1").expect("was just put").etag;
    (2..=OBJECTS).for_each(|i| source.put_synthetic_as(&format!("object-{i}"), object, &etag));
    for op in [Op::PutObject, Op::UploadPart] {
        fast.order(Fault::DripUpload { bytes_per_second: BYTES_PER_SECOND }, When::op(op));
        slow.order(Fault::DripUpload { bytes_per_second: BYTES_PER_SECOND / 100 }, When::op(op));
    }
    let mut ours = Ours::begin(&stores, "").await?;
    let queue = ours.stage.queue();
    ours.stage.register(OBJECTS).await?;
    let (mut beside, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        for (rates, paused) in [(&mut beside, false), (&mut alone, true)] {
            let wasabi = ReplicaName::new("wasabi")?;
            if paused {
                queue.pause(&wasabi, None, Some("measured without it")).await?;
            } else {
                queue.resume(&wasabi).await?;
            }
            tokio::time::sleep(SETTLE).await;
            let (begun, before) = (Instant::now(), taken(&fast));
            let slow_before = taken(&slow);
            tokio::time::sleep(TURN).await;
            ours.daemon.check()?;
            let seconds = begun.elapsed().as_secs_f64();
            let rate = megabytes(taken(&fast) - before) / seconds;
            println!("fast {rate:.1} MB/s, slow {:.2} MB/s", megabytes(taken(&slow) - slow_before) / seconds);
            rates.push(rate);
        }
    }
    let left = ours.stage.count("SELECT count(*) FROM copyhold.object_copies WHERE scw IS NULL").await?;
    anyhow::ensure!(left > 0, "it ran out of work");
    for rates in [&mut beside, &mut alone] {
        rates.sort_by(f64::total_cmp);
    }
    at_least("C6", "throughput-beside-a-slow-target-by-alone", percentile(&beside, 50) / percentile(&alone, 50), 0.9);
    ours.daemon.kill().await?;
    ours.stage.end().await?;
    stores.end().await
}

fn taken(bucket: &copyhold::sandbox::s3::BucketHandle) -> u64 {
    bucket.moved(Op::UploadPart).received
}

#[expect(clippy::cast_precision_loss, reason = "megabytes")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
