//! What an import has counted, and the anomalies that it has found.

use std::collections::BTreeMap;

use copyhold_core::domain::ReplicaName;
use sqlx::{Row as _, postgres::PgRow};

/// The counts of a table, up to a position in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportTally {
    counts: BTreeMap<String, u64>,
    /// The first key with each anomaly, 200 characters of it at most.
    examples: BTreeMap<String, String>,
}

/// The copies of registered objects at one replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplicaTally {
    pub recorded: u64,
    /// Not recorded, and due.
    pub wanted: u64,
    pub not_wanted: u64,
}

/// A row or object that is not as expected, or that the operator should know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportAnomaly {
    /// Rows without a key. Left out.
    NullKey,
    /// Left out.
    EmptyKey,
    /// Of more than 1,024 bytes. Left out.
    LongKey,
    /// Objects without a copy at any replica. Left out: there is no source to copy them from.
    Nowhere,
    /// Rows with the key of another row.
    Repeated,
    /// Rows with a time at or before 1970, which proves nothing.
    NotPositive,
    /// Rows with a time in the future, which proves nothing.
    Future,
    /// Rows with a time before the year 2000, which is accepted.
    Old,
    /// Rows that leave open whether a copy is wanted.
    WantUnknown,
    /// Rows that the other program is working on.
    Held,
}

impl ImportAnomaly {
    pub const ALL: [Self; 10] = [
        Self::NullKey,
        Self::EmptyKey,
        Self::LongKey,
        Self::Nowhere,
        Self::Repeated,
        Self::NotPositive,
        Self::Future,
        Self::Old,
        Self::WantUnknown,
        Self::Held,
    ];

    /// Its name in `imports.tally` and in JSON output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NullKey => "null_key",
            Self::EmptyKey => "empty_key",
            Self::LongKey => "long_key",
            Self::Nowhere => "nowhere",
            Self::Repeated => "repeated_key",
            Self::NotPositive => "time_not_positive",
            Self::Future => "time_in_future",
            Self::Old => "time_before_2000",
            Self::WantUnknown => "want_unknown",
            Self::Held => "held",
        }
    }

    /// Such rows are not registered.
    #[must_use]
    pub fn leaves_out(self) -> bool {
        match self {
            Self::NullKey | Self::EmptyKey | Self::LongKey | Self::Nowhere => true,
            Self::Repeated | Self::NotPositive | Self::Future | Self::Old | Self::WantUnknown | Self::Held => false,
        }
    }
}

pub(super) const READ: &str = "read";
pub(super) const IMPORTED: &str = "imported";
pub(super) const REGISTERED: &str = "registered";

/// The names of the counts of one replica.
pub(super) fn names_of(replica: &ReplicaName) -> [String; 3] {
    ["recorded", "wanted", "not_wanted"].map(|what| format!("{what}.{replica}"))
}

impl ImportTally {
    /// From columns `tally` and `examples`, as JSON.
    pub(super) fn parse(row: &PgRow) -> Result<Self, sqlx::Error> {
        let json = |column: &str| row.try_get::<String, _>(column);
        let wrong = |error: serde_json::Error| sqlx::Error::Decode(error.into());
        Ok(Self {
            counts: serde_json::from_str(&json("tally")?).map_err(wrong)?,
            examples: serde_json::from_str(&json("examples")?).map_err(wrong)?,
        })
    }

    /// Adds the counts of the part that follows this one.
    pub fn add(&mut self, other: Self) {
        for (name, number) in other.counts {
            *self.counts.entry(name).or_default() += number;
        }
        for (name, key) in other.examples {
            self.examples.entry(name).or_insert(key);
        }
    }

    /// Rows that were read.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.count(READ)
    }

    /// Objects that were registered.
    #[must_use]
    pub fn imported(&self) -> u64 {
        self.count(IMPORTED)
    }

    /// Objects that were registered before, and were left as they are.
    #[must_use]
    pub fn registered(&self) -> u64 {
        self.count(REGISTERED)
    }

    #[must_use]
    pub fn of(&self, replica: &ReplicaName) -> ReplicaTally {
        let [recorded, wanted, not_wanted] = names_of(replica).map(|name| self.count(&name));
        ReplicaTally { recorded, wanted, not_wanted }
    }

    /// The number of such rows or objects, and the first of their keys.
    #[must_use]
    pub fn odd(&self, what: ImportAnomaly) -> (u64, Option<&str>) {
        (self.count(what.as_str()), self.examples.get(what.as_str()).map(String::as_str))
    }

    /// Rows and objects that were not registered although they should be.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        ImportAnomaly::ALL.into_iter().filter(|odd| odd.leaves_out()).map(|odd| self.odd(odd).0).sum()
    }

    fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or_default()
    }
}
