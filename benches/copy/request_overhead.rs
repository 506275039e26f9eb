//! The cost of Copyhold and the minimal cost of the same requests, in turns.

use std::sync::Arc;

use copyhold_sandbox::s3::Synthetic;
use md5::{Digest as _, Md5};

use super::{
    baseline::{self, Cost, Hashing, Large, PART_BYTES, Small, TARGETS},
    copyhold_daemon::{CopyholdDaemon, DaemonCost},
    presigned::Presigner,
};
use crate::common::{
    report::{at_least, at_most},
    stores::Stores,
};

const TURNS: u32 = 3;
/// The number of a daemon's workers.
const SMALL_AT_ONCE: usize = 32;
const SMALL: u32 = 10_000;
const SMALL_BYTES: u64 = 10 << 10;
const LARGE_AT_ONCE: usize = 8;
const LARGE: u32 = 8;
const LARGE_BYTES: u64 = 256 << 20;

pub(super) async fn play() -> anyhow::Result<()> {
    small().await?;
    large().await
}

/// The costs of each contestant, one per turn.
#[derive(Default)]
struct TurnCosts {
    ours: Vec<Cost>,
    hashing: Vec<Cost>,
    plain: Vec<Cost>,
}

async fn small() -> anyhow::Result<()> {
    println!("- objects of 10 KiB to two targets");
    let stores = Stores::elsewhere_numbered(SMALL * TURNS, SMALL_BYTES).await?;
    let signer = Presigner::of(&stores)?;
    let mut ours = CopyholdDaemon::begin(&stores, "").await?;
    let mut turns = TurnCosts::default();
    for turn in 0..TURNS {
        let numbers = turn * SMALL + 1..=(turn + 1) * SMALL;
        let keys: Vec<_> = numbers.clone().map(|i| format!("object-{i}")).collect();
        let mut objects = Vec::new();
        for (i, key) in numbers.zip(&keys) {
            let puts = [signer.put(TARGETS[0], key).await?, signer.put(TARGETS[1], key).await?];
            let md5 = baseline::base64(Synthetic::new(u64::from(i), SMALL_BYTES).md5());
            objects.push(Small { get: signer.get("b2", key).await?, puts, md5 });
        }
        let objects = Arc::new(objects);
        let before = stores.cpu_seconds()?;
        let spent = ours.copy(&keys).await?;
        say_ours(&stores, before, &spent)?;
        turns.ours.push(spent.ours);
        for (hashing, costs) in [(Hashing::AsWeDo, &mut turns.hashing), (Hashing::None, &mut turns.plain)] {
            let before = stores.cpu_seconds()?;
            let cost = Cost::of_this(baseline::small(&signer, &objects, SMALL_AT_ONCE, hashing)).await?;
            say_floor(&stores, before, hashing, cost)?;
            costs.push(cost);
        }
    }
    let by_floor = turns.compare("objects", f64::from(SMALL), 1e3, "ms of CPU each");
    at_least("C1", "objects-per-second-by-floor", by_floor.rate, 0.5);
    at_most("C1", "cpu-per-small-object-by-floor", by_floor.cpu, 4.0);
    ours.end().await?;
    stores.end().await
}

async fn large() -> anyhow::Result<()> {
    println!("- objects of 256 MiB to two targets");
    let stores = Stores::elsewhere_numbered(LARGE * TURNS, LARGE_BYTES).await?;
    let signer = Arc::new(Presigner::of(&stores)?);
    let mut ours = CopyholdDaemon::begin(&stores, "").await?;
    let mut turns = TurnCosts::default();
    for turn in 0..TURNS {
        let numbers = turn * LARGE + 1..=(turn + 1) * LARGE;
        let keys: Vec<_> = numbers.clone().map(|i| format!("object-{i}")).collect();
        let before = stores.cpu_seconds()?;
        let spent = ours.copy(&keys).await?;
        say_ours(&stores, before, &spent)?;
        turns.ours.push(spent.ours);
        for (hashing, costs) in [(Hashing::AsWeDo, &mut turns.hashing), (Hashing::None, &mut turns.plain)] {
            let mut objects = Vec::new();
            for (i, key) in numbers.clone().zip(&keys) {
                objects.push(large_object(&signer, i, key).await?);
            }
            let before = stores.cpu_seconds()?;
            let cost = Cost::of_this(baseline::large(&signer, objects, LARGE_AT_ONCE, hashing)).await?;
            say_floor(&stores, before, hashing, cost)?;
            costs.push(cost);
        }
    }
    let by_floor = turns.compare("MB", f64::from(LARGE) * 268.435_456, 1e6, "µs of CPU each");
    at_least("C1", "bytes-per-second-by-floor", by_floor.rate, 0.8);
    at_most("C1", "cpu-per-large-object-by-floor", by_floor.cpu, 1.5);
    ours.end().await?;
    stores.end().await
}

async fn large_object(signer: &Presigner, i: u32, key: &str) -> anyhow::Result<Large> {
    let parts = LARGE_BYTES.div_ceil(PART_BYTES);
    let md5s = (0..parts).map(|part| {
        let mut md5 = Md5::new();
        let pieces = Synthetic::new(u64::from(i), LARGE_BYTES).pieces(part * PART_BYTES..(part + 1) * PART_BYTES);
        pieces.for_each(|piece| md5.update(&piece));
        md5.finalize().into()
    });
    let uploads = [signer.begin(TARGETS[0], key, parts).await?, signer.begin(TARGETS[1], key, parts).await?];
    Ok(Large::new(signer.get("b2", key).await?, uploads, LARGE_BYTES, md5s.collect()))
}

fn say_ours(stores: &Stores, before: f64, spent: &DaemonCost) -> anyhow::Result<()> {
    println!(
        "ours: {:.2} s; CPU: {:.2} s, PostgreSQL {:.2} s, stores {:.2} s",
        spent.ours.seconds,
        spent.ours.cpu_seconds,
        spent.database_cpu_seconds,
        stores.cpu_seconds()? - before
    );
    Ok(())
}

fn say_floor(stores: &Stores, before: f64, hashing: Hashing, cost: Cost) -> anyhow::Result<()> {
    println!(
        "floor, hashing {hashing:?}: {:.2} s; CPU: {:.2} s, stores {:.2} s",
        cost.seconds,
        cost.cpu_seconds,
        stores.cpu_seconds()? - before
    );
    Ok(())
}

/// Copyhold's figures divided by the baseline's.
struct RatioToBaseline {
    rate: f64,
    cpu: f64,
}

impl TurnCosts {
    /// Prints the medians of all, and returns Copyhold's divided by those of the hashing baseline.
    fn compare(&self, unit: &str, units: f64, scale: f64, each: &str) -> RatioToBaseline {
        let [ours, hashing, plain] = [&self.ours, &self.hashing, &self.plain].map(|costs| Cost::median(costs));
        for (name, cost) in [("ours", ours), ("the floor", hashing), ("the floor without hashes", plain)] {
            println!(
                "{name}: {:.0} {unit}/s, {:.3} {each} (medians of {TURNS})",
                units / cost.seconds,
                cost.cpu_seconds * scale / units
            );
        }
        RatioToBaseline { rate: hashing.seconds / ours.seconds, cpu: ours.cpu_seconds / hashing.cpu_seconds }
    }
}
