//! `copyhold replica undrain`: resumes copies to a draining replica.

use anyhow::Context as _;

use super::{Verdict, args, database, output};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The replica
    #[arg(value_name = "REPLICA")]
    replica: String,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let (database, pools) = database(config)?;
    let rows = database.replica_rows().await?;
    let replica = args::row(&rows, &args.replica)?.name.clone();
    let was_draining = database.undrain(&replica).await?;
    pools.close().await;
    let was_draining = was_draining.with_context(|| format!("replica {replica} was removed at this moment"))?;
    output::line(&if was_draining {
        format!("{replica} is copied to again: all that it lacks is due")
    } else {
        format!("{replica} was not draining")
    })?;
    Ok(Verdict::Good)
}
