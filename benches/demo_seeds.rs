//! F2: `copyhold demo --once --objects 2000` ten times in a row, each with another seed: nothing wrong, nothing
//! missing, although a daemon is killed and a store fails in each.
//!
//! The demo starts its own PostgreSQL and stores, and its own independent reader.

use std::process::Stdio;

use crate::common::{
    machine, play,
    report::{at_least, at_most},
};
use anyhow::Context as _;
use serde::Deserialize;
use tokio::process::Command;

const OBJECTS: &str = "2000";
const SEEDS: std::ops::RangeInclusive<u64> = 1..=10;

/// The parts of a demo's summary that count here.
#[derive(Debug, Deserialize)]
struct DemoSummary {
    copies: usize,
    seconds: f64,
    copies_per_second: f64,
    compared: usize,
    wrong: usize,
    missing: usize,
    killed: KilledDaemon,
    repeated_uploads: u64,
}

#[derive(Debug, Deserialize)]
struct KilledDaemon {
    held_leases: usize,
    rescued_leases: usize,
}

pub async fn run(_words: &[String]) -> anyhow::Result<()> {
    play(async || {
        println!("-- {}", machine::in_short().await?);
        let (mut good, mut wrong, mut missing) = (0, 0, 0);
        for seed in SEEDS {
            let (shown, well) = show(seed).await?;
            println!(
                "seed {seed}: {} copies in {:.1} s, {:.0}/s; {} objects compared, {} wrong, {} missing; \
                 {} of {} leases rescued, {} uploads repeated",
                shown.copies,
                shown.seconds,
                shown.copies_per_second,
                shown.compared,
                shown.wrong,
                shown.missing,
                shown.killed.rescued_leases,
                shown.killed.held_leases,
                shown.repeated_uploads
            );
            wrong += shown.wrong;
            missing += shown.missing;
            good += usize::from(well);
        }
        println!("-- at the end: {}", machine::in_short().await?);
        at_most("F2", "wrong", wrong, 0);
        at_most("F2", "missing", missing, 0);
        at_least("F2", "good-plays", good, SEEDS.count());
        Ok(())
    })
    .await
}

/// Runs one demo; returns its summary and whether the program itself succeeded.
async fn show(seed: u64) -> anyhow::Result<(DemoSummary, bool)> {
    let played = Command::new(env!("CARGO_BIN_EXE_copyhold"))
        .args(["demo", "--once", "--json", "--objects", OBJECTS, "--seed", &seed.to_string()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let shown = serde_json::from_slice(&played.stdout)
        .with_context(|| format!("the play of seed {seed} failed:\n{}", String::from_utf8_lossy(&played.stderr)))?;
    Ok((shown, played.status.success()))
}
