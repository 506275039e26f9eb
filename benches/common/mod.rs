//! What benchmarks share: their environment, the machine's figures, and the lines that they print.
//!
//! Each benchmark sets up what it needs, and removes it. One whose bar falls short reports that and exits with 0.
//! Any other exit code means that nothing was measured.

pub mod comparison;
pub mod daemon;
pub mod database;
pub mod environment;
pub mod machine;
pub mod metrics;
pub mod minimal_copy;
pub mod process;
pub mod report;
pub mod stores;

use std::time::{Duration, Instant};

use anyhow::bail;
use stores::Stores;
use tokio::signal::unix::{SignalKind, signal};

/// Far more than any benchmark takes. One that takes longer waits for something that never comes, and fails.
const AT_MOST: Duration = Duration::from_mins(40);

/// Runs the bars whose labels are named, in their order; all if none is.
pub async fn play_bars(
    asked: &[String],
    bars: &[&'static str],
    play_one: impl AsyncFn(&'static str, &Stores) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if let Some(unknown) = asked.iter().find(|word| !bars.iter().any(|bar| bar.eq_ignore_ascii_case(word))) {
        bail!("there is no {unknown}, but {}", bars.join(", "));
    }
    let wanted = |bar: &&&str| asked.is_empty() || asked.iter().any(|word| word.eq_ignore_ascii_case(bar));
    play(async || {
        let begun = Instant::now();
        let stores = Stores::here().await?;
        for bar in bars.iter().filter(wanted) {
            play_one(bar, &stores).await?;
        }
        stores.end().await?;
        println!("-- it took {:.0} s", begun.elapsed().as_secs_f64());
        Ok(())
    })
    .await
}

/// Runs a benchmark. A signal drops it, and with it every process and folder that it made.
pub async fn play(benchmark: impl AsyncFnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = Box::pin(benchmark()) => ended,
        () = tokio::time::sleep(AT_MOST) => bail!("no end after {AT_MOST:?}"),
        _ = interrupt.recv() => bail!("stopped before the end"),
        _ = terminate.recv() => bail!("stopped before the end"),
    }
}
