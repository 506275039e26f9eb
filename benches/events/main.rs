//! E1 to E7: the event log, from the commit to the readers. `ARGS='e1 e3'` plays some of them.

#[path = "../common/mod.rs"]
mod common;
mod detector;
mod e1;
mod e2;
mod e3;
mod e4;
mod e5;
mod e6;
mod e7;
mod followed;
#[path = "../../tests/it/pooler.rs"]
mod pooler;
#[path = "../../tests/it/proxy.rs"]
mod proxy;

use std::{env, time::Instant};

use anyhow::bail;

use common::{play, stores::Stores};

/// By label, in the order in which they are played.
const BARS: [&str; 8] = ["e1", "e2", "e3", "e4", "herd", "e5", "e6", "e7"];

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
                "e1" => e1::play(&stores).await?,
                "e2" => e2::play(&stores).await?,
                "e3" => e3::play(&stores).await?,
                "e4" => e4::play().await?,
                "herd" => e4::herd().await?,
                "e5" => e5::play().await?,
                "e6" => e6::play(&stores).await?,
                "e7" => e7::play().await?,
                other => bail!("nothing plays {other}"),
            }
        }
        stores.end().await?;
        println!("-- it took {:.0} s", begun.elapsed().as_secs_f64());
        Ok(())
    })
    .await
}
