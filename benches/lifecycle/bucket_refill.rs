//! A lost bucket, a secondary's and then the primary's, is filled again from the others, byte for byte.

use tokio::time::Instant;

use super::promotion::{run, until_everywhere};
use crate::common::{
    environment::{Disk, Environment},
    report::at_least,
    stores::Stores,
};

const OBJECTS: u32 = 10_000;
const BYTES: u64 = 10 << 10;

pub(super) async fn play() -> anyhow::Result<()> {
    let stores = Stores::here().await?;
    let stage = Environment::begin(Disk::Plain, &stores, "").await?;
    stores.fill(OBJECTS, BYTES)?;
    let daemon = stage.daemon().await?;
    stage.register(OBJECTS).await?;
    until_everywhere(&stage).await?;
    let first = stage.took().await?.as_secs_f64();
    let whole = identical(&stores)?;
    println!("{OBJECTS} objects of {} KiB: the first replication, to two replicas, took {first:.1} s", BYTES >> 10);
    at_least("L4", "identical-at-first", whole, u64::from(OBJECTS));
    for (what, replica) in [("secondary", "scw"), ("primary", "b2")] {
        let bucket = stores.bucket(replica)?;
        for key in bucket.keys() {
            bucket.delete(&key);
        }
        let begun = Instant::now();
        let said = run(&stage.config_path(), &["replica", "reset", replica]).await?;
        let reset = begun.elapsed().as_secs_f64();
        until_everywhere(&stage).await?;
        let healed = begun.elapsed().as_secs_f64();
        print!("{said}");
        println!(
            "the {what}'s bucket: taken back in {reset:.1} s, whole again after {healed:.1} s, {:.0} % of the first replication",
            100.0 * healed / first
        );
        at_least("L4", &format!("identical-after-the-{what}"), identical(&stores)?, u64::from(OBJECTS));
    }
    daemon.end().await?;
    stage.end().await?;
    stores.end().await
}

/// Returns the objects that have their content in every bucket.
fn identical(stores: &Stores) -> anyhow::Result<u64> {
    let mut identical = 0;
    for i in 1..=OBJECTS {
        let truth = copyhold_sandbox::s3::synthetic::bytes(u64::from(i), 0..BYTES);
        let mut everywhere = true;
        for replica in Stores::REPLICAS {
            everywhere &= stores.bucket(replica)?.get(&format!("object-{i}")).is_some_and(|bytes| bytes == truth);
        }
        identical += u64::from(everywhere);
    }
    Ok(identical)
}
