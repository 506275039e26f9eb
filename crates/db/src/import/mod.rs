//! Imports another program's table in the same database.
//! It reads that table and writes none of it. Its identifiers come from PostgreSQL's own catalogue, quoted there.
//! Statements read it in the order of one of its indexes, so that each costs no more than the rows it reads.

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
