//! A rule: at which replicas objects of some keys and sizes are wanted.

use std::fmt;

use super::{ReplicaName, size_text};

/// Where objects of some keys and sizes are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What the key begins with, byte for byte.
    pub prefix: String,
    /// The object has at least so many bytes. A rule with either bound fits no object of unknown size.
    pub min_bytes: Option<u64>,
    /// And at most so many.
    pub max_bytes: Option<u64>,
    /// Each once, in the order in which they stand there. The primary has all objects anyway.
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
