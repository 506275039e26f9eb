use anyhow::{Context as _, bail};

use super::{Verdict, given, names, queue, reset, show};
use crate::{
    config::Config,
    queue::{Ids, Move, Pin, Queue, list},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Name the new endpoint or bucket in the configuration of every daemon first: until this command they leave the replica alone. No \
record of the old bucket counts for the new one. It can be broken off at any time: the same command goes on.")]
pub(in crate::cli) struct Args {
    /// The replica
    #[arg(value_name = "REPLICA")]
    replica: String,
    /// The new place holds the same objects: compare each with another copy before anything is written
    #[arg(long)]
    same_content: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let (queue, pools) = queue(config)?;
    let rows = queue.replica_rows().await?;
    let row = given::row(&rows, &args.replica)?;
    let (replica, others) = (row.name.clone(), names(&rows));
    let to = config.replica(&replica).map(Pin::of);
    let to = to.with_context(|| {
        format!("this configuration has no replica {replica}: its endpoint and bucket there are where it moves to")
    })?;
    let unfinished = queue.find_reset(&replica).await?;
    if let Some(unfinished) = &unfinished {
        let verb = reset::goes_on(unfinished)?;
        let done = reset::finish(&queue, &replica, &others).await?;
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
    let staying = staying(&queue, replica.as_str(), from).await?;
    if !staying.is_empty() {
        bail!(
            "{} still uses {from}: name {to} in the configuration of every daemon and restart them, then move",
            list(&staying)
        );
    }
    let left = queue.count_uploads(&replica).await?;
    let what = Move { from, to: &to, same_content: args.same_content };
    queue.begin_move(&replica, what, config.lease.settle()).await?;
    let done = reset::finish(&queue, &replica, &others).await?;
    pools.close().await;
    show::line(&format!("{replica} is {to} from now on, no longer {from}"))?;
    reset::say(&replica, "move", &done)?;
    if args.same_content {
        show::line(
            "what is there already is compared with another copy and counts if it is equal; nothing is written over",
        )?;
    }
    if left > 0 {
        show::line(&format!(
            "{} not finished in the old bucket: abort what is left of them there, or let a lifecycle rule do so",
            show::count(left.unsigned_abs(), "upload in parts was", "uploads in parts were")
        ))?;
    }
    Ok(Verdict::Good)
}

/// The living daemons that would go on writing to the old place.
async fn staying(queue: &Queue, replica: &str, from: &Pin) -> anyhow::Result<Ids> {
    let peers = queue.peers().await?;
    Ok(peers.into_iter().filter(|peer| peer.config.replicas.get(replica) == Some(from)).map(|peer| peer.id).collect())
}
