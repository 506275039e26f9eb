//! L1 to L5: objects are imported and scanned, replicas are added and replaced. `ARGS='l5'` runs one of them.

mod add_replica;
mod bucket_refill;
mod bucket_scan;
mod import_cost;
mod promotion;

use anyhow::bail;

use crate::common::play_bars;

/// The bars by label, in the order in which they run.
const BARS: [&str; 5] = ["l1", "l2", "l3", "l4", "l5"];

pub async fn run(words: &[String]) -> anyhow::Result<()> {
    play_bars(words, &BARS, async |bar, stores| match bar {
        "l1" => add_replica::play(stores).await,
        "l2" => bucket_scan::play().await,
        "l3" => promotion::play().await,
        "l4" => bucket_refill::play().await,
        "l5" => import_cost::play(stores).await,
        other => bail!("nothing plays {other}"),
    })
    .await
}
