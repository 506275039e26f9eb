//! `copyhold replica reset`: clears the records of a bucket that was lost.

use anyhow::{Context as _, bail};
use copyhold_core::domain::{ReplicaName, utc};
use copyhold_db::pin::Pin;
use copyhold_db::{Database, replica::Reset};

use super::{Confirmation, Verdict, args, cost, database, names, output, walk};
use crate::config::Config;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
For a bucket that was lost or emptied, and exists again under the same name. Copies that daemons have recorded since the \
command began stay; all others are due at once. The command can be interrupted at any time: the same command goes on.")]
pub(in crate::cli) struct Args {
    /// The replica
    #[arg(value_name = "REPLICA")]
    replica: String,
    /// Print what it would do, and do nothing; exit code 1 if an object would have no copy left
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let (database, pools) = database(config)?;
    let rows = database.replica_rows().await?;
    let row = args::row(&rows, &args.replica)?;
    let (replica, others) = (row.name.clone(), names(config, &rows));
    if let Some((pin, place)) = row.pin.as_ref().zip(config.replica(&replica).map(Pin::from))
        && *pin != place
    {
        bail!(
            "the recorded copies of {replica} are in {pin}, this configuration names {place}: `copyhold replica move \
             {replica}` takes that into use"
        );
    }
    if args.check {
        let seen = walk::holdings(&database, &replica, &others).await?;
        pools.close().await;
        let lines = cost::lines(&replica, &seen, true);
        if lines.is_empty() {
            output::line(&format!("nothing is on record of {replica}, so there is nothing to clear"))?;
        }
        for line in lines {
            output::line(&line)?;
        }
        return Ok(if seen.alone > 0 { Verdict::Bad } else { Verdict::Good });
    }
    let verb = if let Some(unfinished) = database.find_reset(&replica).await? {
        goes_on(&unfinished)?
    } else {
        let costs = cost::lines(&replica, &walk::holdings(&database, &replica, &others).await?, false);
        if !costs.is_empty() && !args.confirmation.ask(&costs)? {
            return Ok(Verdict::Bad);
        }
        database.begin_reset(&replica, config.lease.settle()).await?;
        "reset"
    };
    let done = finish(&database, &replica, &others).await?;
    pools.close().await;
    say(&replica, verb, &done)?;
    Ok(Verdict::Good)
}

/// Says that it does; which it is.
pub(super) fn goes_on(unfinished: &Reset) -> anyhow::Result<&'static str> {
    let verb = if unfinished.moved { "move" } else { "reset" };
    let reached = unfinished.reached.as_ref().map(|key| format!(" after \"{key}\"")).unwrap_or_default();
    output::line(&format!("the {verb} of {} begun {} goes on{reached}", unfinished.replica, utc(unfinished.before)))?;
    Ok(verb)
}

/// Completes what was begun.
pub(super) async fn finish(
    database: &Database,
    replica: &ReplicaName,
    others: &[ReplicaName],
) -> anyhow::Result<walk::RevokedCounts> {
    let reset = database.find_reset(replica).await?;
    let reset = reset
        .with_context(|| format!("another command has just finished what was begun of {replica}, or removed it"))?;
    Ok(walk::take_back(database, reset, others).await?)
}

pub(super) fn say(replica: &ReplicaName, verb: &str, done: &walk::RevokedCounts) -> anyhow::Result<()> {
    output::line(&format!(
        "{verb} of {replica}: {} cleared, to be made again from the other replicas (`copyhold status` shows how far that is)",
        output::count(done.cleared, "copy was", "copies were")
    ))?;
    if done.alone > 0 {
        let example = done.alone_example.as_ref().map(|key| format!(": \"{key}\", for one")).unwrap_or_default();
        output::line(&format!(
            "{} no copy left anywhere{example}; the primary is asked for them again and again, until they are parked as gone",
            output::count(done.alone, "object has", "objects have")
        ))?;
    }
    Ok(())
}
