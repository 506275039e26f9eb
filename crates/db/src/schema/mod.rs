//! Creates, checks and removes the parts of the schema: tables, columns of replicas, functions, indexes.

pub(crate) mod append_functions;
pub(crate) mod ddl;
pub(crate) mod functions;
pub(crate) mod inspect;
pub(crate) mod migrate;
pub(crate) mod plan_check;
pub(crate) mod preview;
pub(crate) mod register_functions;
pub(crate) mod remove;
pub(crate) mod replica_columns;
pub(crate) mod sequences;
pub(crate) mod version;

pub use inspect::inspect;
pub use migrate::{MigrateError, MigrateResult, migrate};
pub use plan_check::{PlanCheck, PlanFlaw};
pub use preview::{MigrationPreview, preview};
pub use remove::{RemovalObstacle, RemoveResult, RemovedReplica, remove};
pub use replica_columns::{SchemaAdditions, lane_index};
pub use sequences::BehindSequence;
pub use version::{SCHEMA_VERSION, SchemaFit};
