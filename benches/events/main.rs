//! E1 to E7: the log of events. `ARGS='e1 e3'` plays some of them.

#[path = "../common/mod.rs"]
mod common;
mod e4;
mod e5;
mod e6;
mod e7;
#[path = "../../tests/it/pooler.rs"]
mod pooler;
#[path = "../../tests/it/proxy.rs"]
mod proxy;

use std::env;

use common::{play, stores::Stores};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Cargo adds a word of its own, which begins with a dash.
    let asked: Vec<_> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |bar: &str| asked.is_empty() || asked.iter().any(|word| word.eq_ignore_ascii_case(bar));
    play(async || {
        let stores = Stores::here().await?;
        if wanted("e4") {
            e4::play().await?;
        }
        if wanted("e5") {
            e5::play().await?;
        }
        if wanted("e6") {
            e6::play(&stores).await?;
        }
        if wanted("e7") {
            e7::play().await?;
        }
        stores.end().await?;
        Ok(())
    })
    .await
}
