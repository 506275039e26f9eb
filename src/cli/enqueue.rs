//! `copyhold enqueue`: registers keys.

use std::io;

use anyhow::Context as _;
use copyhold_core::domain::{ObjectKey, ReplicaName};
use copyhold_db::object::NewObject;

use super::{
    Verdict, args, database, output,
    stdin::{self, KeyEnd},
};
use crate::config::Config;

/// Keys of one statement.
const BATCH: usize = 1000;
const UNDONE: &str = "nothing was registered";

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
    /// The bytes of each of them, if that is known: rules may ask for it. They must be right
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(..=i64::MAX.unsigned_abs()))]
    size: Option<u64>,
    /// The replicas that are to have a copy [default: those of the rule that fits; without one all, or for a known key
    /// those that it had]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    replicas: Option<Vec<String>>,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let wanted = args.replicas.map(|names| wanted(config, &names)).transpose()?;
    let keys = if args.stdin {
        let end = if args.null { KeyEnd::Nul } else { KeyEnd::Line };
        let given = stdin::keys(io::stdin().lock(), end).context(UNDONE)?;
        args::numbered_keys(given, end.counts(), UNDONE)?
    } else {
        args::keys(args.keys, UNDONE)?
    };
    let (database, pools) = database(config)?;
    let mut objects = 0;
    for batch in keys.chunks(BATCH) {
        let object = |key: &ObjectKey| NewObject { key: key.clone(), size_bytes: args.size, wanted: wanted.clone() };
        let batch: Vec<_> = batch.iter().map(object).collect();
        objects += database.register_objects(&batch).await?.len();
    }
    pools.close().await;
    output::line(&format!("registered {objects} object{}", if objects == 1 { "" } else { "s" }))?;
    Ok(Verdict::Good)
}

fn wanted(config: &Config, names: &[String]) -> anyhow::Result<Vec<ReplicaName>> {
    names.iter().map(|name| args::replica(config, "--replicas: ", name)).collect()
}
