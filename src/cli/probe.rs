//! `copyhold check --probe`: announces the probe of a store, ends it early on a signal, and prints the result.

use std::{fmt::Write as _, io, pin::pin};

use copyhold_core::domain::ReplicaName;
use copyhold_s3::store::{Fact, ProbeEnded, ProbeEndedBy, ProbeReport, Store, Tristate};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{output, output::table, stop::StopSignals};
use crate::config::ReplicaSettings;

// Named, because the command's own arguments are a group of this name already.
#[derive(Debug, clap::Args)]
#[group(id = "probing")]
pub(super) struct Args {
    /// Also measure what each store can hold and what its answers prove: writes small objects of its own below
    /// .copyhold-probe/, reads them and removes them
    #[arg(long)]
    pub(super) probe: bool,
    /// Measure also where a bucket keeps what is written: it stays there until its retention ends
    #[arg(long, requires = "probe")]
    probe_locked: bool,
    /// Measure this replica alone
    #[arg(long, requires = "probe", value_name = "NAME")]
    pub(super) replica: Option<String>,
}

/// A replica and what was measured of it.
#[derive(Debug, Serialize)]
pub(super) struct Probed {
    replica: String,
    provider: &'static str,
    #[serde(flatten)]
    report: ProbeReport,
    /// Names of the facts without which no copy there is sound.
    fails: Vec<&'static str>,
    /// Names of those of which the profile says otherwise.
    differs: Vec<&'static str>,
}

/// Measures all at the same time. `json`: standard output is for one document alone.
pub(super) async fn run(replicas: &[&ReplicaSettings], args: &Args, json: bool) -> anyhow::Result<Vec<Probed>> {
    // Listened to before anything is written: from now on a signal cannot end us in the middle.
    let mut signals = StopSignals::listen()?;
    let stop = CancellationToken::new();
    let mut probes = Vec::new();
    for replica in replicas {
        let number: u64 = rand::random();
        let prefix = Store::probe_prefix(number);
        tell(
            json,
            &format!(
                "{}: writes some 80 objects of a few bytes and some uploads in parts, 5 MiB in all, below {prefix} and, \
                 for one key, below /{prefix}; reads them, and removes them again",
                replica.name
            ),
        )?;
        probes.push(probe(replica, number, args.probe_locked, &stop));
    }
    let mut probing = pin!(futures::future::join_all(probes));
    loop {
        tokio::select! {
            all = &mut probing => return all.into_iter().collect(),
            () = signals.next() => {
                if stop.is_cancelled() {
                    anyhow::bail!("told to stop again: what was written below the folders named above may stay");
                }
                stop.cancel();
                tell(true, "stopping: what was written is being removed (once more, and it stays)")?;
            }
        }
    }
}

async fn probe(
    replica: &ReplicaSettings,
    number: u64,
    locked: bool,
    stop: &CancellationToken,
) -> anyhow::Result<Probed> {
    let store = Store::connect(&replica.into(), 1).await?;
    let report = store.probe(number, locked, stop).await;
    let names = |of: fn(&Fact) -> bool| report.facts.iter().filter(|fact| of(fact)).map(|fact| fact.name).collect();
    Ok(Probed {
        replica: replica.name.to_string(),
        provider: replica.provider.as_str(),
        fails: names(Fact::fails),
        differs: names(Fact::differs),
        report,
    })
}

fn tell(beside: bool, text: &str) -> io::Result<()> {
    if beside {
        output::aside(text);
        return Ok(());
    }
    output::line(text)
}

impl Probed {
    /// Something fails, is left behind, or could not be measured. Nothing needs to be written to a `primary` that
    /// lacks nothing, and not to measure where what is written stays is what was asked for.
    pub(super) fn is_bad(&self, primary: &ReplicaName) -> bool {
        let in_vain = self.report.unmeasured.as_ref().is_some_and(|ended| match ended.kind {
            ProbeEndedBy::Lock => false,
            ProbeEndedBy::NotWritable => self.replica != primary.as_str(),
            ProbeEndedBy::LockUnseen | ProbeEndedBy::NotRemovable | ProbeEndedBy::Stop => true,
        });
        // What a retention keeps was asked for, too.
        let left = self.report.retention.is_none() && !self.report.left.is_empty();
        in_vain || left || !self.fails.is_empty()
    }

    pub(super) fn text(&self) -> String {
        let Self { replica, provider, report, .. } = self;
        let mut text = format!("\n{replica} (provider = \"{provider}\")");
        if !report.facts.is_empty() {
            let rows = report.facts.iter().map(row).collect();
            // Cannot fail, here and below: writing to a String does not.
            let table = table(&["", "fact", "profile", "measured", "seen by"], 5, rows).to_string();
            for line in table.lines() {
                let _ = write!(text, "\n{}", line.trim_end());
            }
        }
        if let Some(ProbeEnded { why, .. }) = &report.unmeasured {
            let _ = write!(text, "\nnot measured{}: {why}", if report.facts.len() > 1 { " further" } else { "" });
        }
        let advice: Vec<_> = report.facts.iter().filter_map(|fact| fact.advice.as_deref()).collect();
        if !advice.is_empty() {
            let _ = write!(text, "\nset in [replicas.{replica}]:");
            for setting in advice {
                let _ = write!(text, "\n    {setting}");
            }
        }
        for left in report.left.iter().take(LEFT_SHOWN) {
            let what = if left.upload { "unfinished upload of " } else { "" };
            let version = left.version.as_ref().map(|id| format!(" (version {id})")).unwrap_or_default();
            let _ = write!(text, "\nnot removed: {what}{}{version}: {}", left.key, left.why);
        }
        if let Some(more @ 1..) = report.left.len().checked_sub(LEFT_SHOWN) {
            let _ = write!(text, "\nnot removed: {more} more below {}", report.prefix);
        }
        if let Some(retention) = report.retention.as_ref().filter(|_| !report.left.is_empty()) {
            let _ = write!(text, "\nthe bucket keeps all that for a time: {retention}");
        }
        text
    }
}

/// Of what was not removed; JSON names all of it.
const LEFT_SHOWN: usize = 5;
/// Long enough for status, code and the first words of a message; JSON has all of it.
const SEEN_CHARS: usize = 100;

fn row(fact: &Fact) -> Vec<String> {
    let mark = match fact {
        fact if fact.fails() => "FAIL",
        fact if fact.differs() => "other",
        fact if fact.needed => "ok",
        // Good to know, and nothing depends on it.
        _ => "",
    };
    let word = |known: Tristate, unknown: &str| match known {
        Tristate::Yes => "yes".to_owned(),
        Tristate::No => "no".to_owned(),
        Tristate::Unknown => unknown.to_owned(),
    };
    // Failures are printed in full: they say what to do.
    let most = if fact.fails() { usize::MAX } else { SEEN_CHARS };
    let mut seen: String = fact.detail.chars().take(most).collect();
    if seen.len() < fact.detail.len() {
        seen.push('…');
    }
    vec![mark.to_owned(), fact.says.clone(), word(fact.profile, "-"), word(fact.measured, "unclear"), seen]
}
