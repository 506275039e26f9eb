//! `copyhold resume`: copies to a paused replica go on.

use anyhow::Context as _;
use copyhold_db::queue::Resumed;

use super::{Verdict, args, output, queue};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The replica
    #[arg(value_name = "REPLICA")]
    replica: String,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let replica = args::replica(config, "", &args.replica)?;
    let (queue, pools) = queue(config)?;
    let resumed = queue.resume(&replica).await?;
    pools.close().await;
    let text = match resumed.with_context(|| args::not_migrated(&replica))? {
        Resumed { was_paused: true, is_sick: false } => {
            format!("{replica} is resumed: its backlog is copied from now on")
        }
        Resumed { was_paused: false, is_sick: false } => format!("{replica} was not paused"),
        Resumed { was_paused: true, is_sick: true } => {
            format!("{replica} is resumed. Its store was not well, and is tried again now")
        }
        Resumed { was_paused: false, is_sick: true } => {
            format!("{replica} was not paused. Its store was not well, and is tried again now")
        }
    };
    output::line(&text)?;
    Ok(Verdict::Good)
}
