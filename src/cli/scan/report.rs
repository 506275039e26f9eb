//! The result of a scan, as text or JSON.

use std::time::Duration;

use copyhold_core::domain::utc;
use copyhold_db::walk::ScanCounts;
use serde::Serialize;

use crate::{
    cli::{
        Verdict, output,
        output::{Untrusted, count},
    },
    scan::{Scan, ScanError, ScanResult},
};

/// The result of a run, as one document, with the counts of earlier runs of the same scan.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    outcome: Outcome,
    replica: String,
    prefixes: Vec<String>,
    adopt: bool,
    dry_run: bool,
    /// µs since the epoch, if an earlier run has begun it.
    resumed_since: Option<i64>,
    seconds: f64,
    /// Keys that this run has listed.
    listed_now: u64,
    listed: u64,
    registered: u64,
    registered_bytes: u64,
    /// Copies of what was registered that are wanted and were missing.
    copies_due: u64,
    already_registered: u64,
    adopted: u64,
    unusable: u64,
    unusable_example: Option<String>,
    parts: usize,
    parts_done: usize,
    stores: Vec<StoreReport>,
    not_adopted: Vec<SkippedReplica>,
    /// The error that ended it.
    error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// All of it is listed.
    Complete,
    /// A signal ended it early.
    Stopped,
    /// It could not be continued.
    Failed,
    /// Another process runs it.
    Elsewhere,
}

#[derive(Debug, Serialize)]
struct StoreReport {
    replica: String,
    pages: u64,
    /// How often it asked to be spared.
    throttled: u64,
    ignores_start_after: bool,
    /// Why nothing more was taken from its listing.
    given_up: Option<String>,
}

/// A replica whose copies are not adopted.
#[derive(Debug, Serialize)]
pub(super) struct SkippedReplica {
    pub(super) replica: String,
    pub(super) why: String,
}

impl Report {
    pub(super) fn new(scan: &Scan, ended: ScanResult, not_adopted: Vec<SkippedReplica>, took: Duration) -> Self {
        let shown = scan.progress().shown();
        let ScanCounts { listed, registered, bytes, due, adopted, unusable } = shown.counts;
        let stores: Vec<_> = scan
            .listers()
            .map(|lister| {
                let notes = lister.notes();
                StoreReport {
                    replica: lister.name().to_string(),
                    pages: notes.pages,
                    throttled: notes.throttled,
                    ignores_start_after: notes.ignores_start_after,
                    given_up: notes.given_up,
                }
            })
            .collect();
        Self {
            outcome: match ended.halt {
                None => Outcome::Complete,
                Some(ScanError::Stopped) => Outcome::Stopped,
                Some(ScanError::AtWork | ScanError::Elsewhere) => Outcome::Elsewhere,
                Some(ScanError::Listing(..) | ScanError::Database(_)) => Outcome::Failed,
            },
            replica: stores.first().map(|store| store.replica.clone()).unwrap_or_default(),
            prefixes: Vec::new(),
            adopt: false,
            dry_run: false,
            resumed_since: ended.resumed,
            seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
            listed_now: shown.now.listed,
            listed,
            registered,
            registered_bytes: bytes,
            copies_due: due,
            already_registered: shown.counts.known(),
            adopted,
            unusable,
            unusable_example: shown.unusable_example,
            parts: shown.parts,
            parts_done: shown.parts_done,
            stores,
            not_adopted,
            error: ended.halt.filter(|halt| !matches!(halt, ScanError::Stopped)).map(|halt| halt.to_string()),
        }
    }

    /// What was asked for.
    pub(super) fn asked(self, adopt: bool, dry_run: bool, prefixes: Vec<String>) -> Self {
        Self { prefixes, adopt, dry_run, ..self }
    }

    fn is_complete(&self) -> bool {
        self.outcome == Outcome::Complete
    }

    pub(super) fn verdict(&self) -> Verdict {
        if self.is_complete() { Verdict::Good } else { Verdict::Bad }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut lines = Vec::new();
        if let Some(since) = self.resumed_since {
            lines.push(format!("went on with the scan that began at {}; figures are of all of it", utc(since)));
        }
        lines.extend(self.figures());
        lines.extend(self.remarks());
        lines.push(self.conclusion());
        lines.join("\n")
    }

    fn figures(&self) -> Vec<String> {
        let would = if self.dry_run { "would be " } else { "" };
        let bytes = output::bytes(i64::try_from(self.registered_bytes).unwrap_or(i64::MAX));
        let due = count(self.copies_due, "copy is due", "copies are due");
        let mut figures = vec![
            ("listed".to_owned(), self.listed.to_string()),
            (
                format!("{would}registered"),
                format!("{}  ({bytes}; {due}, which the daemons make or verify)", self.registered),
            ),
            ("already registered".to_owned(), format!("{}  (left as they were)", self.already_registered)),
        ];
        if self.adopt {
            figures.push((format!("copies {would}adopted"), self.adopted.to_string()));
        }
        if self.unusable > 0 {
            figures.push(("unusable keys".to_owned(), self.unusable.to_string()));
        }
        let width = figures.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        figures.into_iter().map(|(name, figure)| format!("{name:width$}  {figure}")).collect()
    }

    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(example) = &self.unusable_example {
            remarks
                .push(format!("unusable keys cannot be registered, and nothing is copied of them; for one {example}"));
        }
        if self.is_complete() && self.listed == 0 {
            let what = if self.prefixes.is_empty() {
                "its bucket is empty, or has only what a listing hides (older versions, delete markers)".to_owned()
            } else {
                let quoted: Vec<_> = self.prefixes.iter().map(|prefix| format!("\"{}\"", Untrusted(prefix))).collect();
                format!("nothing begins with {}", quoted.join(" or "))
            };
            remarks.push(format!("replica {}: {what}", self.replica));
        }
        for store in &self.stores {
            if store.throttled > 0 {
                let times = count(store.throttled, "time", "times");
                remarks.push(format!("{} asked to be spared {times}, and was asked less often", store.replica));
            }
            if store.ignores_start_after {
                remarks.push(format!(
                    "{} lists from the beginning wherever it is told to (it does not heed start-after): what was in the \
                     way was passed over, at the cost of listing it again",
                    store.replica
                ));
            }
            if let Some(why) = &store.given_up {
                remarks.push(format!(
                    "{} could not be listed further, and no copy was adopted there from then on: {}",
                    store.replica,
                    Untrusted(why)
                ));
            }
        }
        remarks
            .extend(self.not_adopted.iter().map(|out| format!("nothing is adopted at {}: {}", out.replica, out.why)));
        if self.adopt && !self.dry_run && self.is_complete() {
            remarks.push(
                "what was not adopted is due: the daemons compare it with the source, byte for byte, before they record it"
                    .into(),
            );
        }
        remarks
    }

    fn conclusion(&self) -> String {
        let took = output::age(Some(self.seconds));
        if self.is_complete() {
            let wrote = if self.dry_run { "; nothing was written (--dry-run)" } else { "" };
            return format!("all of it was listed, in {took}{wrote}");
        }
        let why = self.error.as_ref().map_or("told to stop".to_owned(), |why| Untrusted(why).to_string());
        let then = match () {
            () if self.outcome == Outcome::Elsewhere => String::new(),
            () if self.dry_run => "; nothing was written (--dry-run)".to_owned(),
            () => "; what was listed is registered, nothing is concluded of the rest, and the same command goes on from here"
                .to_owned(),
        };
        format!("NOT COMPLETE after {took}, with {} of {} parts listed: {why}{then}", self.parts_done, self.parts)
    }
}
