//! The report of a verification as text.

use std::fmt::Write as _;

use super::{Outcome, ReplicaReport, Report};
use crate::{
    audit::Counts,
    cli::{
        output,
        output::{Untrusted, count, table},
    },
};

/// Told one by one; JSON has up to a thousand.
const SHOWN: usize = 20;

impl Report {
    /// For people.
    pub(in crate::cli::verify) fn text(&self) -> String {
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
            "NO GOOD COPY IS LEFT at the replicas of this configuration; nothing of it is copied until it is retried",
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
        type Column = (&'static str, fn(&Counts) -> u64);
        let always: [Column; 1] = [("copies", |t| t.copies)];
        let columns: [Column; 14] = [
            ("identical", |t| t.identical),
            ("same checksum", |t| t.same_checksum),
            ("same size", |t| t.same_size),
            ("same metadata", |t| t.same_metadata),
            ("missing", |t| t.missing),
            ("damaged", |t| t.damaged),
            ("other metadata", |t| t.other_metadata),
            ("changed", |t| t.changed),
            ("not known yet", |t| t.not_known_yet),
            ("metadata not compared", |t| t.metadata_not_compared),
            ("unreadable", |t| t.unreadable),
            ("in motion", |t| t.changed_meanwhile),
            ("cleared", |t| t.taken_back),
            ("NOT cleared", |t| t.not_written),
        ];
        let occurring = columns.into_iter().filter(|(_, of)| self.replicas.iter().any(|r| of(&r.counts) > 0));
        let columns: Vec<_> = always.into_iter().chain(occurring).collect();
        let named = columns.iter().map(|(head, _)| *head);
        let heads: Vec<_> = ["replica"].into_iter().chain(named).chain(["requests", "read", "rate"]).collect();
        let row = |r: &ReplicaReport| {
            let mut row = vec![format!("{}{}", r.replica, if r.primary { " (primary)" } else { "" })];
            row.extend(columns.iter().map(|(_, of)| of(&r.counts).to_string()));
            let bytes = i64::try_from(r.counts.bytes_read).unwrap_or(i64::MAX);
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "to be read by people")]
            let rate = (bytes as f64 / self.seconds.max(0.001)) as i64;
            row.extend([r.counts.requests.to_string(), output::bytes(bytes), format!("{}/s", output::bytes(rate))]);
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
            if r.counts.damaged_on_the_way > 0 {
                remarks.push(format!(
                    "{}: {} came with other bytes once and right the next time: something damages bytes on the way",
                    r.replica,
                    count(r.counts.damaged_on_the_way, "copy", "copies")
                ));
            }
        }
        remarks.extend(self.not_verified.iter().map(|out| format!("{} was not verified: {}", out.replica, out.why)));
        let sum = |of: fn(&Counts) -> u64| self.replicas.iter().map(|r| of(&r.counts)).sum::<u64>();
        if sum(|t| t.not_known_yet) > 0 {
            remarks.push(
                "not known yet: no complete read has found out what the object is, so there is nothing to compare with"
                    .into(),
            );
        }
        if sum(|t| t.metadata_not_compared) > 0 {
            remarks.push(
                "metadata not compared: nothing is on record of it, as for what was taken from a listing; --metadata compares it \
                 with the primary's"
                    .into(),
            );
        }
        if sum(|t| t.same_size) > 0 {
            remarks.push("same size: it is there and no more is known; without --quick its bytes are read".into());
        }
        if sum(|t| t.changed_meanwhile) > 0 {
            remarks.push("in motion: registered or copied again meanwhile, which is no damage".into());
        }
        if let Some(sample) = self.sample.as_ref().filter(|sample| sample.percent < 100.0) {
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
        let sum = |of: fn(&Counts) -> u64| self.replicas.iter().map(|r| of(&r.counts)).sum::<u64>();
        let (checked, copies) = (sum(Counts::checked), sum(|t| t.copies));
        let wrong = sum(Counts::wrong);
        let mut text = format!(
            "{} of {} on record of {} checked in {}",
            checked,
            count(copies, "copy", "copies"),
            count(self.objects, "object", "objects"),
            output::age(Some(self.seconds))
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
                    () if taken == wrong && wrong == 1 => "its record was cleared".to_owned(),
                    () if taken == wrong => "their records were cleared".to_owned(),
                    () => format!("the records of {taken} were cleared"),
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
