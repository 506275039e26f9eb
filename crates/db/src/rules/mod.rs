//! The rules in force: which replicas objects are wanted at. The configuration says them, `migrate` puts them in force, and
//! from then on the database's word counts, for applications and daemons alike.
//!
//! They decide when an object is registered. Those that were registered before are judged when an operator applies the
//! rules, or when a new replica is filled: no rule that is changed sends anything by itself.

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
