//! `copyhold status`: copies, backlog, failures and daemons.

mod tables;
mod text;

use anyhow::Context as _;

use super::{Verdict, database, output};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON document instead of tables; null is what is not known
    #[arg(long)]
    json: bool,
    /// Count the backlog of a large table at this moment, about 0.15 s per million copies that are missing
    #[arg(long)]
    exact: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let (database, pools) = database(config)?;
    let status = database.status(args.exact).await?;
    pools.close().await;
    if args.json {
        let mut document = serde_json::to_value(&status).context("status as JSON")?;
        document["read_only"] = status.read_only.as_ref().map(ToString::to_string).into();
        output::json(&document)?;
    } else {
        output::line(&text::of(config, &status))?;
    }
    Ok(Verdict::Good)
}
