//! `copyhold run`: starts the daemon.

use anyhow::Context as _;
use tracing::info;

use super::{Verdict, logging};
use crate::{
    config::Config,
    daemon,
    daemon::shutdown::{ExitReason, Hangups},
    metrics,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Bring the schema up to date first, as `copyhold migrate` would
    #[arg(long)]
    migrate: bool,
}

/// `hangups`: listened to since before the configuration was read.
pub(super) async fn run(config: Config, args: Args, hangups: Hangups) -> anyhow::Result<Verdict> {
    logging::start(&config.log)?;
    let metrics = metrics::install().context("cannot start metrics")?;
    info!("Copyhold {} starts", env!("CARGO_PKG_VERSION"));
    match daemon::run(config, args.migrate, metrics, hangups).await? {
        ExitReason::Signal => {
            info!("Copyhold has ended");
            Ok(Verdict::Good)
        }
        ExitReason::TaskEnded(_) => Ok(Verdict::Bad),
    }
}
