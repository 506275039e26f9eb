use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

use crate::{
    audit::{Audit, Ended, Finding, Findings, Tally, Then, What},
    cli::{
        Verdict, show,
        show::{Untrusted, count, table},
    },
    domain::ReplicaName,
    queue::Sample,
};

/// Told one by one in text; JSON has up to a thousand.
const SHOWN: usize = 20;

/// What a run came to, as one document. Keys are as they are; a message is escaped and bounded.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    outcome: Outcome,
    quick: bool,
    dry_run: bool,
    sample: Option<Sampled>,
    /// Objects that were looked into.
    objects: u64,
    seconds: f64,
    replicas: Vec<OfReplica>,
    not_verified: Vec<LeftOut>,
    findings: Vec<Found>,
    findings_not_listed: u64,
    /// Of these no good copy is left.
    lost: Vec<String>,
    lost_not_listed: u64,
    unreadable: Vec<Unreadable>,
    unreadable_not_listed: u64,
    /// Keys that were named and are not registered.
    not_registered: Vec<String>,
    /// It was told to end early.
    stopped: bool,
    /// What kept it from going on.
    error: Option<String>,
    /// Up to and with this key all is looked into; only where it ended early.
    up_to: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// All that was looked into is as recorded.
    Fine,
    /// Something is missing or wrong.
    Found,
    /// Not all was looked into, or not all that was found could be written down.
    Incomplete,
}

#[derive(Debug, Serialize)]
struct Sampled {
    percent: f64,
    seed: u32,
}

#[derive(Debug, Serialize)]
struct OfReplica {
    replica: String,
    primary: bool,
    #[serde(flatten)]
    tally: Tally,
    /// Why it was not asked any more.
    gave_up: Option<String>,
}

/// A replica that was not looked into.
#[derive(Debug, Serialize)]
pub(super) struct LeftOut {
    pub(super) replica: String,
    pub(super) why: String,
    /// The configuration does not say so: something is to be put right.
    #[serde(skip)]
    pub(super) unexpected: bool,
}

#[derive(Debug, Serialize)]
struct Found {
    key: String,
    replica: String,
    what: What,
    then: Then,
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
        ended: Ended,
        primary: Option<&ReplicaName>,
        not_verified: Vec<LeftOut>,
        took: Duration,
    ) -> Self {
        let Findings { found, found_more, unread, unread_more, lost, lost_more } = audit.findings();
        let replicas: Vec<_> = audit
            .subjects()
            .iter()
            .map(|subject| OfReplica {
                replica: subject.name().to_string(),
                primary: primary == Some(subject.name()),
                tally: subject.tally(),
                gave_up: subject.gave_up(),
            })
            .collect();
        let sum = |of: fn(&Tally) -> u64| replicas.iter().map(|r| of(&r.tally)).sum::<u64>();
        let wrong = sum(|t| t.missing + t.damaged + t.changed);
        let not_written = found.iter().any(|f| matches!(f.then, Then::NotWritten(_)));
        let incomplete = !ended.complete
            || !ended.unregistered.is_empty()
            || sum(|t| t.unreadable) > 0
            || not_written
            || not_verified.iter().any(|out| out.unexpected)
            || sum(Tally::checked) == 0;
        let outcome = match (incomplete, wrong) {
            (true, _) => Outcome::Incomplete,
            (false, 1..) => Outcome::Found,
            (false, 0) => Outcome::Fine,
        };
        let text = |key: &crate::domain::ObjectKey| key.as_str().to_owned();
        Self {
            outcome,
            quick: false,
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
    pub(super) fn asked(self, quick: bool, dry_run: bool, sample: Option<Sample>, stopped: bool) -> Self {
        let sample = sample.map(|sample| Sampled { percent: sample.share * 100.0, seed: sample.seed });
        Self { quick, dry_run, sample, stopped, ..self }
    }

    pub(super) fn verdict(&self) -> Verdict {
        match self.outcome {
            Outcome::Fine => Verdict::Good,
            Outcome::Found => Verdict::Bad,
            Outcome::Incomplete => Verdict::Incomplete,
        }
    }

    pub(super) fn text(&self) -> String {
        let mut lines = vec![self.table()];
        let mut tell = |head: &str, listed: Vec<&str>, not_listed: u64| {
            if listed.is_empty() {
                return;
            }
            lines.push(format!("\n{head}"));
            lines.extend(listed.iter().take(SHOWN).map(|line| format!("  {line}")));
            let more = listed.len().saturating_sub(SHOWN) as u64 + not_listed;
            if more > 0 {
                lines.push(format!("  and {more} more (--json lists up to a thousand)"));
            }
        };
        tell("found", self.findings.iter().map(|f| f.line.as_str()).collect(), self.findings_not_listed);
        let quoted = |keys: &[String]| keys.iter().map(|key| format!("\"{}\"", Untrusted(key))).collect::<Vec<_>>();
        let lost = quoted(&self.lost);
        tell(
            "NO GOOD COPY IS LEFT at the replicas of this configuration; nothing of it is copied until somebody says so",
            lost.iter().map(String::as_str).collect(),
            self.lost_not_listed,
        );
        tell(
            "could not be read, and stays as it is",
            self.unreadable.iter().map(|u| u.line.as_str()).collect(),
            self.unreadable_not_listed,
        );
        let unknown = quoted(&self.not_registered);
        tell("not registered", unknown.iter().map(String::as_str).collect(), 0);
        lines.extend(self.remarks());
        lines.push(format!("\n{}", self.conclusion()));
        lines.join("\n")
    }

    /// Columns that say nothing about any replica are left out.
    fn table(&self) -> String {
        type Column = (&'static str, fn(&Tally) -> u64);
        let always: [Column; 1] = [("copies", |t| t.copies)];
        let columns: [Column; 10] = [
            ("identical", |t| t.identical),
            ("same checksum", |t| t.same_checksum),
            ("same size", |t| t.same_size),
            ("missing", |t| t.missing),
            ("damaged", |t| t.damaged),
            ("changed", |t| t.changed),
            ("not known yet", |t| t.not_known_yet),
            ("unreadable", |t| t.unreadable),
            ("in motion", |t| t.changed_meanwhile),
            ("taken back", |t| t.taken_back),
        ];
        let said = columns.into_iter().filter(|(_, of)| self.replicas.iter().any(|r| of(&r.tally) > 0));
        let columns: Vec<_> = always.into_iter().chain(said).collect();
        let named = columns.iter().map(|(head, _)| *head);
        let heads: Vec<_> = ["replica"].into_iter().chain(named).chain(["requests", "read", "rate"]).collect();
        let row = |r: &OfReplica| {
            let mut row = vec![format!("{}{}", r.replica, if r.primary { " (primary)" } else { "" })];
            row.extend(columns.iter().map(|(_, of)| of(&r.tally).to_string()));
            let bytes = i64::try_from(r.tally.bytes_read).unwrap_or(i64::MAX);
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "to be read by people")]
            let rate = (bytes as f64 / self.seconds.max(0.001)) as i64;
            row.extend([r.tally.requests.to_string(), show::bytes(bytes), format!("{}/s", show::bytes(rate))]);
            row
        };
        table(&heads, 1, self.replicas.iter().map(row).collect()).to_string()
    }

    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        for r in &self.replicas {
            if let Some(why) = &r.gave_up {
                remarks.push(format!("{} was given up: {}", r.replica, Untrusted(why)));
            }
            if r.tally.damaged_on_the_way > 0 {
                remarks.push(format!(
                    "{}: {} came with other bytes once and right the next time: something damages bytes on the way",
                    r.replica,
                    count(r.tally.damaged_on_the_way, "copy", "copies")
                ));
            }
        }
        remarks.extend(self.not_verified.iter().map(|out| format!("{} was not verified: {}", out.replica, out.why)));
        let sum = |of: fn(&Tally) -> u64| self.replicas.iter().map(|r| of(&r.tally)).sum::<u64>();
        if sum(|t| t.not_known_yet) > 0 {
            remarks.push(
                "not known yet: no complete read has found out what the object is, so there is nothing to compare with"
                    .into(),
            );
        }
        if sum(|t| t.same_size) > 0 {
            remarks.push("same size: it is there and no more is known; without --quick its bytes are read".into());
        }
        if sum(|t| t.changed_meanwhile) > 0 {
            remarks.push("in motion: registered or copied again meanwhile, which is no damage".into());
        }
        if let Some(sample) = &self.sample {
            remarks.push(format!("the sample of {} % is chosen again with --seed {}", sample.percent, sample.seed));
        }
        if let Some(error) = &self.error {
            remarks.push(format!("ended early: {}", Untrusted(error)));
        }
        if self.stopped {
            remarks.push("ended early: told to stop".into());
        }
        if let Some(key) = &self.up_to {
            remarks.push(format!("all keys up to \"{}\" are done: go on with --after", Untrusted(key)));
        }
        if let Some(first) = remarks.first_mut() {
            first.insert(0, '\n');
        }
        remarks
    }

    fn conclusion(&self) -> String {
        let sum = |of: fn(&Tally) -> u64| self.replicas.iter().map(|r| of(&r.tally)).sum::<u64>();
        let (checked, copies) = (sum(Tally::checked), sum(|t| t.copies));
        let wrong = sum(|t| t.missing + t.damaged + t.changed);
        let mut text = format!(
            "{} of {} on record of {} checked in {}",
            checked,
            count(copies, "copy", "copies"),
            count(self.objects, "object", "objects"),
            show::age(Some(self.seconds))
        );
        // Cannot fail: writing to a String does not.
        let _ = match (self.objects, wrong) {
            (0, _) if self.sample.is_some() => write!(text, "; no object fell into the sample, take a larger one"),
            _ if checked == 0 => write!(text, "; there was nothing to compare"),
            (_, 0) if checked == copies => write!(text, "; all of them are as recorded"),
            (_, 0) => write!(text, "; those are as recorded"),
            (_, wrong) => {
                let taken = sum(|t| t.taken_back);
                let are = if wrong == 1 { "is" } else { "are" };
                let then = match () {
                    () if self.dry_run => "nothing was changed (--dry-run)".to_owned(),
                    () if taken == wrong && wrong == 1 => "its record was taken back".to_owned(),
                    () if taken == wrong => "their records were taken back".to_owned(),
                    () => format!("the records of {taken} were taken back"),
                };
                write!(text, "; {wrong} {are} missing or wrong, {then}")
            }
        };
        if self.outcome == Outcome::Incomplete {
            text += "; NOT COMPLETE";
        }
        text
    }
}

impl Found {
    fn of(finding: Finding) -> Self {
        let Finding { key, replica, what, why, then } = finding;
        let word = match what {
            What::Missing => "missing",
            What::Damaged => "damaged",
            What::Changed => "changed",
        };
        let done = match &then {
            Then::Requeued => "due again".to_owned(),
            Then::Parked => "parked".to_owned(),
            Then::RegisteredAgain => "registered again".to_owned(),
            Then::DryRun => "left as it is".to_owned(),
            Then::NotWritten(why) => format!("NOT written down ({})", Untrusted(why)),
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
