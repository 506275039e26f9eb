//! Another program's table in the same database, and how its rows become ours.
//!
//! Reads that table and writes none of it. Its identifiers come from PostgreSQL's own catalogue, quoted there; what is
//! asked of it is asked in the order of an index that it has, so that each statement costs what it takes.

mod batch;
mod plan;
mod progress;
mod sample;
mod source;
mod statements;
mod tally;

pub use batch::BatchEnd;
pub use plan::{ImportPlan, MappedColumn, TimeKind, TimeUnit};
pub use progress::{IMPORT_LEASE, ImportRow};
pub use sample::{ColumnTimes, TimeSample};
pub use source::{ImportRights, KeyComparison, KeyIndex, SourceColumn, SourceTable, TableKind};
pub use tally::{ImportAnomaly, ImportTally, ReplicaTally};
