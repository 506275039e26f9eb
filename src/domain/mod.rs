//! The words of the system as types. Pure: no I/O, no clock, no `async`.

mod backoff;
mod breaker;
mod class;
mod content;
mod cursor;
mod documents;
mod doubt;
mod event;
mod evidence;
mod fold;
mod key;
mod lease;
mod not_carried;
mod outcome;
mod replica;
mod source_verdict;
mod terminal;
mod time;

pub use backoff::{Attempt, Next, TRIES, next_try};
pub use breaker::{Blocks, Role, charges_probed, next_probe};
pub use class::{Class, Scope};
pub use content::{Content, ContentHash, MetadataHash, SourceReading};
pub use cursor::{Cursor, Epoch, InvalidCursor};
pub use documents::{NoEvents, documents};
pub use doubt::{Canary, MAX_IN_DOUBT, Ruling, TRIAL_OBJECTS, TrialCount, rule};
pub use event::{EventKind, EventKinds, UnknownKind};
pub use evidence::{Evidence, Suspicion};
pub use fold::{Fold, Folds};
pub use key::{InvalidKey, MAX_KEY_BYTES, ObjectKey, escape, escaped, excerpt};
pub use lease::{Arrival, Fence, Generation, Lease, PriorFailure, ReplicaState};
pub use not_carried::NotCarried;
pub use outcome::{Failure, Outcome, Verified};
pub use replica::{InvalidName, ReplicaName, SchemaName};
pub use source_verdict::{EtagMatch, FoundThere, Kept, SourceVerdict, judge_metadata, judge_source};
pub use terminal::{VisibleLine, visible, visible_json, visible_line};
pub use time::{micros, micros_since_epoch, utc};
