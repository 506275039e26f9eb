//! L1 to L5: objects come in, replicas come and go. `ARGS='l5'` plays one of them.

mod l1;
mod l2;
mod l3;
mod l4;
mod l5;

use anyhow::bail;

use crate::common::play_bars;

/// By label, in the order in which they are played.
const BARS: [&str; 5] = ["l1", "l2", "l3", "l4", "l5"];

pub async fn run(words: &[String]) -> anyhow::Result<()> {
    play_bars(words, &BARS, async |bar, stores| match bar {
        "l1" => l1::play(stores).await,
        "l2" => l2::play().await,
        "l3" => l3::play().await,
        "l4" => l4::play().await,
        "l5" => l5::play(stores).await,
        other => bail!("nothing plays {other}"),
    })
    .await
}
