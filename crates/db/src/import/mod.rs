//! Another program's table in the same database, and how its rows become ours.
//!
//! Reads that table and writes none of it. Its identifiers come from PostgreSQL's own catalogue, quoted there; what is
//! asked of it is asked in the order of an index that it has, so that each statement costs what it takes.

mod batch;
mod place;
mod plan;
mod sample;
mod source;
mod statements;
mod tally;

pub use batch::Bound;
pub use place::{HELD_FOR, ImportRow};
pub use plan::{ImportPlan, MappedColumn, TimeKind, Unit};
pub use sample::{Sampled, TimesSeen};
pub use source::{Compares, KeyIndex, MayImport, SourceColumn, SourceTable, TableKind};
pub use tally::{ImportTally, Odd, OfReplica};
