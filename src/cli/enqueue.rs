use std::io::{self, Read as _};

use anyhow::{Context as _, bail};

use super::{Verdict, queue, show};
use crate::{
    config::Config,
    domain::{ObjectKey, ReplicaName},
};

/// Keys of one statement.
const BATCH: usize = 1000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Keys, byte for byte
    #[arg(value_name = "KEY", required_unless_present = "stdin")]
    keys: Vec<String>,
    /// Read keys from standard input, one a line
    #[arg(long, conflicts_with = "keys")]
    stdin: bool,
    /// With --stdin: keys end with a NUL byte instead of a line's end, so that they may hold line ends
    #[arg(long, short = '0', requires = "stdin")]
    null: bool,
    /// The replicas that are to have a copy [default: all, or for a known key those that it had]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    replicas: Option<Vec<String>>,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let wanted = args.replicas.map(|names| wanted(config, &names)).transpose()?;
    let keys = if args.stdin { read(args.null)? } else { args.keys };
    let keys = checked(keys)?;
    let (queue, pools) = queue(config)?;
    let mut objects = 0;
    for batch in keys.chunks(BATCH) {
        objects += queue.register(batch, wanted.as_deref()).await?.objects;
    }
    pools.close().await;
    show::line(&format!("registered {objects} object{}", if objects == 1 { "" } else { "s" }))?;
    Ok(Verdict::Good)
}

fn wanted(config: &Config, names: &[String]) -> anyhow::Result<Vec<ReplicaName>> {
    let one = |name: &String| {
        let known = config.replicas.iter().find(|r| r.name.as_str() == name);
        known.map(|r| r.name.clone()).with_context(|| {
            let names: Vec<_> = config.replicas.iter().map(|r| r.name.as_str()).collect();
            format!(
                "--replicas: there is no replica \"{}\"; the configuration has {}",
                name.escape_default(),
                names.join(", ")
            )
        })
    };
    names.iter().map(one).collect()
}

fn read(null: bool) -> anyhow::Result<Vec<String>> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text).context("cannot read standard input")?;
    let end = if null { 0 } else { b'\n' };
    let lines = text.split(|b| *b == end).filter(|line| !line.is_empty());
    lines
        .enumerate()
        .map(|(i, line)| {
            String::from_utf8(line.to_vec()).with_context(|| format!("standard input, key {}: not UTF-8", i + 1))
        })
        .collect()
}

/// All that are no keys are told at once, and then none is registered.
fn checked(keys: Vec<String>) -> anyhow::Result<Vec<ObjectKey>> {
    let mut good = Vec::with_capacity(keys.len());
    let mut bad = Vec::new();
    for (i, key) in keys.into_iter().enumerate() {
        match ObjectKey::new(key) {
            Ok(key) => good.push(key),
            Err(why) => bad.push(format!("key {}: {why}", i + 1)),
        }
    }
    if bad.is_empty() {
        return Ok(good);
    }
    let more = bad.len().saturating_sub(10);
    bad.truncate(10);
    if more > 0 {
        bad.push(format!("and {more} more"));
    }
    bail!("nothing was registered: {}", bad.join("; "))
}
