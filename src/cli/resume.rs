//! `copyhold resume`: resumes copies to a paused replica.

use anyhow::Context as _;
use copyhold_db::replica::ResumeResult;

use super::{Verdict, args, database, output};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The replica
    #[arg(value_name = "REPLICA")]
    replica: String,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let replica = args::replica(config, "", &args.replica)?;
    let (database, pools) = database(config)?;
    let resumed = database.resume(&replica).await?;
    pools.close().await;
    let text = match resumed.with_context(|| args::not_migrated(&replica))? {
        ResumeResult { was_paused: true, breaker_is_open: false } => {
            format!("{replica} is resumed: its backlog is copied from now on")
        }
        ResumeResult { was_paused: false, breaker_is_open: false } => format!("{replica} was not paused"),
        ResumeResult { was_paused: true, breaker_is_open: true } => {
            format!("{replica} is resumed. Its store was unhealthy, and is tried again now")
        }
        ResumeResult { was_paused: false, breaker_is_open: true } => {
            format!("{replica} was not paused. Its store was unhealthy, and is tried again now")
        }
    };
    output::line(&text)?;
    Ok(Verdict::Good)
}
