use anyhow::Context as _;

use super::{Verdict, given, queue, show};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The replica
    #[arg(value_name = "REPLICA")]
    replica: String,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let replica = given::replica(config, "", &args.replica)?;
    let (queue, pools) = queue(config)?;
    let was_paused = queue.resume(&replica).await?;
    pools.close().await;
    let text = if was_paused.with_context(|| given::not_migrated(&replica))? {
        format!("{replica} is resumed: its backlog is copied from now on")
    } else {
        format!("{replica} was not paused")
    };
    show::line(&text)?;
    Ok(Verdict::Good)
}
