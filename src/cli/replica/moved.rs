//! `copyhold replica move`: the replica is another bucket from now on.

use anyhow::{Context as _, bail};
use copyhold_db::pin::Pin;
use copyhold_db::{
    Database,
    replica::BucketMove,
    stats::{DaemonIds, list_daemons},
};

use super::{Confirmation, Verdict, args, cost, database, names, output, reset, walk};
use crate::config::Config;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Name the new endpoint or bucket in the configuration of every daemon first: until this command the daemons do not use the \
replica. No record of the old bucket counts for the new one. The command can be interrupted at any time: the same command goes on.")]
pub(in crate::cli) struct Args {
    /// The replica
    #[arg(value_name = "REPLICA")]
    replica: String,
    /// The new bucket holds the same objects: compare each with another copy before anything is written
    #[arg(long)]
    same_content: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let (database, pools) = database(config)?;
    let rows = database.replica_rows().await?;
    let row = args::row(&rows, &args.replica)?;
    let (replica, others) = (row.name.clone(), names(config, &rows));
    let to = config.replica(&replica).map(Pin::from);
    let to = to.with_context(|| {
        format!("this configuration has no replica {replica}: its endpoint and bucket there are where it moves to")
    })?;
    let unfinished = database.find_reset(&replica).await?;
    if let Some(unfinished) = &unfinished {
        let verb = reset::goes_on(unfinished)?;
        let done = reset::finish(&database, &replica, &others).await?;
        reset::say(&replica, verb, &done)?;
    }
    let Some(from) = &row.pin else {
        bail!(
            "{replica} was not used yet, so there is nothing to move: daemons take the bucket that they are configured with"
        );
    };
    if *from == to {
        if unfinished.is_some() {
            pools.close().await;
            return Ok(Verdict::Good);
        }
        bail!("{replica} is {from}, as the configuration says: there is nothing to move");
    }
    no_daemon_stays(&database, replica.as_str(), from, &to).await?;
    let mut costs = cost::lines(&replica, &walk::holdings(&database, &replica, &others).await?, false);
    if !costs.is_empty() {
        if args.same_content {
            costs.push(format!("what {to} has already is read there and compared, and not sent"));
        }
        if !args.confirmation.ask(&costs)? {
            return Ok(Verdict::Bad);
        }
        // The answer may have taken its time.
        no_daemon_stays(&database, replica.as_str(), from, &to).await?;
    }
    let left = database.count_uploads(&replica).await?;
    let what = BucketMove { from, to: &to, same_content: args.same_content };
    database.begin_move(&replica, what, config.lease.settle()).await?;
    let done = reset::finish(&database, &replica, &others).await?;
    pools.close().await;
    output::line(&format!("{replica} is {to} from now on, no longer {from}"))?;
    reset::say(&replica, "move", &done)?;
    if args.same_content {
        output::line(
            "what is there already is compared with another copy and counts if it is equal; nothing is written over",
        )?;
    }
    if left > 0 {
        output::line(&format!(
            "{} not finished in the old bucket: abort what is left of them there, or let a lifecycle rule do so",
            output::count(left.unsigned_abs(), "upload in parts was", "uploads in parts were")
        ))?;
    }
    Ok(Verdict::Good)
}

/// Checks that no living daemon would still write to the old bucket.
async fn no_daemon_stays(database: &Database, replica: &str, from: &Pin, to: &Pin) -> anyhow::Result<()> {
    let peers = database.peers().await?.into_iter();
    let staying: DaemonIds =
        peers.filter(|peer| peer.config.replicas.get(replica) == Some(from)).map(|peer| peer.id).collect();
    if staying.is_empty() {
        return Ok(());
    }
    bail!(
        "{} still uses {from}: name {to} in the configuration of every daemon and restart them, then move",
        list_daemons(&staying)
    )
}
