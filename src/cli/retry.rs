use clap::builder::PossibleValuesParser;
use copyhold_core::domain::FailureClass;
use copyhold_db::queue::{Notice, PARKED_BY_HAND, Which};

use super::{Verdict, given, queue, show, turned::Outcome};
use crate::config::Config;

#[derive(Debug, clap::Args)]
#[command(override_usage = "\
copyhold retry [OPTIONS] <KEY>...
       copyhold retry [OPTIONS] --parked
       copyhold retry [OPTIONS] --failing")]
#[command(group = clap::ArgGroup::new("which").args(["parked", "failing", "keys"]).required(true).multiple(true))]
#[command(after_help = "\
It takes copies that are wanted and not on record: parked ones are parked no more, waiting ones wait no longer, and their \
attempts are counted from 0. What failed before stays to be read until they are on record. To have a copy made again \
that is on record, register its key again with `copyhold enqueue`.")]
pub(super) struct Args {
    /// Keys, byte for byte
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    /// All parked copies
    #[arg(long, conflicts_with = "keys")]
    parked: bool,
    /// All parked copies, and all that wait for a later attempt; with or without --parked
    #[arg(long, conflicts_with = "keys")]
    failing: bool,
    /// Copies at this replica only
    #[arg(long, value_name = "REPLICA")]
    replica: Option<String>,
    /// Copies whose last failure was of this class only
    #[arg(long, value_name = "CLASS", value_parser = classes())]
    class: Option<String>,
}

fn classes() -> PossibleValuesParser {
    PossibleValuesParser::new(FailureClass::ALL.map(FailureClass::as_str).into_iter().chain([PARKED_BY_HAND]))
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let keys = given::distinct_keys(args.keys, "nothing was changed")?;
    let replicas = given::replica_or_all(config, args.replica.as_deref())?;
    let (which, none) = match (args.parked, args.failing) {
        (_, true) => (Which::Failing, "no such copy is parked or waits for a later attempt"),
        (true, false) => (Which::Parked, "no such copy is parked"),
        (false, false) => (Which::Of(&keys), "nothing to retry: no such copy is parked or waits for a later attempt"),
    };
    let (queue, pools) = queue(config)?;
    let mut outcome = Outcome::default();
    for replica in replicas {
        let turned = queue.retry(&replica, which, args.class.as_deref()).await?;
        outcome.add(replica, turned);
    }
    if outcome.copies() > 0 {
        queue.notify(Notice::Work).await?;
    }
    let rows = queue.replica_rows().await?;
    pools.close().await;
    show::line(&outcome.headline("due now", none))?;
    for row in rows.iter().filter(|row| row.pause.is_some() && outcome.touched(&row.name)) {
        show::line(&format!("{0} is paused: its copies wait for `copyhold resume {0}`", row.name))?;
    }
    outcome.say_what_was_left(if keys.is_empty() { None } else { Some(&keys) })
}
