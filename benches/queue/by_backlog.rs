//! Claims and completions compared with the essay's statement and indexes, by backlog.

use std::time::Duration;

use super::{
    baseline_essay::{self, Scans},
    copyhold_queue,
};
use crate::common::{
    comparison::{Rates, StopCondition},
    database::DatabaseServer,
    report::{at_least, at_most},
    stores::Stores,
};

const ROWS: u32 = 2_000_000;
const KEY: &str = "md5(i::text)";
const REPETITIONS: usize = 3;
/// The measuring time for a backlog that is not drained.
const MEASURED_FOR: Duration = Duration::from_secs(8);
/// The time limit for draining a backlog; a slower contestant is measured by its work until then.
const DRAINED_WITHIN: Duration = Duration::from_secs(90);

/// Returns an SQL condition for the missing rows: about this many, at random positions from a seed.
fn at_random(seed: u32, backlog: u32) -> String {
    format!("(hashint8extended(i, {seed}) & 1073741823) < {}", u64::from(backlog) * 1_073_741_824 / u64::from(ROWS))
}

pub(super) async fn play(grounds: &DatabaseServer, stores: &Stores) -> anyhow::Result<()> {
    a_thousand(grounds, stores).await?;
    a_million(grounds, stores).await?;
    behind_done_rows(grounds, stores).await?;
    by_backlog(grounds, stores).await
}

/// Measures both contestants with 1,000 missing rows, drained completely.
async fn a_thousand(grounds: &DatabaseServer, stores: &Stores) -> anyhow::Result<()> {
    let missing = at_random(7, 1_000);
    let (ours, essay) = both(grounds, stores, "1k", &missing, DRAINED_WITHIN, Scans::Synchronized).await?;
    println!("1,000 missing of {ROWS}, drained: ours {ours}, the essay's {essay}");
    at_least("Q1", "times-the-essay-1k", ours.median() / essay.median(), 10.0);
    Ok(())
}

async fn a_million(grounds: &DatabaseServer, stores: &Stores) -> anyhow::Result<()> {
    let missing = at_random(8, 1_000_000);
    let (ours, essay) = both(grounds, stores, "1m", &missing, MEASURED_FOR, Scans::Synchronized).await?;
    println!("1,000,000 missing of {ROWS} at random places: ours {ours}, the essay's {essay}");
    at_least("Q1", "times-the-essay-1m", ours.median() / essay.median(), 4.0);
    Ok(())
}

async fn behind_done_rows(grounds: &DatabaseServer, stores: &Stores) -> anyhow::Result<()> {
    let (ours, essay) = both(grounds, stores, "behind", "i > 1000000", MEASURED_FOR, Scans::FromTheBeginning).await?;
    println!("1,000,000 missing behind as many done, synchronize_seqscans = off: ours {ours}, the essay's {essay}");
    at_least("Q1", "times-the-essay-1m-scans-from-the-beginning", ours.median() / essay.median(), 100.0);
    Ok(())
}

/// Measures Copyhold's rate, with 10,000 objects drained and with 1,000,000 for a while.
async fn by_backlog(grounds: &DatabaseServer, stores: &Stores) -> anyhow::Result<()> {
    let (mut few, mut many) = (Rates::default(), Rates::default());
    for (name, backlog) in [("few", 10_000), ("many", 1_000_000)] {
        let template = grounds.make(name).await?;
        template.fill(stores, ROWS, KEY, &at_random(9, backlog)).await?;
        template.pool.close().await;
    }
    for _ in 0..REPETITIONS + 2 {
        for (name, rates) in [("few", &mut few), ("many", &mut many)] {
            let ground = grounds.copy(name).await?;
            let missing = ground.count("SELECT count(*) FROM copyhold.object_copies WHERE wasabi IS NULL").await?;
            let goal = StopCondition { objects: u64::try_from(missing)?, at_most: MEASURED_FOR };
            rates.add(copyhold_queue::play(&ground, stores, &goal).await?);
            grounds.clear(ground).await?;
        }
    }
    grounds.forget("few").await?;
    grounds.forget("many").await?;
    println!("ours at 10,000 missing {few}, at 1,000,000 {many}");
    at_most("Q1", "rate-at-10k-by-rate-at-1m", few.median() / many.median(), 1.3);
    Ok(())
}

/// Runs both contestants on the same objects, in turns, each time on a fresh copy.
async fn both(
    grounds: &DatabaseServer,
    stores: &Stores,
    name: &str,
    missing: &str,
    at_most: Duration,
    scans: Scans,
) -> anyhow::Result<(Rates, Rates)> {
    let (our_name, essay_name) = (format!("ours_{name}"), format!("essay_{name}"));
    let template = grounds.make(&our_name).await?;
    template.fill(stores, ROWS, KEY, missing).await?;
    let objects = template.count("SELECT count(*) FROM copyhold.object_copies WHERE wasabi IS NULL").await?;
    template.pool.close().await;
    let template = grounds.make(&essay_name).await?;
    baseline_essay::fill(&template, ROWS, KEY, missing).await?;
    template.pool.close().await;
    let goal = StopCondition { objects: u64::try_from(objects)?, at_most };
    let (mut ours, mut essay) = (Rates::default(), Rates::default());
    for _ in 0..REPETITIONS {
        let ground = grounds.copy(&our_name).await?;
        ours.add(copyhold_queue::play(&ground, stores, &goal).await?);
        grounds.clear(ground).await?;
        let ground = grounds.copy(&essay_name).await?;
        essay.add(baseline_essay::play(&ground, &goal, scans).await?);
        grounds.clear(ground).await?;
    }
    grounds.forget(&our_name).await?;
    grounds.forget(&essay_name).await?;
    Ok((ours, essay))
}
