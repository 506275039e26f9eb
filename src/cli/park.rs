//! `copyhold park`: stops copies of objects from being tried.

use super::{Verdict, args, database, output, reschedule_report::Outcome};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Keys, byte for byte
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<String>,
    /// Park the copy at this replica only
    #[arg(long, value_name = "REPLICA")]
    replica: Option<String>,
    /// The reason, to be shown later
    #[arg(long, value_name = "TEXT", default_value = "parked by hand")]
    because: String,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let keys = args::distinct_keys(args.keys, "nothing was parked")?;
    let replicas = args::replica_or_all(config, args.replica.as_deref())?;
    let (database, pools) = database(config)?;
    let mut outcome = Outcome::default();
    for replica in replicas {
        let turned = database.park(&replica, &keys, &args.because).await?;
        outcome.add(replica, turned);
    }
    pools.close().await;
    output::line(&outcome.headline("parked", "nothing to park: no such copy is wanted, missing and not parked"))?;
    outcome.report_skipped(Some(&keys))
}
