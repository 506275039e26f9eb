//! How an import reads a table: its columns, their units, its order.

use copyhold_core::domain::ReplicaName;
use serde_json::{Value, json};

use super::source::{KeyComparison, KeyIndex, SourceTable};

/// The unit of the other program's integer times, since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    Seconds,
    Millis,
    Micros,
}

/// How a column stores a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeKind {
    /// `bigint`, in the table's unit.
    Number,
    /// `timestamp with time zone`.
    Timestamp,
}

/// A column with the time since when a replica has its copies.
#[derive(Debug, Clone)]
pub struct MappedColumn {
    pub replica: ReplicaName,
    /// Quoted, as are all column names here.
    pub column: String,
    pub kind: TimeKind,
    /// The boolean column that states whether a copy is wanted; `None`: each is.
    pub want: Option<String>,
}

/// A checked mapping of a table's columns.
#[derive(Debug, Clone)]
pub struct ImportPlan {
    pub table: SourceTable,
    /// The index in whose order the table is read.
    pub order: KeyIndex,
    pub columns: Vec<MappedColumn>,
    /// Replicas of the schema without a column: each object is wanted there.
    pub others: Vec<ReplicaName>,
    /// Set while the other program copies the object.
    pub lock: Option<String>,
    /// The time of its last attempt.
    pub last_attempt: Option<(String, TimeKind)>,
    pub unit: TimeUnit,
    /// This replica, the primary, has every object, whatever the table contains.
    pub assume: Option<ReplicaName>,
}

impl TimeUnit {
    pub const ALL: [Self; 3] = [Self::Seconds, Self::Millis, Self::Micros];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Millis => "ms",
            Self::Micros => "us",
        }
    }

    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Millis => "milliseconds",
            Self::Micros => "microseconds",
        }
    }

    pub(super) fn micros(self) -> i64 {
        match self {
            Self::Seconds => 1_000_000,
            Self::Millis => 1_000,
            Self::Micros => 1,
        }
    }
}

impl ImportPlan {
    /// Identifies the table and its order: a stored position depends on both.
    pub(super) fn table_is(&self) -> Value {
        json!({ "oid": self.table.oid, "collation": self.order.collation, "compares": self.order.compares.as_str() })
    }

    /// What the operator stated about its columns.
    #[must_use]
    pub fn arguments(&self) -> Value {
        let map: serde_json::Map<_, _> =
            self.columns.iter().map(|c| (c.column.clone(), Value::from(c.replica.as_str()))).collect();
        json!({
            "map": map,
            "unit": self.unit.as_str(),
            "assume_primary": self.assume.as_ref().map(ReplicaName::as_str),
        })
    }

    /// The table for a FROM clause, as `t`.
    pub(super) fn from(&self) -> String {
        let only = if self.table.kind == super::TableKind::Table { "ONLY " } else { "" };
        format!("{only}{} AS t", self.table.name)
    }

    /// The key under the collation of the index, without which PostgreSQL would not use it.
    fn key(&self) -> String {
        format!("t.object_key COLLATE {}", self.order.collation)
    }

    /// An operator of the index: `<`, `>` or `<=`.
    fn operator(&self, of: &str) -> String {
        match self.order.compares {
            KeyComparison::AsText => of.to_owned(),
            KeyComparison::AsPattern => format!("~{of}~"),
        }
    }

    pub(super) fn order_by(&self) -> String {
        self.ordered("<", self.order.nulls_first)
    }

    pub(super) fn order_by_backwards(&self) -> String {
        self.ordered(">", !self.order.nulls_first)
    }

    fn ordered(&self, operator: &str, nulls_first: bool) -> String {
        let nulls = if nulls_first { "FIRST" } else { "LAST" };
        format!("ORDER BY {} USING {} NULLS {nulls}", self.key(), self.operator(operator))
    }

    /// The condition on rows: after the parameter `after` and up to the parameter `until`, where there are such.
    pub(super) fn within(&self, after: Option<&str>, until: Option<&str>) -> String {
        let bound = |operator: &str, of: &str| format!("{} {} {of}::text", self.key(), self.operator(operator));
        let bounds = [after.map(|of| bound(">", of)), until.map(|of| bound("<=", of))];
        let bounds: Vec<_> = bounds.into_iter().flatten().collect();
        if bounds.is_empty() { "t.object_key IS NOT NULL".into() } else { bounds.join(" AND ") }
    }

    /// The column's time in µs, without overflow: a time that is too large for us counts as in the future.
    pub(super) fn in_micros(&self, column: &str, kind: TimeKind) -> String {
        match (kind, self.unit.micros()) {
            (TimeKind::Timestamp, _) => format!(
                "(extract(epoch FROM CASE WHEN t.{column} IS NOT NULL THEN
                      least(greatest(t.{column}, timestamptz '0001-01-01 UTC'), timestamptz '9999-12-31 UTC') END) * 1000000)::bigint"
            ),
            (TimeKind::Number, 1) => format!("t.{column}"),
            (TimeKind::Number, micros) => format!(
                "CASE WHEN t.{column} IS NOT NULL THEN least(greatest(t.{column}, -1), {}) * {micros} END",
                crate::sql::PARKED / micros
            ),
        }
    }
}
