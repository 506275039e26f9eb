//! Conditions on requests, in the order of precedence that HTTP gives them.

use std::time::{SystemTime, UNIX_EPOCH};

use s3s::dto::{ETagCondition, Timestamp};
use s3s::{S3Error, S3Result, s3_error};

use super::super::bucket::WriteCondition;
use super::super::bucket_options::{BucketOptions, Quirk};
use super::super::object::Object;

/// The conditions of one read.
pub(super) struct Conditions {
    pub matches: Option<ETagCondition>,
    pub none_matches: Option<ETagCondition>,
    pub modified_since: Option<Timestamp>,
    pub unmodified_since: Option<Timestamp>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Go,
    NotModified,
}

impl Conditions {
    /// Checks whether the object may be read. Error: `PreconditionFailed`.
    pub fn check(&self, object: &Object, options: &BucketOptions) -> S3Result<Verdict> {
        if options.has(Quirk::IgnoresConditions) {
            return Ok(Verdict::Go);
        }
        let modified = Timestamp::from(whole_seconds(object.modified));
        if let Some(wanted) = &self.matches {
            if !matches(wanted, &object.etag) {
                return Err(failed());
            }
        } else if self.unmodified_since.as_ref().is_some_and(|since| modified > *since) {
            return Err(failed());
        }
        let unchanged = match &self.none_matches {
            Some(known) => matches(known, &object.etag),
            None => self.modified_since.as_ref().is_some_and(|since| modified <= *since),
        };
        Ok(if unchanged { Verdict::NotModified } else { Verdict::Go })
    }
}

/// The condition of a write, to be checked under the lock that the write takes.
pub(super) fn of_write(
    options: &BucketOptions,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<WriteCondition> {
    if options.has(Quirk::IgnoresConditions) {
        return Ok(WriteCondition::Never);
    }
    match (if_match, if_none_match) {
        (None, None) => Ok(WriteCondition::Never),
        (None, Some(ETagCondition::Any)) => Ok(WriteCondition::Exists),
        (Some(ETagCondition::Any), None) => Ok(WriteCondition::Missing),
        (Some(ETagCondition::ETag(etag)), None) => Ok(WriteCondition::Differs(etag.value().to_owned())),
        // S3 knows no other condition on a write.
        (None, Some(ETagCondition::ETag(_))) | (Some(_), Some(_)) => {
            Err(s3_error!(NotImplemented, "A header you provided implies functionality that is not implemented"))
        }
    }
}

fn matches(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(wanted) => wanted.value() == etag,
    }
}

fn failed() -> S3Error {
    s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
}

/// HTTP dates have no fractions: a date that was read from us must compare as equal.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + std::time::Duration::from_secs(since.as_secs())
}
