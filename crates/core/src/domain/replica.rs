//! The names of replicas and schemas, which become identifiers in SQL.

use std::fmt;

/// One bucket on one store, by the name that the operator gave it.
///
/// The name becomes a column of `object_copies`, so its alphabet is narrow and
/// the names of the fixed columns are taken.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicaName(String);

/// The PostgreSQL schema that the tables live in.
#[derive(Clone, PartialEq, Eq)]
pub struct SchemaName(String);

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    #[error("a name is a lower-case letter and then up to 30 of a-z, 0-9 and _")]
    Spelling,
    #[error("the name is taken by a fixed column of object_copies or by PostgreSQL")]
    Taken,
}

/// Columns that every `object_copies` has, and those that PostgreSQL gives each table.
const TAKEN: &[&str] = &[
    "object_key",
    "id",
    "size_bytes",
    "content_hash",
    "metadata_hash",
    "not_carried",
    "source_replica",
    "source_modified",
    "source_tag",
    "generation",
    "created_at",
    "lock",
    "lease",
    "ctid",
    "xmin",
    "xmax",
    "cmin",
    "cmax",
    "tableoid",
];

impl ReplicaName {
    /// Checks the spelling and that no column of that name exists for another purpose.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = spelled(name.into())?;
        if TAKEN.contains(&name.as_str()) || name.starts_with("due_") {
            return Err(InvalidName::Taken);
        }
        Ok(Self(name))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The column of the time at which the copy was verified, quoted for SQL.
    #[must_use]
    pub fn column(&self) -> String {
        format!("\"{}\"", self.0)
    }

    /// The column of the time before which the copy is not claimed, quoted for SQL.
    #[must_use]
    pub fn due_column(&self) -> String {
        format!("\"due_{}\"", self.0)
    }
}

impl SchemaName {
    /// Checks the spelling; schemas that PostgreSQL keeps for itself are refused.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = spelled(name.into())?;
        if name.starts_with("pg_") || name == "information_schema" {
            return Err(InvalidName::Taken);
        }
        Ok(Self(name))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name quoted for SQL.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

fn spelled(name: String) -> Result<String, InvalidName> {
    let mut bytes = name.bytes();
    let starts = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
    let goes_on = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if starts && goes_on && name.len() <= 31 { Ok(name) } else { Err(InvalidName::Spelling) }
}

macro_rules! shows_as_text {
    ($name:ty) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
shows_as_text!(ReplicaName);
shows_as_text!(SchemaName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_name_is_always_a_safe_column_name() {
        for good in ["b2", "a", "wasabi_eu_1", &"a".repeat(31)] {
            assert!(ReplicaName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "B2", "2b", "_a", "a-b", "a b", "a\"b", "é", &"a".repeat(32)] {
            assert_eq!(ReplicaName::new(bad), Err(InvalidName::Spelling), "{bad}");
        }
    }

    #[test]
    fn a_replica_cannot_take_the_place_of_another_column() {
        for taken in ["lock", "lease", "id", "xmin", "due_b2", "object_key"] {
            assert_eq!(ReplicaName::new(taken), Err(InvalidName::Taken), "{taken}");
        }
        assert_eq!(SchemaName::new("pg_catalog"), Err(InvalidName::Taken));
    }
}
