//! The life of a lease: claim, renew, complete, release, reclaim, and the uploads that its holder has begun.
//!
//! A statement that changes several rows locks them with SKIP LOCKED before it writes, so that it never waits for a row
//! while it holds another. A fenced write finds its row by key alone and then compares the fence.

pub(crate) mod begin_generation;
pub(crate) mod claim;
pub(crate) mod clock_set_back;
pub(crate) mod complete;
pub(crate) mod fenced_write;
pub(crate) mod function_calls;
pub(crate) mod multipart;
pub(crate) mod orphaned_multipart;
pub(crate) mod peek;
pub(crate) mod reclaim;
pub(crate) mod release;
pub(crate) mod renew;
pub(crate) mod swept;
pub(crate) mod unclaim;
pub(crate) mod unsettled;

pub use begin_generation::Unregistered;
pub use claim::{ClaimError, Claimed, Position};
pub use clock_set_back::PulledIn;
pub use complete::Report;
pub use fenced_write::{Answer, Answered};
pub use multipart::{Intent, TakenPart, UnfinishedUpload};
pub use orphaned_multipart::{Condemned, LOOK_EVERY, Looked};
pub use peek::Sought;
pub use reclaim::Reclaimed;
pub use unsettled::{TakenUnsettled, UnsettledAt, UnsettledWrite, Unverified};
