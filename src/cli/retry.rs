//! `copyhold retry`: makes parked and waiting copies due now.

use std::time::{Duration, Instant};

use clap::builder::PossibleValuesParser;
use copyhold_core::domain::FailureClass;
use copyhold_db::{
    notify::Notification,
    object::{PARKED_BY_OPERATOR, RetryScope},
};

use super::{Verdict, args, database, output, reschedule_report::Outcome};
use crate::config::Config;

/// How long it waits for a daemon that has leased one of the objects meanwhile.
const LEASED_FOR: Duration = Duration::from_secs(10);
const BUSY_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
#[command(override_usage = "\
copyhold retry [OPTIONS] <KEY>...
       copyhold retry [OPTIONS] --parked
       copyhold retry [OPTIONS] --failing")]
#[command(group = clap::ArgGroup::new("which").args(["parked", "failing", "keys"]).required(true).multiple(true))]
#[command(after_help = "\
Makes parked and waiting copies due now. It changes only copies that are wanted and not on record, and counts their attempts \
from 0. The last failure stays visible until the copy is on record. To repeat a copy that is on record, register its key again \
with `copyhold enqueue`.")]
pub(super) struct Args {
    /// Keys, byte for byte
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    /// All parked copies
    #[arg(long, conflicts_with = "keys")]
    parked: bool,
    /// All parked copies, and all that wait for a later attempt; with or without --parked
    #[arg(long, conflicts_with = "keys")]
    failing: bool,
    /// Copies at this replica only
    #[arg(long, value_name = "REPLICA")]
    replica: Option<String>,
    /// Copies whose last failure was of this class only
    #[arg(long, value_name = "CLASS", value_parser = classes())]
    class: Option<String>,
}

fn classes() -> PossibleValuesParser {
    PossibleValuesParser::new(FailureClass::ALL.map(FailureClass::as_str).into_iter().chain([PARKED_BY_OPERATOR]))
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let keys = args::distinct_keys(args.keys, "nothing was changed")?;
    let replicas = args::replica_or_all(config, args.replica.as_deref())?;
    let (which, none) = match (args.parked, args.failing) {
        (_, true) => (RetryScope::Failing, "no such copy is parked or waits for a later attempt"),
        (true, false) => (RetryScope::Parked, "no such copy is parked"),
        (false, false) => {
            (RetryScope::Keys(&keys), "nothing to retry: no such copy is parked or waits for a later attempt")
        }
    };
    let (database, pools) = database(config)?;
    let mut outcome = Outcome::default();
    for replica in replicas {
        let mut rescheduled = database.retry(&replica, which, args.class.as_deref()).await?;
        // A daemon may lease an object as soon as this command has made its copy at another replica due.
        let patient = matches!(which, RetryScope::Keys(_)) && outcome.copies() > 0;
        let give_up_at = Instant::now() + LEASED_FOR;
        while patient && !rescheduled.busy.is_empty() && Instant::now() < give_up_at {
            tokio::time::sleep(BUSY_PAUSE).await;
            let again = RetryScope::Keys(&rescheduled.busy);
            let again = database.retry(&replica, again, args.class.as_deref()).await?;
            rescheduled.changed += again.changed;
            rescheduled.busy = again.busy;
        }
        outcome.add(replica, rescheduled);
    }
    if outcome.copies() > 0 {
        database.notify(Notification::Work).await?;
    }
    let rows = database.replica_rows().await?;
    pools.close().await;
    output::line(&outcome.headline("due now", none))?;
    for row in rows.iter().filter(|row| row.pause.is_some() && outcome.touched(&row.name)) {
        output::line(&format!("{0} is paused: its copies wait for `copyhold resume {0}`", row.name))?;
    }
    outcome.report_skipped(if keys.is_empty() { None } else { Some(&keys) })
}
