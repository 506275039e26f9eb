//! `copyhold replica remove`: asks first, then drops the replica from the schema.

use anyhow::bail;
use copyhold_core::domain::ReplicaName;
use copyhold_db::schema::{RemovalObstacle, RemoveResult};

use super::{super::logging, Confirmation, Verdict, args, database, names, output, walk};
use crate::config::Config;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
In this order: drain the replica; remove it from the configuration of every daemon, and from this one; restart the daemons; \
remove it. Its bucket stays as it is. The command connects as the role that owns the tables, as `migrate` does. It can be \
interrupted and repeated at any time.")]
pub(in crate::cli) struct Args {
    /// The replica
    #[arg(value_name = "REPLICA")]
    replica: String,
    /// Print what prevents it, and do nothing; exit code 1 if something does
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let (database, pools) = database(config)?;
    let rows = database.replica_rows().await?;
    let replica = args::row(&rows, &args.replica)?.name.clone();
    // Where no daemon runs, only this command notes a crash; without it the time to wait for would never begin.
    database.note_crash().await?;
    let named = config.replica(&replica).is_some().then(|| {
        format!("this configuration still names it: take [replicas.{replica}] out, and out of that of every daemon")
    });
    if args.check {
        let mut found = database.removal_obstacles(&replica).await?;
        let seen = walk::holdings(&database, &replica, &names(config, &rows)).await?;
        if let Some(example) = seen.alone_example.filter(|_| seen.alone > 0) {
            found.push(RemovalObstacle::OnlyHolder { objects: seen.alone, example });
        }
        pools.close().await;
        let says = named.into_iter().chain(found.iter().map(|obstacle| obstacle.says(&replica))).collect::<Vec<_>>();
        if says.is_empty() {
            let copies = output::count(seen.recorded.unsigned_abs(), "copy", "copies");
            output::line(&format!(
                "nothing is in the way of removing {replica}: each of its {copies} is elsewhere as well"
            ))?;
            return Ok(Verdict::Good);
        }
        for obstacle in says {
            output::line(&obstacle)?;
        }
        return Ok(Verdict::Bad);
    }
    if let Some(named) = named {
        bail!("{replica} is not removed: {named}");
    }
    let found = database.removal_obstacles(&replica).await?;
    if !found.is_empty() {
        bail!("{replica} is not removed: {}", all(&replica, &found));
    }
    let seen = walk::holdings(&database, &replica, &names(config, &rows)).await?;
    pools.close().await;
    if seen.recorded > 0 {
        let copies = output::count(seen.recorded.unsigned_abs(), "copy", "copies");
        let known = output::bytes(seen.recorded_bytes);
        let costs = format!(
            "all that is on record of {replica} is forgotten, {copies} of {known}; if it comes back, each is read or made again. Its \
             bucket stays as it is"
        );
        if !args.confirmation.ask(&[costs])? {
            return Ok(Verdict::Bad);
        }
    }
    // It may have to wait, and logs for which sessions.
    logging::start(&config.log)?;
    match copyhold_db::schema::remove(config, &replica).await? {
        RemoveResult::Done(removed) => {
            output::line(&format!("{replica} is removed, and all that was on record of it; its bucket is as it was"))?;
            if removed.uploads > 0 {
                output::line(&format!(
                    "{} not finished there: abort what is left of them, or let a lifecycle rule do so",
                    output::count(removed.uploads, "upload in parts was", "uploads in parts were")
                ))?;
            }
            Ok(Verdict::Good)
        }
        RemoveResult::Prevented(found) => bail!("{replica} is not removed: {}", all(&replica, &found)),
        RemoveResult::Unknown => {
            output::line(&format!("{replica} is removed: another command was faster"))?;
            Ok(Verdict::Good)
        }
    }
}

fn all(replica: &ReplicaName, found: &[RemovalObstacle]) -> String {
    found.iter().map(|obstacle| obstacle.says(replica)).collect::<Vec<_>>().join("; ")
}
