//! Measures the claims about speed and size, with a subcommand each: `make bench BENCH=queue ARGS=q1`.
//! docs/benchmarks.md has the results.

mod common;
mod copy;
mod crash;
mod damage;
mod demo_seeds;
mod events;
mod exactly_once;
mod latency;
mod lifecycle;
mod memory;
mod poison;
mod queue;

use std::env;

use anyhow::bail;

/// The daemon's allocator, so that allocations cost the same.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The subcommands, in the order in which all of them run if none is named.
const ALL: [&str; 11] = [
    "copy",
    "crash",
    "damage",
    "demo-seeds",
    "events",
    "exactly-once",
    "latency",
    "lifecycle",
    "memory",
    "poison",
    "queue",
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Cargo adds `--bench`.
    let words: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    let Some((name, words)) = words.split_first() else {
        for name in ALL {
            run(name, &[]).await?;
        }
        return Ok(());
    };
    run(name, words).await
}

async fn run(name: &str, words: &[String]) -> anyhow::Result<()> {
    match name {
        "copy" => copy::run(words).await,
        "crash" => crash::run(words).await,
        "damage" => damage::run(words).await,
        "demo-seeds" => demo_seeds::run(words).await,
        "events" => events::run(words).await,
        "exactly-once" => exactly_once::run(words).await,
        "latency" => latency::run(words).await,
        "lifecycle" => lifecycle::run(words).await,
        "memory" => memory::run(words).await,
        "poison" => poison::run(words).await,
        "queue" => queue::run(words).await,
        other => bail!("there is no benchmark {other}, but {}", ALL.join(", ")),
    }
}
