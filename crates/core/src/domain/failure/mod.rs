//! Failures of copies, in three decisions: what it was (`class`), whose fault (`evidence`, `verdict`), when to try again (`backoff`).
//!
//! Pure: callers pass times in. How an attempt ended is an [`Outcome`].

mod backoff;
mod breaker;
mod class;
mod evidence;
mod outcome;
mod source_verdict;
mod verdict;

pub use backoff::{AttemptContext, MAX_ATTEMPTS, NextAttempt, next_attempt};
pub use breaker::{BreakerScope, Direction, charges_probed, next_probe};
pub use class::{FailureClass, FailureScope};
pub use evidence::{Evidence, Suspicion};
pub use outcome::{Failure, Outcome, Verified};
pub use source_verdict::{CurrentSource, EtagMatch, RecordedSource, SourceVerdict, judge_metadata, judge_source};
pub use verdict::{FaultVerdict, MAX_IN_DOUBT, PingResult, TRIAL_OBJECTS, TrialCount, decide_fault};
