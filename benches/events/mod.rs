//! E1 to E7: the event log, from the commit to the readers. `ARGS='e1 e3'` plays some of them.

mod e1;
mod e2;
mod e3;
mod e4;
mod e5;
mod e6;
mod e7;
mod followed;

use anyhow::bail;

use crate::common::play_bars;

/// By label, in the order in which they are played.
const BARS: [&str; 8] = ["e1", "e2", "e3", "e4", "herd", "e5", "e6", "e7"];

pub async fn run(words: &[String]) -> anyhow::Result<()> {
    play_bars(words, &BARS, async |bar, stores| match bar {
        "e1" => e1::play(stores).await,
        "e2" => e2::play(stores).await,
        "e3" => e3::play(stores).await,
        "e4" => e4::play().await,
        "herd" => e4::herd().await,
        "e5" => e5::play().await,
        "e6" => e6::play(stores).await,
        "e7" => e7::play().await,
        other => bail!("nothing plays {other}"),
    })
    .await
}
