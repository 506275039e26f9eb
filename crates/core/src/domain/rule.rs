//! A replication rule: which replicas get the objects with a given prefix and size.

use std::fmt;

use super::{ReplicaName, size_text};

/// The replicas at which objects with a given prefix and size are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Matches the beginning of the key, byte for byte.
    pub prefix: String,
    /// The smallest size that matches. A rule with either bound matches no object of unknown size.
    pub min_bytes: Option<u64>,
    /// The largest size that matches.
    pub max_bytes: Option<u64>,
    /// Each replica once, in the order of the rule. The primary has all objects anyway.
    pub replicas: Vec<ReplicaName>,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[[rules]]")?;
        if !self.prefix.is_empty() {
            // The escapes of JSON are those of TOML.
            writeln!(f, "prefix = {}", serde_json::Value::from(self.prefix.as_str()))?;
        }
        for (name, bytes) in [("min_size", self.min_bytes), ("max_size", self.max_bytes)] {
            if let Some(bytes) = bytes {
                writeln!(f, "{name} = {:?}", size_text(bytes))?;
            }
        }
        let names: Vec<_> = self.replicas.iter().map(ReplicaName::as_str).collect();
        writeln!(f, "replicas = {names:?}")
    }
}
