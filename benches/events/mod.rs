//! E1 to E7: the event log, from the commit to the readers. `ARGS='e1 e3'` runs some of them.

mod catch_up;
mod degraded_latency;
mod event_order;
mod fanout_latency;
mod followed_log;
mod insert_cost;
mod log_cost;
mod pickup_latency;

use anyhow::bail;

use crate::common::play_bars;

/// The bars by label, in the order in which they run.
const BARS: [&str; 8] = ["e1", "e2", "e3", "e4", "herd", "e5", "e6", "e7"];

pub async fn run(words: &[String]) -> anyhow::Result<()> {
    play_bars(words, &BARS, async |bar, stores| match bar {
        "e1" => event_order::play(stores).await,
        "e2" => fanout_latency::play(stores).await,
        "e3" => catch_up::play(stores).await,
        "e4" => pickup_latency::play().await,
        "herd" => pickup_latency::herd().await,
        "e5" => insert_cost::play().await,
        "e6" => log_cost::play(stores).await,
        "e7" => degraded_latency::play().await,
        other => bail!("nothing plays {other}"),
    })
    .await
}
