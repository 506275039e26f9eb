//! Domain types: objects, leases, failures, events, rules. Pure: no I/O, no wall clock, no `async`.

mod content;
mod cursor;
mod event;
mod event_documents;
mod failure;
mod key;
mod key_folding;
mod lease;
mod not_carried;
mod replica;
mod rule;
mod size;
mod terminal;
mod time;
mod unusual_key;

pub use content::{Content, ContentHash, MetadataHash, SourceReading};
pub use cursor::{Cursor, Epoch, InvalidCursor};
pub use event::{EventKind, EventKinds, UnknownKind};
pub use event_documents::{InvalidEvents, split_events};
pub use failure::*;
pub use key::{InvalidKey, MAX_KEY_BYTES, ObjectKey, escape, escaped, excerpt};
pub use key_folding::{Fold, Folds};
pub use lease::{Fence, Generation, Lease, PriorFailure, RegistrationOrder, ReplicaState};
pub use not_carried::NotCarried;
pub use replica::{InvalidName, ReplicaName, SchemaName};
pub use rule::Rule;
pub use size::size_text;
pub use terminal::{VisibleLine, visible, visible_json, visible_line};
pub use time::{micros, micros_since_epoch, utc};
pub use unusual_key::{KeyTrait, UnusualKey, is_kept, lookalikes, may_be_made_of, simplified};
