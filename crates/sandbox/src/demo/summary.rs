//! The results of a demo, as one document.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

/// The results of a demo; `--json` prints this document.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub seed: u64,
    /// Objects that were uploaded and registered, and their bytes at one replica.
    pub objects: usize,
    pub bytes: u64,
    pub largest_bytes: u64,
    /// Copies that the daemons made and recorded: one per object and replica but the primary.
    pub copies: usize,
    /// The time from the first registration to the last record, including all failures.
    pub seconds: f64,
    pub copies_per_second: f64,
    pub bytes_per_second: f64,
    #[serde(flatten)]
    pub comparison: Comparison,
    pub daemons: Daemons,
    pub killed: Killed,
    pub failing_store: FailingStore,
    /// Failed attempts by replica and class, as the surviving daemons counted them; all were retried.
    pub failed_attempts: BTreeMap<String, BTreeMap<String, u64>>,
    /// The time from registration to record, by replica.
    pub waits: BTreeMap<String, Waits>,
    /// Uploads to a replica beyond one per object: the cost of the failures.
    pub repeated_uploads: u64,
    /// Multipart uploads that were neither completed nor aborted.
    pub unfinished_uploads: usize,
}

impl Summary {
    /// Makes the summary of a demo without objects: two daemons, one of them killed. For tests to change.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            seed: 1,
            objects: 0,
            bytes: 0,
            largest_bytes: 0,
            copies: 0,
            seconds: 0.0,
            copies_per_second: 0.0,
            bytes_per_second: 0.0,
            comparison: Comparison::default(),
            daemons: Daemons { started: 2, killed: 1 },
            killed: Killed { held_leases: 0, rescued_leases: 0, keys: Vec::new() },
            failing_store: FailingStore { replica: String::new(), seconds: 0.0, answered_503: 0, reset: 0 },
            failed_attempts: BTreeMap::new(),
            waits: BTreeMap::new(),
            repeated_uploads: 0,
            unfinished_uploads: 0,
        }
    }

    /// Returns whether no object is wrong, missing, or there without having been uploaded.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.comparison.is_good() && self.killed.rescued_leases == self.killed.held_leases
    }
}

/// The findings of the independent reader.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Comparison {
    /// Objects that were read back, counted on each replica.
    pub compared: usize,
    /// Objects that were equal.
    pub compared_bytes: u64,
    pub wrong: usize,
    pub missing: usize,
    pub extra: usize,
    /// The first few objects that were wrong.
    pub examples: Vec<Finding>,
}

impl Comparison {
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.wrong == 0 && self.missing == 0 && self.extra == 0
    }
}

impl Comparison {
    /// Adds the findings of another comparison.
    pub(super) fn add(&mut self, other: Self) {
        self.compared += other.compared;
        self.compared_bytes += other.compared_bytes;
        self.wrong += other.wrong;
        self.missing += other.missing;
        self.extra += other.extra;
        other.examples.into_iter().for_each(|finding| self.keep(finding));
    }

    /// Adds the object as an example, if it is one of the first.
    pub(super) fn keep(&mut self, finding: Finding) {
        const EXAMPLES: usize = 10;
        if self.examples.len() < EXAMPLES {
            self.examples.push(finding);
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    pub replica: String,
    /// Untrusted text.
    pub key: String,
    pub how: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct Daemons {
    pub started: usize,
    pub killed: usize,
}

/// The daemon that was killed.
#[derive(Debug, Clone, Serialize)]
pub struct Killed {
    /// Objects that it had leased when it died.
    pub held_leases: usize,
    /// Objects of these that others copied everywhere.
    pub rescued_leases: usize,
    #[serde(skip)]
    pub(super) keys: Vec<String>,
}

/// The store that failed for some seconds.
#[derive(Debug, Clone, Serialize)]
pub struct FailingStore {
    pub replica: String,
    pub seconds: f64,
    pub answered_503: u64,
    pub reset: u64,
}

/// How long objects waited.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Waits {
    pub p50_seconds: f64,
    pub p99_seconds: f64,
    pub longest_seconds: f64,
}

impl Waits {
    /// Computes the percentiles of waits in µs; `None`: there are none. Rows whose clock ran backwards count as 0.
    pub(super) fn of(mut micros: Vec<i64>) -> Option<Self> {
        micros.sort_unstable();
        let seconds = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or(0)).as_secs_f64();
        Some(Self {
            p50_seconds: seconds(percentile(&micros, 50)?),
            p99_seconds: seconds(percentile(&micros, 99)?),
            longest_seconds: seconds(*micros.last()?),
        })
    }
}

/// Returns the percentile by nearest rank: the smallest value that at least this share of all do not exceed. `sorted`
/// is ascending.
fn percentile(sorted: &[i64], percent: usize) -> Option<i64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_occurred_and_that_so_many_do_not_exceed() {
        let hundred: Vec<i64> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 50), Some(50));
        assert_eq!(percentile(&hundred, 99), Some(99));
        assert_eq!(percentile(&hundred, 100), Some(100));
        assert_eq!(percentile(&[1, 2, 3], 50), Some(2));
        assert_eq!(percentile(&[1, 2, 3], 99), Some(3));
        assert_eq!(percentile(&[7], 1), Some(7));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn waits_are_sorted_first_and_given_in_seconds() {
        let waits = Waits::of(vec![3_000_000, 1_000_000, 2_500_000]).unwrap();
        assert_eq!(waits, Waits { p50_seconds: 2.5, p99_seconds: 3.0, longest_seconds: 3.0 });
        assert_eq!(Waits::of(Vec::new()), None);
    }

    #[test]
    fn a_lease_that_nobody_rescued_is_not_good() {
        let killed = |rescued_leases| Killed { held_leases: 2, rescued_leases, keys: Vec::new() };
        let summary = |rescued| Summary { killed: killed(rescued), ..Summary::nothing() };
        assert!(summary(2).is_good());
        assert!(!summary(1).is_good());
    }
}
