//! The report of an import as text.

use copyhold_db::import::ImportAnomaly;

use super::{OddValue, Outcome, ReplicaReport, Report};
use crate::cli::output::{Untrusted, age, count, table};

impl Report {
    /// For people.
    pub(in crate::cli::import) fn text(&self) -> String {
        let mut lines = Vec::new();
        let (done, would) = if self.dry_run { ("would be registered", "would be ") } else { ("registered", "") };
        lines.push(format!(
            "{} of {} read{}: {} {done}, {} already registered and left as they are{}",
            count(self.read, "row", "rows"),
            self.table,
            if self.read_before > 0 { format!(" ({} of them earlier)", self.read_before) } else { String::new() },
            count(self.imported, "object", "objects"),
            self.already_registered,
            if self.left_out > 0 { format!(", {} {would}LEFT OUT", self.left_out) } else { String::new() },
        ));
        if self.imported > 0 {
            lines.push(self.table());
        }
        lines.extend(
            self.replicas
                .iter()
                .filter(|r| r.column.is_none() && r.recorded == 0 && self.imported > 0)
                .map(|r| format!("no column stands for {}: all that was registered is wanted there", r.replica)),
        );
        let odd =
            ImportAnomaly::ALL.into_iter().filter_map(|odd| Some(describe(odd, self.oddities.get(odd.as_str())?)));
        lines.extend(odd);
        let seconds = age(Some(self.seconds));
        lines.push(match self.outcome {
            Outcome::Complete => format!("done in {seconds}, {} rows/s", self.rows_per_second),
            Outcome::EndedEarly if self.dry_run => format!("ended early after {seconds}: told to stop"),
            Outcome::EndedEarly => {
                format!(
                    "ended early after {seconds}, {} rows/s: told to stop; the same command goes on",
                    self.rows_per_second
                )
            }
        });
        if !self.dry_run && self.outcome == Outcome::Complete {
            lines.push(format!("\nnext\n  {}", self.next.join("\n  ")));
        }
        lines.join("\n")
    }

    fn table(&self) -> String {
        let row = |r: &ReplicaReport| {
            vec![
                format!("{}{}", r.replica, if r.primary { " (primary)" } else { "" }),
                r.column.as_deref().map_or_else(|| "-".into(), |column| Untrusted(column).to_string()),
                r.recorded.to_string(),
                r.wanted.to_string(),
                r.not_wanted.to_string(),
            ]
        };
        let heads = ["replica", "column", "recorded", "due", "not wanted"];
        table(&heads, 2, self.replicas.iter().map(row).collect()).to_string()
    }
}

fn describe(odd: ImportAnomaly, oddity: &OddValue) -> String {
    let (number, rows) = (oddity.count, count(oddity.count, "row", "rows"));
    let objects = count(number, "object", "objects");
    let what = match odd {
        ImportAnomaly::NullKey => format!("{rows} without a key: left out"),
        ImportAnomaly::EmptyKey => format!("{rows} with an empty key, which no store has: left out"),
        ImportAnomaly::LongKey => format!("{rows} with a key of more than 1024 bytes, which no store has: left out"),
        ImportAnomaly::Nowhere => {
            format!("{objects} of which the table says that no replica has a copy, the primary included: left out")
        }
        ImportAnomaly::Repeated => format!(
            "{rows} more with the key of another one: a copy is recorded where all of them say so, since the earliest of their times, \
             and due where one of them wants it"
        ),
        ImportAnomaly::NotPositive => {
            format!("{rows} with a time of 1970 or earlier: the copy is not taken for recorded")
        }
        ImportAnomaly::Future => format!("{rows} with a time that is yet to come: the copy is not taken for recorded"),
        ImportAnomaly::Old => format!("{rows} with a time before the year 2000, which was taken over as it is"),
        ImportAnomaly::WantUnknown => format!("{rows} where want_… is NULL: the copy is due"),
        ImportAnomaly::Held => {
            format!("{rows} on which the other program is at work, or was lately: end it, or both make the same copies")
        }
    };
    match &oddity.example_key {
        Some(key) if !key.is_empty() => format!("{what} (\"{}\")", Untrusted(key)),
        _ => what,
    }
}
