//! The result of applying the rules, as text or JSON.

use std::time::Duration;

use copyhold_core::domain::ObjectKey;
use copyhold_db::{
    Database,
    rules::{ApplyResult, ReplicaChanges},
};
use serde::Serialize;

use crate::cli::{
    output,
    output::{age, bytes, count, some_keys, table},
};

/// The result of applying the rules, or of a dry run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: i64,
    dry_run: bool,
    complete: bool,
    /// Another run applies them.
    overtaken: bool,
    /// Other rules came into force so many times meanwhile.
    begun_again: u32,
    resumed_after: Option<String>,
    objects: u64,
    /// Of these, those that no rule fits.
    undecided: u64,
    seconds: f64,
    replicas: Vec<ReplicaReport>,
    /// What could not be written, because other transactions held the rows all the time.
    held: Vec<String>,
    #[serde(skip)]
    held_keys: Vec<ObjectKey>,
    #[serde(skip)]
    rules: usize,
}

#[derive(Debug, Serialize)]
struct ReplicaReport {
    replica: String,
    becomes_wanted: u64,
    becomes_wanted_bytes: u64,
    gets: u64,
    puts: u64,
    becomes_wanted_and_is_there: u64,
    becomes_unwanted: u64,
    becomes_unwanted_bytes: u64,
    becomes_unwanted_and_stays: u64,
}

impl Report {
    pub(super) fn new(database: &Database, applied: &ApplyResult, rules: usize, dry_run: bool, took: Duration) -> Self {
        let changes = applied.judged.changes.iter().copied().chain(std::iter::repeat(ReplicaChanges::default()));
        let of = |(replica, change): (&copyhold_core::domain::ReplicaName, ReplicaChanges)| ReplicaReport {
            replica: replica.to_string(),
            becomes_wanted: change.wanted,
            becomes_wanted_bytes: change.wanted_bytes,
            gets: change.gets,
            puts: change.puts,
            becomes_wanted_and_is_there: change.wanted_there,
            becomes_unwanted: change.unwanted,
            becomes_unwanted_bytes: change.unwanted_bytes,
            becomes_unwanted_and_stays: change.unwanted_there,
        };
        Self {
            version: applied.version,
            dry_run,
            complete: applied.complete,
            overtaken: applied.overtaken,
            begun_again: applied.begun_again,
            resumed_after: applied.resumed_after.as_ref().map(|key| key.as_str().to_owned()),
            objects: applied.judged.looked,
            undecided: applied.judged.undecided,
            seconds: took.as_secs_f64(),
            replicas: database.replicas().iter().zip(changes).map(of).collect(),
            held: applied.held.iter().map(|key| key.as_str().to_owned()).collect(),
            held_keys: applied.held.clone(),
            rules,
        }
    }

    pub(super) fn text(&self) -> String {
        let took = age(Some(self.seconds));
        let mut parts = vec![match (self.dry_run, &self.resumed_after) {
            (true, _) => {
                format!(
                    "nothing was changed: {} looked at in {took}; this would",
                    count(self.objects, "object", "objects")
                )
            }
            (false, None) => format!("{} judged in {took}", count(self.objects, "object", "objects")),
            (false, Some(key)) => {
                let key = output::Untrusted(key);
                format!("{} judged in {took}, behind \"{key}\", where an earlier run had ended", self.objects)
            }
        }];
        if self.rules == 0 {
            parts.push("no rules are in force, so there is nothing to judge by".into());
        }
        parts.push(self.table());
        if self.undecided > 0 && self.rules > 0 {
            let fit = if self.undecided == 1 {
                "object fits no rule, and stays as it is"
            } else {
                "objects fit no rule, and stay as they are"
            };
            parts.push(format!("{} {fit}; a last rule without prefix and sizes would decide", self.undecided));
        }
        if self.begun_again > 0 {
            parts.push(format!(
                "the rules changed {} meanwhile, and it began again",
                count(self.begun_again.into(), "time", "times")
            ));
        }
        if self.overtaken {
            parts.push("another run of `copyhold rules apply` is at it and goes on: this one has ended".into());
        } else if !self.held.is_empty() {
            parts.push(format!(
                "not written: {}, held all the time by a transaction of another program; the same command tries again",
                some_keys(&self.held_keys)
            ));
        } else if !self.complete {
            parts.push("it was ended before all objects were judged; the same command goes on there".into());
        }
        parts.join("\n")
    }

    fn table(&self) -> String {
        let heads = [
            "replica",
            "becomes wanted",
            "bytes",
            "GETs",
            "PUTs",
            "of it there",
            "becomes unwanted",
            "bytes",
            "copies that stay",
        ];
        let size = |of: u64| bytes(i64::try_from(of).unwrap_or(i64::MAX));
        let row = |r: &ReplicaReport| {
            vec![
                r.replica.clone(),
                (r.becomes_wanted + r.becomes_wanted_and_is_there).to_string(),
                size(r.becomes_wanted_bytes),
                r.gets.to_string(),
                r.puts.to_string(),
                r.becomes_wanted_and_is_there.to_string(),
                (r.becomes_unwanted + r.becomes_unwanted_and_stays).to_string(),
                size(r.becomes_unwanted_bytes),
                r.becomes_unwanted_and_stays.to_string(),
            ]
        };
        table(&heads, 1, self.replicas.iter().map(row).collect()).to_string()
    }
}
