//! The result of a verification, as one document.

mod text;

use std::time::Duration;

use copyhold_core::domain::ReplicaName;
use copyhold_db::walk::KeySample;
use serde::Serialize;

use crate::{
    audit::{Action, Audit, AuditResult, Counts, Defect, Depth, Finding, Findings},
    cli::{Verdict, output::Untrusted},
};

/// The result of a run, as one document. Keys are unescaped; a message is escaped and bounded.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "members of a document, each of which says what was asked for")]
pub(super) struct Report {
    outcome: Outcome,
    quick: bool,
    /// Metadata alone was compared.
    metadata: bool,
    dry_run: bool,
    sample: Option<Sampled>,
    /// Objects that were verified.
    objects: u64,
    seconds: f64,
    replicas: Vec<ReplicaReport>,
    not_verified: Vec<SkippedReplica>,
    findings: Vec<Found>,
    findings_not_listed: u64,
    /// Of these no good copy is left.
    lost: Vec<String>,
    lost_not_listed: u64,
    unreadable: Vec<Unreadable>,
    unreadable_not_listed: u64,
    /// Keys that were named and are not registered.
    not_registered: Vec<String>,
    /// A signal ended it early.
    stopped: bool,
    /// The error that ended it.
    error: Option<String>,
    /// Up to and including this key all is verified; only where it ended early.
    up_to: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// Every copy that was read is as recorded.
    Fine,
    /// Something is missing or wrong.
    Found,
    /// Not every copy was read, or not every finding could be recorded.
    Incomplete,
}

#[derive(Debug, Serialize)]
struct Sampled {
    percent: f64,
    seed: u32,
}

#[derive(Debug, Serialize)]
struct ReplicaReport {
    replica: String,
    primary: bool,
    #[serde(flatten)]
    counts: Counts,
    /// Why no more requests were sent to it.
    gave_up: Option<String>,
}

/// A replica that was not verified.
#[derive(Debug, Serialize)]
pub(super) struct SkippedReplica {
    pub(super) replica: String,
    pub(super) why: String,
    /// The configuration did not exclude it: something has to be mended.
    #[serde(skip)]
    pub(super) unexpected: bool,
}

#[derive(Debug, Serialize)]
struct Found {
    key: String,
    replica: String,
    what: Defect,
    then: Action,
    why: String,
    #[serde(skip)]
    line: String,
}

#[derive(Debug, Serialize)]
struct Unreadable {
    key: String,
    replica: String,
    why: String,
    #[serde(skip)]
    line: String,
}

impl Report {
    pub(super) fn new(
        audit: &Audit,
        ended: AuditResult,
        primary: &ReplicaName,
        not_verified: Vec<SkippedReplica>,
        took: Duration,
    ) -> Self {
        let Findings { found, found_more, unread, unread_more, lost, lost_more } = audit.findings();
        let replicas: Vec<_> = audit
            .replicas()
            .iter()
            .map(|subject| ReplicaReport {
                replica: subject.name().to_string(),
                primary: primary == subject.name(),
                counts: subject.counts(),
                gave_up: subject.gave_up(),
            })
            .collect();
        let sum = |of: fn(&Counts) -> u64| replicas.iter().map(|r| of(&r.counts)).sum::<u64>();
        let wrong = sum(Counts::wrong);
        let incomplete = !ended.complete
            || !ended.unregistered.is_empty()
            || sum(|t| t.unreadable) > 0
            || sum(|t| t.not_written) > 0
            || not_verified.iter().any(|out| out.unexpected)
            || sum(Counts::checked) == 0;
        let outcome = match (incomplete, wrong) {
            (true, _) => Outcome::Incomplete,
            (false, 1..) => Outcome::Found,
            (false, 0) => Outcome::Fine,
        };
        let text = |key: &copyhold_core::domain::ObjectKey| key.as_str().to_owned();
        Self {
            outcome,
            quick: false,
            metadata: false,
            dry_run: false,
            sample: None,
            objects: audit.objects(),
            seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
            replicas,
            not_verified,
            findings: found.into_iter().map(Found::of).collect(),
            findings_not_listed: found_more,
            lost: lost.iter().map(text).collect(),
            lost_not_listed: lost_more,
            unreadable: unread
                .into_iter()
                .map(|unread| Unreadable {
                    line: format!("{} of \"{}\": {}", unread.replica, unread.key, unread.why),
                    key: text(&unread.key),
                    replica: unread.replica.to_string(),
                    why: unread.why,
                })
                .collect(),
            unreadable_not_listed: unread_more,
            not_registered: ended.unregistered.iter().map(text).collect(),
            stopped: false,
            error: ended.error.map(|error| error.to_string()),
            up_to: ended.up_to.filter(|_| !ended.complete).as_ref().map(text),
        }
    }

    /// What was asked for.
    pub(super) fn asked(self, depth: Depth, dry_run: bool, sample: Option<KeySample>, stopped: bool) -> Self {
        let sample = sample.map(|sample| Sampled { percent: sample.share * 100.0, seed: sample.seed });
        let (quick, metadata) = (depth == Depth::Quick, depth == Depth::Metadata);
        Self { quick, metadata, dry_run, sample, stopped, ..self }
    }

    pub(super) fn verdict(&self) -> Verdict {
        match self.outcome {
            Outcome::Fine => Verdict::Good,
            Outcome::Found => Verdict::Bad,
            Outcome::Incomplete => Verdict::Incomplete,
        }
    }
}

impl Found {
    fn of(finding: Finding) -> Self {
        let Finding { key, replica, what, why, then } = finding;
        let word = match what {
            Defect::Missing => "missing",
            Defect::Damaged => "damaged",
            Defect::Metadata => "other metadata",
            Defect::Changed => "changed",
        };
        let done = match &then {
            Action::Requeued => "due again".to_owned(),
            Action::Parked => "parked".to_owned(),
            Action::RegisteredAgain => "registered again".to_owned(),
            Action::DryRun => "left as it is".to_owned(),
            Action::NotWritten(why) => format!("NOT written down ({})", Untrusted(why)),
        };
        Self {
            line: format!("{word} at {replica}, {done}: \"{key}\"\n      {why}"),
            key: key.as_str().to_owned(),
            replica: replica.to_string(),
            what,
            then,
            why,
        }
    }
}
