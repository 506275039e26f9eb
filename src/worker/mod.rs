//! Claims objects, has them copied, has the results written: where queue and copy meet under a lease. `audit` uses both
//! without one.
//!
//! A slot is taken before a row is claimed, so that no more is leased than can be worked on. It is given back when the
//! result is written, or earlier by an object that only waits for a slow target or moves nothing. Rows of a trial need
//! none. No transaction is open while bytes move.

mod admission;
mod allowance;
mod canary;
mod changed;
mod claimer;
mod completer;
mod floor;
mod health;
mod heartbeat;
mod held;
mod journal;
mod lanes;
mod notes;
mod probing;
mod pulse;
mod recheck;
mod run;
mod slots;
mod straggler;
mod suspects;
mod trial;
mod twins;
mod unanswered;
mod walk;

pub use admission::Doorkeeper;
pub use allowance::Allowance;
pub use changed::Changes;
pub use claimer::{Calls, Claimer};
pub use completer::{Completer, Writer, completer};
pub use floor::{Floor, Question};
pub use health::{Diagnosis, Failed, Health};
pub use heartbeat::Heartbeat;
pub use held::Held;
pub use journal::{Journals, Recorder, journals};
pub use lanes::{Lanes, Permits, Reading, Replica, Standing, View};
pub use recheck::Rechecker;
pub use run::{Claim, Runner};
pub use slots::{Room, Slots};
pub use straggler::Stragglers;
pub use trial::Trial;
