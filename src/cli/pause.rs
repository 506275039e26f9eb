//! `copyhold pause`: nothing is copied to a replica for a time.

use std::time::Duration;

use anyhow::Context as _;
use copyhold_core::domain::utc;

use super::{Verdict, args, database, output, output::Untrusted};
use crate::config::Config;

const SHORTEST: Duration = Duration::from_secs(1);
/// Longer is until it is resumed.
const LONGEST: Duration = Duration::from_hours(24 * 366 * 10);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The replica
    #[arg(value_name = "REPLICA")]
    replica: String,
    /// End by itself after this long, as 30m or 2h [default: when it is resumed]
    #[arg(long = "for", value_name = "TIME", value_parser = length)]
    length: Option<Duration>,
    /// The reason, to be shown later
    #[arg(long, value_name = "TEXT")]
    because: Option<String>,
}

fn length(text: &str) -> Result<Duration, String> {
    let length = humantime::parse_duration(text).map_err(|_| "write it like 90s, 30m or 2h 15m".to_owned())?;
    if length < SHORTEST {
        return Err("a second at least".into());
    }
    if length > LONGEST {
        return Err("ten years at most; without --for it lasts until it is resumed".into());
    }
    Ok(length)
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let replica = args::replica(config, "", &args.replica)?;
    let (database, pools) = database(config)?;
    let paused = database.pause(&replica, args.length, args.because.as_deref()).await?;
    pools.close().await;
    let pause = paused.with_context(|| args::not_migrated(&replica))?;
    let until = pause.until.map_or_else(|| "it is resumed".to_owned(), utc);
    let because = pause.because.map(|why| format!(" ({})", Untrusted(&why))).unwrap_or_default();
    output::line(&format!("{replica} is paused until {until}{because}"))?;
    output::line(&format!(
        "Daemons begin no copy to it from now on (within 5s at the latest); copies under way are finished, and it is \
         still read. `copyhold resume {replica}` ends it."
    ))?;
    Ok(Verdict::Good)
}
