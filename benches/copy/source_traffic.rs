//! The ratio of bytes that the source sends to the bytes of the objects, counted by the source.

use copyhold_sandbox::s3::{BucketOptions, Op, Synthetic};

use super::copyhold_daemon::CopyholdDaemon;
use crate::common::{report::at_most, stores::Stores};

const REPLICAS: [&str; 5] = ["b2", "wasabi", "scw", "r2", "garage"];
const MIB: u64 = 1 << 20;
/// The number of objects per size: below one part, about one part, and many parts.
const OBJECTS: [(u32, u64); 7] =
    [(1, 0), (500, 10 << 10), (50, MIB), (4, 16 * MIB), (4, 16 * MIB + 1), (8, 100 * MIB), (1, 1000 * MIB)];

pub(super) async fn play() -> anyhow::Result<()> {
    for targets in [1, 2, 4] {
        with(targets).await?;
    }
    Ok(())
}

async fn with(targets: usize) -> anyhow::Result<()> {
    println!("- {targets} targets");
    let stores = Stores::here_as(&REPLICAS[..=targets], &BucketOptions::digest_only()).await?;
    let source = stores.bucket("b2")?;
    let (mut keys, mut bytes) = (Vec::new(), 0);
    for (count, size) in OBJECTS {
        for i in 0..count {
            let key = format!("{size}-{i}");
            source.put_synthetic_in_parts(&key, Synthetic::new(u64::from(i) + size, size), 16 * MIB);
            keys.push(key);
            bytes += size;
        }
    }
    let mut ours = CopyholdDaemon::begin(&stores, "").await?;
    // The daemon's requests at its start belong to no copy.
    source.forget_counts();
    let cost = ours.copy(&keys).await?.ours;
    let sent = source.moved(Op::GetObject).sent;
    println!(
        "{} objects, {bytes} bytes, sent {sent} in {} answers, in {:.1} s",
        keys.len(),
        source.successes(Op::GetObject),
        cost.seconds
    );
    for target in &REPLICAS[1..=targets] {
        let target = stores.bucket(target)?;
        for key in &keys {
            let copy = target.inspect(key).map(|copy| copy.content);
            anyhow::ensure!(copy == source.inspect(key).map(|object| object.content), "{key} was not copied as it is");
        }
    }
    at_most("C3", &format!("bytes-read-by-bytes-of-objects-{targets}-targets"), ratio(sent, bytes), 1.0);
    ours.end().await?;
    stores.end().await
}

#[expect(clippy::cast_precision_loss, reason = "a ratio of bytes")]
fn ratio(one: u64, other: u64) -> f64 {
    one as f64 / other as f64
}
