//! `copyhold promote`: reports what would be missing, may wait for it, and changes the primary.

mod readiness;

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use copyhold_core::domain::{ReplicaName, utc};
use copyhold_db::pin::Pin;
use copyhold_db::{
    Database,
    lease::UnsettledState,
    replica::{Primary, PromoteResult, ReplicaRow},
    retry_while_down::retry_while_down,
    stats::MissingCopies,
};

use super::{Verdict, args, database, output, replica::walk};
use crate::config::Config;
use readiness::Readiness;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
With nothing missing at the end: stop writing, run `promote R --wait 5m`, then upload to R. --check prints what would be missing. \
--accept-missing promotes R although copies are missing, for when the primary is lost: what R lacks is copied from the other \
replicas.

Exit codes: 0 it is the primary (--check: it could be, and nothing would be missing); 1 it is not (something would).")]
pub(super) struct Args {
    /// The replica
    #[arg(value_name = "REPLICA")]
    replica: String,
    /// Say what would be missing if it were the primary now, and change nothing
    #[arg(long, conflicts_with_all = ["accept_missing", "wait"])]
    check: bool,
    /// Promote it though it lacks copies, or a write to it may still arrive whose end was not seen
    #[arg(long)]
    accept_missing: bool,
    /// Wait for so long, as 5m, until it lacks nothing and no write to it can arrive any more
    #[arg(long, value_name = "TIME", value_parser = args::time, conflicts_with = "accept_missing")]
    wait: Option<Duration>,
}

/// How often the command checks whether copies are still missing.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let (database, pools) = database(config)?;
    let rows = database.replica_rows().await?;
    let row = args::row(&rows, &args.replica)?;
    let replica = &row.name;
    let from = database.primary().await?.context("the database knows no primary; run `copyhold migrate`")?;
    // Where no daemon runs, only this command notes a crash; without it the time to wait for would never begin.
    database.note_crash().await?;
    let mut blockers = blockers(config, row, &from);
    if !database.has_any_copy(replica).await? {
        blockers.push("it has no copy of any object: it was never used, or its bucket was lost".to_owned());
    }
    let others: Vec<_> = rows.iter().map(|row| row.name.clone()).collect();
    if args.check {
        let outlook = Readiness::of(&database, replica, &others).await?;
        pools.close().await;
        output::line(&outlook.text(replica, &from.name))?;
        for blocker in &blockers {
            output::line(&format!("it cannot be promoted: {blocker}"))?;
        }
        return Ok(if blockers.is_empty() && outlook.is_whole() { Verdict::Good } else { Verdict::Bad });
    }
    if !blockers.is_empty() {
        bail!("{replica} is not promoted: {}", blockers.join("; "));
    }
    let until = args.wait.map(|wait| Instant::now() + wait);
    if !args.accept_missing {
        wait(&database, replica, until).await?;
        // A count of what is wanted here does not see what is wanted at the primary alone.
        let seen = walk::holdings(&database, replica, &others).await?;
        if seen.unwanted > 0 {
            bail!(
                "{replica} is not promoted: {} not wanted there and would be missing; --accept-missing promotes it all the \
                 same, `copyhold promote {replica} --check` says more",
                output::count(seen.unwanted.unsigned_abs(), "object is", "objects are")
            );
        }
    }
    let since = loop {
        if let Some(since) = promote(&database, replica, &from, args.accept_missing).await? {
            break utc(since);
        }
        // Something was registered in between.
        wait(&database, replica, until).await?;
    };
    // By now it is the primary, whether this can be printed or not.
    let missing = database.missing_at(std::slice::from_ref(replica)).await.unwrap_or_default();
    pools.close().await;
    output::line(&format!("{replica} is the primary since {since}, in place of {}", from.name))?;
    output::line(&format!(
        "Daemons follow within 5s, `copyhold.register` does already. Upload to {} from now on, and where the application names a \
         column in its INSERTs, name {replica}. primary = \"{replica}\" in the configurations can follow at leisure.",
        row.pin.as_ref().map_or_else(|| replica.to_string(), ToString::to_string)
    ))?;
    if let Some(MissingCopies { objects: lacks @ 1.., .. }) = missing.first() {
        output::line(&format!(
            "it lacks {}, made from the other replicas as far as one has them (`copyhold promote {} --check` tells what {0} \
             lacks of what it has)",
            output::count(lacks.unsigned_abs(), "copy", "copies"),
            from.name
        ))?;
    }
    Ok(Verdict::Good)
}

/// Returns why it cannot be the primary, whatever copies it has.
fn blockers(config: &Config, row: &ReplicaRow, from: &Primary) -> Vec<String> {
    let name = &row.name;
    let mut blockers = Vec::new();
    if from.name == *name {
        blockers.push(format!("it is the primary already, since {}", utc(from.since)));
    }
    match config.replica(name) {
        None => blockers.push("this configuration does not have it".to_owned()),
        Some(replica) => {
            blockers.extend(row.pin.as_ref().and_then(|pin| pin.forbids(&Pin::from(replica), name)));
            if !replica.read {
                blockers.push(format!(
                    "read = false in [replicas.{name}]: it is no source, and the primary is the first of all"
                ));
            }
        }
    }
    if row.draining.is_some() {
        blockers.push(format!("it is draining: `copyhold replica undrain {name}`"));
    }
    if row.resetting {
        blockers.push(format!("its copies are being cleared: `copyhold replica reset {name}` goes on with that"));
    }
    if row.pause.is_some() {
        blockers.push(format!("it is paused: `copyhold resume {name}`"));
    }
    if let Some(breaker) = &row.breaker {
        blockers.push(format!("its store is unhealthy: {}", output::Untrusted(&breaker.why())));
    }
    blockers
}

/// Waits until it lacks nothing and all is settled; returns at once if the command is not to wait.
async fn wait(database: &Database, replica: &ReplicaName, until: Option<Instant>) -> anyhow::Result<()> {
    loop {
        let missing = retry_while_down(async || database.missing_at(std::slice::from_ref(replica)).await).await?;
        let missing = missing.into_iter().next().filter(|missing| missing.objects > 0);
        let unsettled = retry_while_down(async || database.unsettled_at(replica).await).await?;
        if missing.is_none() && unsettled.is_settled() {
            return Ok(());
        }
        if until.is_none_or(|until| Instant::now() >= until) {
            let Some(missing) = missing else { return Err(not_settled(replica, unsettled)) };
            let lately = database.recently_missing(replica).await?;
            return Err(lacking(replica, &missing, lately));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn not_settled(replica: &ReplicaName, unsettled: UnsettledState) -> anyhow::Error {
    let wait = Duration::from_secs(unsettled.settled_in.as_secs() + 30);
    let why = if unsettled.copies > 0 {
        let copies = output::count(unsettled.copies.unsigned_abs(), "copy is", "copies are");
        format!("{copies} there not settled. A write was sent whose end was not seen, and may still arrive")
    } else {
        "PostgreSQL has crashed lately, and a write of an unknown holder may be under way".to_owned()
    };
    anyhow::anyhow!(
        "{replica} is not promoted: {why}. `copyhold promote {replica} --wait {}` promotes it as soon as nothing can \
         arrive; --accept-missing does it now",
        humantime::format_duration(wait)
    )
}

fn lacking(replica: &ReplicaName, missing: &MissingCopies, lately: i64) -> anyhow::Error {
    let copies = output::count(missing.objects.unsigned_abs(), "copy", "copies");
    let lately = if lately > 0 {
        format!(", {lately} of them leased by a daemon or registered within the last minute")
    } else {
        String::new()
    };
    let parked = if missing.parked > 0 {
        format!(", {} of them parked (`copyhold status`)", missing.parked)
    } else {
        String::new()
    };
    anyhow::anyhow!(
        "{replica} is not promoted: it lacks {copies}{lately}{parked}. Stop writing, and let `copyhold promote {replica} --wait 5m` \
         do it as soon as nothing is missing; --accept-missing does it all the same, `copyhold promote {replica} --check` says \
         what would be missing"
    )
}

/// Since when it is the primary; `None`: it is not, because it lacks something, and that was not accepted.
async fn promote(
    database: &Database,
    replica: &ReplicaName,
    from: &Primary,
    accept_missing: bool,
) -> anyhow::Result<Option<i64>> {
    let begun = Instant::now();
    loop {
        match database.promote(replica, from, accept_missing).await {
            Ok(PromoteResult::Promoted { since }) => return Ok(Some(since)),
            Ok(PromoteResult::TooLate) => {
                let now = database.primary().await?.context("the database knows no primary; run `copyhold migrate`")?;
                bail!(
                    "{replica} is not promoted: {} is the primary since {}, promoted by another command at this moment; look again \
                     with `copyhold promote {replica} --check`",
                    now.name,
                    utc(now.since)
                )
            }
            Ok(PromoteResult::Lacks) => return Ok(None),
            Ok(PromoteResult::Unfit) => bail!(
                "{replica} is not promoted: it was paused, drained or reset at this moment, or its store has become unhealthy; \
                 `copyhold promote {replica} --check` says which"
            ),
            // Another transaction has locked its row, or the log.
            Err(error) if error.is_lock_timeout() && begun.elapsed() < Duration::from_secs(10) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
