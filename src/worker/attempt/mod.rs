//! Works on one leased object: copies it, or reads its recorded copies again; keeps the lease alive and writes the
//! result.
//!
//! Uses `replica`, never `claim`. `replica` decides whose fault a failure is; [`record`] decides what becomes of the
//! copy; [`state`] decides what an attempt does next, and [`task`] does it.

mod completer;
mod content_changed;
mod diagnosis;
mod folded_keys;
mod heartbeat;
mod held_leases;
mod multipart_journal;
mod recheck;
mod record;
mod report;
mod state;
mod task;
mod time_limit;
mod worker_slot;

pub use completer::{Completer, ReportWriter, completer};
pub use content_changed::ContentChanges;
pub use heartbeat::Heartbeat;
pub use held_leases::HeldLeases;
pub use multipart_journal::{JournalWriter, Journals, journals};
pub use recheck::Rechecker;
pub use task::{AttemptResources, Runner};
pub use time_limit::TimeLimit;
