//! `copyhold verify`: which objects and replicas are verified, and how thoroughly.

mod progress;
mod report;
mod sample_size;

use std::num::NonZeroUsize;

use anyhow::{Context as _, bail};
use copyhold_core::domain::{ObjectKey, ReplicaName};
use copyhold_db::pin::Pin;
use copyhold_db::walk::{KeySample, ObjectRange};
use copyhold_s3::store::Store;
use tokio_util::sync::CancellationToken;

use super::{Verdict, args, database, output, progress::Bar, stop::StopSignals};
use crate::{
    audit::{Audit, AuditedReplica, Depth, Objects},
    config::Config,
};
use report::{Report, SkippedReplica};
use sample_size::SampleSize;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each copy on record is read to its end and compared with size, hash (CRC-64/NVME) and metadata of the object. A copy that is \
missing, or has other bytes or metadata in two readings, loses its record, and the daemons copy it again. A copy that the store \
does not let be read is unknown and stays on record. An object that was overwritten at the primary is registered again. An \
object without a good copy is not copied until it is retried (`copyhold explain KEY`, `copyhold retry KEY`).

Exit codes: 0 every copy that was read is as recorded; 1 something is missing or wrong, and its record was cleared \
(not with --dry-run); 2 it could not be done, or only partly.

It needs no daemon and locks no row: daemons may run. Ctrl-C ends it with a report of what was done and how to go on.")]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true))]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(super) struct Args {
    /// Keys, byte for byte
    #[arg(value_name = "KEY", group = "which", conflicts_with_all = ["prefix", "sample", "seed", "after"])]
    keys: Vec<String>,
    /// All objects whose keys begin with it, byte for byte
    #[arg(long, value_name = "PREFIX", group = "which")]
    prefix: Option<String>,
    /// A share of all objects, or of those with the prefix, chosen at random: 0.1%, or 100% for all
    #[arg(long, value_name = "SHARE", group = "which")]
    sample: Option<SampleSize>,
    /// Choose the same objects as an earlier sample, whose report has its seed
    #[arg(long, value_name = "NUMBER", requires = "sample")]
    seed: Option<u32>,
    /// Only objects that come after this key in the order of bytes: where an earlier run ended
    #[arg(long, value_name = "KEY")]
    after: Option<String>,
    /// Copies at this replica only; may be repeated [default: all that may be read]
    #[arg(long = "replica", value_name = "REPLICA")]
    replicas: Vec<String>,
    /// Read nothing where the store says that it has the size, and if it knows that the hash, on record
    #[arg(long)]
    quick: bool,
    /// Compare metadata alone, by one HEAD per copy: with what is on record, else with the primary's
    #[arg(long, conflicts_with = "quick")]
    metadata: bool,
    /// With --metadata, requests to one store at most; fewer while it throttles [default: 50]
    #[arg(long, value_name = "N", requires = "metadata", value_parser = args::per_second)]
    requests_per_second: Option<f64>,
    /// Look, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Copies that are read at once
    #[arg(long, value_name = "N", default_value = "8", value_parser = args::up_to::<WORKERS_AT_MOST>)]
    workers: NonZeroUsize,
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
}

/// With --metadata, to one store.
const REQUESTS_PER_SECOND: f64 = 50.0;
/// More connections than that to one store gain nothing.
const WORKERS_AT_MOST: usize = 256;

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Verdict> {
    let sample = args.sample.map(|share| KeySample { share: share.0, seed: args.seed.unwrap_or_else(rand::random) });
    let objects = objects(&args, sample)?;
    let (database, pools) = database(config)?;
    let rows = database.replica_rows().await?;
    let (replicas, left_out) = replicas(config, &rows, &args.replicas)?;
    let total = match &objects {
        Objects::These(keys) => Some(keys.len() as u64),
        Objects::Range { range, after } => {
            let first = database.recorded_page(&ObjectRange { sample: None, ..range.clone() }, after.as_ref()).await?;
            if first.objects.is_empty() {
                bail!("{}", nothing_there(range, after.as_ref()));
            }
            // For the bar alone.
            database.count_range(range, after.as_ref()).await.ok().flatten()
        }
    };
    let mut audited = Vec::new();
    for replica in &replicas {
        // Cannot fail: the names are the configuration's.
        let replica = config.replica(replica).expect("a replica of the configuration");
        let subject = AuditedReplica::new(Store::connect(&replica.into(), args.workers.get()).await?);
        let rate = args.requests_per_second.unwrap_or(REQUESTS_PER_SECOND);
        audited.push(if args.metadata { subject.at_most_per_second(rate) } else { subject });
    }
    let Some(primary) = rows.into_iter().find(|row| row.primary).map(|row| row.name) else {
        bail!("the database knows no primary; run `copyhold migrate`");
    };
    let audit =
        Audit::new(database, primary.clone(), audited, args.workers.get()).depth(args.depth()).dry_run(args.dry_run);
    let audit = audit.unregistered_changes(config.guard.changed);

    // Listened to before anything is read.
    let mut signals = StopSignals::listen()?;
    let stop = CancellationToken::new();
    let bar = Bar::new(total, "objects");
    let begun = std::time::Instant::now();
    let ended = {
        let mut running = std::pin::pin!(audit.run(objects, &stop));
        loop {
            tokio::select! {
                ended = &mut running => break ended,
                () = bar.due() => bar.show(audit.objects(), &progress::message(&audit)),
                () = signals.next() => stop.cancel(),
            }
        }
    };
    bar.clear();
    pools.close().await;
    let report = Report::new(&audit, ended, &primary, left_out, begun.elapsed()).asked(
        args.depth(),
        args.dry_run,
        sample,
        stop.is_cancelled(),
    );
    if args.json {
        output::json(&report)?;
    } else {
        output::line(&report.text())?;
    }
    Ok(report.verdict())
}

impl Args {
    fn depth(&self) -> Depth {
        match (self.quick, self.metadata) {
            (_, true) => Depth::Metadata,
            (true, false) => Depth::Quick,
            (false, false) => Depth::Bytes,
        }
    }
}

fn objects(args: &Args, sample: Option<KeySample>) -> anyhow::Result<Objects> {
    if !args.keys.is_empty() {
        return Ok(Objects::These(args::distinct_keys(args.keys.clone(), "nothing was verified")?));
    }
    if args.prefix.as_deref() == Some("") {
        bail!("--prefix is empty; if all objects are meant, say --sample 100%");
    }
    if args.prefix.as_ref().is_some_and(|prefix| prefix.contains('\0')) {
        bail!("--prefix: no key has a NUL byte");
    }
    let after = args.after.clone().map(ObjectKey::new).transpose().context("--after")?;
    Ok(Objects::Range { range: ObjectRange { prefix: args.prefix.clone(), sample }, after })
}

fn nothing_there(range: &ObjectRange, after: Option<&ObjectKey>) -> String {
    let with = range.prefix.as_ref().map(|prefix| format!(" that begins with \"{}\"", output::Untrusted(prefix)));
    let behind = after.map(|key| format!(" after \"{key}\""));
    format!("no key{}{} is registered", with.unwrap_or_default(), behind.unwrap_or_default())
}

/// The replicas that are verified, and those that cannot be.
fn replicas(
    config: &Config,
    rows: &[copyhold_db::replica::ReplicaRow],
    asked: &[String],
) -> anyhow::Result<(Vec<ReplicaName>, Vec<SkippedReplica>)> {
    let mut wanted = Vec::new();
    for name in asked {
        let name = args::replica(config, "--replica: ", name)?;
        if !wanted.contains(&name) {
            wanted.push(name);
        }
    }
    let (mut replicas, mut left_out) = (Vec::new(), Vec::new());
    for replica in config.replicas.iter().filter(|r| wanted.is_empty() || wanted.contains(&r.name)) {
        let name = replica.name.clone();
        let row = rows.iter().find(|row| row.name == name);
        let other_bucket = || row?.pin.as_ref()?.forbids(&Pin::from(replica), &replica.name);
        let why = if row.is_none() {
            (args::not_migrated(&name), true)
        } else if let Some(why) = other_bucket() {
            (why, true)
        } else if !replica.read {
            (format!("read = false in [replicas.{name}]: it cannot be read"), false)
        } else {
            replicas.push(name);
            continue;
        };
        let (why, unexpected) = why;
        if wanted.contains(&name) {
            bail!("--replica: {name} cannot be verified: {why}");
        }
        left_out.push(SkippedReplica { replica: name.to_string(), why, unexpected });
    }
    if replicas.is_empty() {
        let whys: Vec<_> = left_out.iter().map(|out| format!("{}: {}", out.replica, out.why)).collect();
        bail!("no replica can be verified: {}", whys.join("; "));
    }
    Ok((replicas, left_out))
}
