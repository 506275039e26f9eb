//! Imports the objects of another program's table, row by row in the order of that table's own index.
//!
//! Accesses no store: what the other program has recorded counts as proven. Holds no row of that table, nor anything
//! else between two batches; its place is in the database, written with the work up to there.

mod check;
mod run;

pub use check::{ImportContext, ImportOptions, check, check_times};
pub use run::{Import, ImportEnded, ImportError};
