//! `copyhold scan`: which buckets are listed, and with what limits.

mod progress;
mod report;

use std::num::NonZeroUsize;

use anyhow::bail;
use copyhold_core::domain::{ObjectKey, ReplicaName};
use copyhold_db::pin::Pin;
use copyhold_db::{
    Database,
    replica::{Admission, ReplicaRow},
    walk::ScanArguments,
};
use copyhold_s3::store::Store;
use tokio_util::sync::CancellationToken;

use super::{Verdict, args, database, output, stop::StopSignals};
use crate::{
    config::{self, Config, Existing},
    scan::{Begin, Lister, Scan, fold},
};
use progress::Bar;
use report::{Report, SkippedReplica};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each listed object that is not registered is registered, as if the application had done so. Its copy at the listed replica is \
trusted until a daemon first reads it, and all other copies that are wanted are due. Registered objects stay as they are. A \
listing is never taken to show that an object is missing.

It can be ended or killed at any time: the same command goes on where it was. Daemons may run, and the application may register \
objects.

Exit codes: 0 all of it is listed; 1 it could not be done, or only partly; 2 the command line or the configuration is wrong.")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Args {
    /// The replica whose bucket is listed [default: the primary in force]
    #[arg(long, value_name = "REPLICA")]
    replica: Option<String>,
    /// Only keys that begin with it, byte for byte; may be repeated
    #[arg(long = "prefix", value_name = "PREFIX")]
    prefixes: Vec<String>,
    /// List the other replicas as well, and record their copies that have the same size and a comparable checksum
    #[arg(long)]
    adopt: bool,
    /// Count, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// List from the first key, whatever an earlier run came to
    #[arg(long)]
    from_start: bool,
    /// Ranges of keys that are listed at the same time
    #[arg(long, value_name = "N", default_value = "4", value_parser = args::up_to::<PARALLEL_AT_MOST>)]
    parallel: NonZeroUsize,
    /// Requests to one store at most; fewer while it throttles
    #[arg(long, value_name = "N", default_value = "50", value_parser = args::per_second)]
    requests_per_second: f64,
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
}

/// More than that at once does no store good.
const PARALLEL_AT_MOST: usize = 64;

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let prefixes = prefixes(&args.prefixes)?;
    let (database, pools) = database(config)?;
    let rows = database.replica_rows().await?;
    let replica = listed(config, &rows, args.replica.as_deref())?;
    let (others, left_out) = if args.adopt { adoptable(config, &rows, &replica.name)? } else { (vec![], vec![]) };
    if !args.dry_run {
        pin(&database, std::iter::once(replica).chain(others.iter().copied())).await?;
    }
    let lister = async |replica: &config::ReplicaSettings| {
        let store = Store::connect(&replica.into(), args.parallel.get()).await?;
        anyhow::Ok(Lister::new(store, args.requests_per_second))
    };
    let mut beside = Vec::new();
    for other in others {
        beside.push(lister(other).await?);
    }
    let arguments = ScanArguments { prefixes, adopt: args.adopt, pin: Pin::from(replica) };
    let scan = Scan::new(database, lister(replica).await?, beside, arguments, args.parallel.get());

    // Listened to before anything is listed.
    let mut signals = StopSignals::listen()?;
    let stop = CancellationToken::new();
    let begin = match (args.dry_run, args.from_start) {
        (true, _) => Begin::DryRun,
        (false, true) => Begin::FromStart,
        (false, false) => Begin::Anywhere,
    };
    let mut bar = Bar::new();
    let started = std::time::Instant::now();
    let ended = {
        let mut running = std::pin::pin!(scan.run(begin, &stop));
        loop {
            tokio::select! {
                ended = &mut running => break ended,
                () = bar.due() => bar.show(&scan),
                () = signals.next() => stop.cancel(),
            }
        }
    };
    bar.clear();
    pools.close().await;
    let report = Report::new(&scan, ended, left_out, started.elapsed()).asked(args.adopt, args.dry_run, args.prefixes);
    if args.json {
        output::json(&report)?;
    } else {
        output::line(&report.text())?;
    }
    Ok(report.verdict())
}

fn prefixes(given: &[String]) -> anyhow::Result<Vec<String>> {
    for prefix in given {
        if prefix.is_empty() {
            bail!("--prefix is empty; leave it away if all objects are meant");
        }
        if let Err(why) = ObjectKey::new(prefix.as_str()) {
            bail!("--prefix: no key begins with \"{}\": {why}", output::Untrusted(prefix));
        }
    }
    Ok(fold(given.iter().cloned()))
}

/// The replica to be listed.
fn listed<'a>(
    config: &'a Config,
    rows: &[ReplicaRow],
    asked: Option<&str>,
) -> anyhow::Result<&'a config::ReplicaSettings> {
    let name = match asked {
        Some(name) => args::replica(config, "--replica: ", name)?,
        None => match rows.iter().find(|row| row.primary) {
            Some(row) => row.name.clone(),
            None => bail!("the database knows no primary; run `copyhold migrate`"),
        },
    };
    let Some(replica) = config.replica(&name) else {
        bail!("the primary in force is {name}, which the configuration does not have: name one with --replica");
    };
    let Some(row) = rows.iter().find(|row| row.name == name) else { bail!("{}", args::not_migrated(&name)) };
    if let Some(why) = forbidden(row, replica) {
        bail!("replica {name} is not scanned: {why}");
    }
    Ok(replica)
}

fn forbidden(row: &ReplicaRow, replica: &config::ReplicaSettings) -> Option<String> {
    row.pin.as_ref()?.forbids(&Pin::from(replica), &replica.name)
}

/// The other replicas whose copies may be adopted, and why not those of the rest.
fn adoptable<'a>(
    config: &'a Config,
    rows: &[ReplicaRow],
    listed: &ReplicaName,
) -> anyhow::Result<(Vec<&'a config::ReplicaSettings>, Vec<SkippedReplica>)> {
    let (mut adoptable, mut left_out) = (Vec::new(), Vec::new());
    for replica in config.replicas.iter().filter(|replica| replica.name != *listed) {
        let row = rows.iter().find(|row| row.name == replica.name);
        let why = match row {
            None => Some(args::not_migrated(&replica.name)),
            Some(row) => forbidden(row, replica).or_else(|| not_to_adopt(row, replica)),
        };
        match why {
            None => adoptable.push(replica),
            Some(why) => left_out.push(SkippedReplica { replica: replica.name.to_string(), why }),
        }
    }
    if adoptable.is_empty() {
        let whys: Vec<_> = left_out.iter().map(|out| format!("{}: {}", out.replica, out.why)).collect();
        bail!("--adopt: there is no replica whose copies may be adopted: {}", whys.join("; "));
    }
    Ok((adoptable, left_out))
}

fn not_to_adopt(row: &ReplicaRow, replica: &config::ReplicaSettings) -> Option<String> {
    match (&row.admission, replica.existing) {
        (Some((Admission::Adopt, _)), _) | (None, Some(Existing::Adopt)) => None,
        (Some((Admission::Empty, _)), _) => {
            Some("its bucket was empty when it was first written to: what it has was copied there".into())
        }
        (Some((Admission::Overwrite, _)), _) | (None, Some(Existing::Overwrite)) => {
            Some("what its bucket held is to be overwritten (existing = \"overwrite\")".into())
        }
        (None, None) => Some(format!("say existing = \"adopt\" in [replicas.{}]", replica.name)),
    }
}

/// Ties the replicas to their buckets before anything is recorded of them, as the daemons do.
async fn pin<'a>(
    database: &Database,
    replicas: impl Iterator<Item = &'a config::ReplicaSettings>,
) -> anyhow::Result<()> {
    let replicas: Vec<_> = replicas.collect();
    for replica in &replicas {
        database.pin(&replica.name, &Pin::from(*replica)).await?;
    }
    // Another command or daemon may have been first.
    for row in database.replica_rows().await? {
        let replica = replicas.iter().find(|replica| replica.name == row.name);
        if let Some(why) = replica.and_then(|replica| forbidden(&row, replica)) {
            bail!("replica {} is not scanned: {why}", row.name);
        }
    }
    Ok(())
}
