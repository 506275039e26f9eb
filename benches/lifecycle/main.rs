//! L1 to L5: objects come in, replicas come and go. `ARGS='l5'` plays one of them.

#[path = "../common/mod.rs"]
mod common;
mod l1;
mod l2;
mod l3;
mod l4;
mod l5;
#[path = "../queue/ours.rs"]
mod ours;

use std::{env, time::Instant};

use anyhow::bail;

use common::{play, stores::Stores};

/// By label, in the order in which they are played.
const BARS: [&str; 5] = ["l1", "l2", "l3", "l4", "l5"];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Cargo adds a word of its own, which begins with a dash.
    let asked: Vec<_> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if let Some(unknown) = asked.iter().find(|word| !BARS.iter().any(|bar| bar.eq_ignore_ascii_case(word))) {
        bail!("there is no {unknown}, but {}", BARS.join(", "));
    }
    let wanted = |bar: &&str| asked.is_empty() || asked.iter().any(|word| word.eq_ignore_ascii_case(bar));
    play(async || {
        let begun = Instant::now();
        let stores = Stores::here().await?;
        for bar in BARS.into_iter().filter(wanted) {
            match bar {
                "l1" => l1::play(&stores).await?,
                "l2" => l2::play().await?,
                "l3" => l3::play().await?,
                "l4" => l4::play().await?,
                "l5" => l5::play(&stores).await?,
                other => bail!("nothing plays {other}"),
            }
        }
        stores.end().await?;
        println!("-- it took {:.0} s", begun.elapsed().as_secs_f64());
        Ok(())
    })
    .await
}
