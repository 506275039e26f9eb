//! `copyhold replica drain`: nothing more is copied to a replica that is to be removed.

use anyhow::bail;
use copyhold_core::domain::utc;
use copyhold_db::replica::DrainResult;

use super::{Verdict, args, database, output};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The replica
    #[arg(value_name = "REPLICA")]
    replica: String,
    /// The reason, to be shown later
    #[arg(long, value_name = "TEXT")]
    because: Option<String>,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let (database, pools) = database(config)?;
    let rows = database.replica_rows().await?;
    let replica = args::row(&rows, &args.replica)?.name.clone();
    let drained = database.drain(&replica, args.because.as_deref()).await?;
    pools.close().await;
    let draining = match drained {
        Some(DrainResult::Draining(draining)) => draining,
        Some(DrainResult::IsPrimary) => bail!(
            "{replica} is the primary in force, from which everything is copied: `copyhold promote` another replica first"
        ),
        None => bail!("replica {replica} was removed at this moment"),
    };
    let because = draining.because.map(|why| format!(" ({})", output::Untrusted(&why))).unwrap_or_default();
    output::line(&format!("{replica} is draining since {}{because}", utc(draining.since)))?;
    output::line(&format!(
        "Daemons begin no copy to it from now on (within 5s at the latest); copies under way are finished, it is still read, \
         and what it lacks is not counted.\n`copyhold replica undrain {replica}` ends it. To remove it: take it out of every \
         daemon's configuration, restart them, then `copyhold replica remove {replica}`."
    ))?;
    Ok(Verdict::Good)
}
