//! What an application or an operator does with single objects: register, reschedule, forget, explain.
//!
//! Statements that register many objects wait for rows in the order of keys, so that two of them cannot deadlock.

pub(crate) mod explain;
pub(crate) mod forget;
pub(crate) mod key_twins;
pub(crate) mod register;
pub(crate) mod register_listed;
pub(crate) mod reschedule;
pub(crate) mod revoke;

pub use explain::{
    CopyDetails, CopyState, ExpiredLeases, FailureDetails, LeaseHolder, ObjectDetails, UnsettledDetails,
};
pub use forget::ForgetResult;
pub use key_twins::KeyTwin;
pub use register::{NewObject, RegisterResult};
pub use reschedule::{PARKED_BY_OPERATOR, Rescheduled, RetryScope};
pub use revoke::{ChangedObject, FalseRecord, Revocation};
