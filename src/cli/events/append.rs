//! `copyhold events append`: appends events from the command line or stdin.

use std::io;

use anyhow::{Context as _, bail};
use copyhold_core::domain::split_events;
use serde::Deserialize;

use super::{
    super::{Verdict, database, output, stdin},
    Daemon,
    client::Client,
};
use crate::config::{Config, ConfigErrors};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As in '{"kind": "door.opened", "id": 3}'; - reads standard input
    #[arg(value_name = "JSON")]
    json: String,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Deserialize)]
struct Appended {
    appended: u64,
}

pub(super) async fn run(config: impl Fn() -> Result<Config, ConfigErrors>, args: Args) -> anyhow::Result<Verdict> {
    let text =
        if args.json == "-" { stdin::events(io::stdin().lock()).context("nothing was appended")? } else { args.json };
    let appended = if args.daemon.url.is_some() {
        let client = Client::of(config, args.daemon.url.as_ref())?;
        let answer = client.append(text.into()).await?;
        serde_json::from_slice::<Appended>(&answer).context("the daemon's answer is not understood")?.appended
    } else {
        append(&config()?, &text).await?
    };
    output::line(&format!("appended {}", output::count(appended, "event", "events")))?;
    Ok(Verdict::Good)
}

/// By SQL: needs no daemon that runs, and no token.
async fn append(config: &Config, text: &str) -> anyhow::Result<u64> {
    let split_events = split_events(text)?;
    let (database, pools) = database(config)?;
    let appended = database.append_events(&split_events).await;
    pools.close().await;
    match appended {
        Ok(appended) => Ok(appended),
        Err(error) => match error.refusal() {
            Some(refusal) if refusal.hint.is_some() => {
                bail!("nothing was appended: {}: {}", refusal.message, refusal.hint.unwrap_or_default())
            }
            _ => Err(error).context("nothing was appended"),
        },
    }
}
