//! The rules in force: which replicas objects are wanted at. The configuration states them, `migrate` puts them in
//! force, and from then on the database's rules count, for applications and daemons alike.
//! They decide when an object is registered. They are applied to older objects only by `rules apply` or when a new
//! replica is filled: changing a rule copies nothing by itself.

mod apply;
mod expected;
mod force;
mod state;
mod statement;
mod types;
mod walk;

pub use expected::{CopyRate, ExpectedCopies, PartSizes};
pub use force::RulesChanged;
use force::{RULES_COLUMNS, bind_rules, first_that_fits};
pub(super) use force::{all_applied, put_in_force};
pub use state::{RulesState, fingerprint};
pub use types::{ApplyScope, ReplicaChanges, RuleChanges};
pub use walk::{ApplyProgress, ApplyResult};
