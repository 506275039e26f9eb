//! What an application or an operator does with single objects: register, reschedule, forget, explain.
//!
//! Statements that register many objects wait for rows in the order of keys, so that two of them cannot deadlock.

pub(crate) mod explain;
pub(crate) mod forget;
pub(crate) mod key_twins;
pub(crate) mod register;
pub(crate) mod register_listed;
pub(crate) mod reschedule;
pub(crate) mod take_back;

pub use explain::{Abandoned, CopyStory, FailureStory, Holder, State, Story, UnsettledStory};
pub use forget::Forgotten;
pub use key_twins::Twin;
pub use register::{NewObject, Registered};
pub use reschedule::{PARKED_BY_HAND, Turned, Which};
pub use take_back::{Again, Refuted, TakeBack};
