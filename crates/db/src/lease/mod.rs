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
mod lost;
pub(crate) mod multipart;
pub(crate) mod orphaned_multipart;
pub(crate) mod peek;
pub(crate) mod reclaim;
pub(crate) mod release;
pub(crate) mod renew;
pub(crate) mod swept;
pub(crate) mod unclaim;
pub(crate) mod unsettled;

pub use begin_generation::UnregisteredChange;
pub use claim::{ClaimError, Claimed, LanePosition};
pub use clock_set_back::ClockCorrection;
pub use complete::Report;
pub use fenced_write::{FencedResult, FencedWrite};
pub use multipart::{StoredPart, UnfinishedUpload, UploadIntent};
pub use orphaned_multipart::{CondemnedUpload, UPLOAD_CHECK_INTERVAL, UploadCheck};
pub use peek::Peeked;
pub use reclaim::ReclaimedLease;
pub use unsettled::{DueUnsettled, UnsettledCopy, UnsettledState, UnsettledWrite};
