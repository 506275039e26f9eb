//! How an attempt at one replica ended: with a proof, a failure, or not at all.

use std::time::{Duration, Instant};

use super::{FailureClass, FailureScope, NextAttempt};
use crate::domain::{ObjectKey, ReplicaName, excerpt};

/// The number of characters of a key that a message shows.
const KEY_CHARS: usize = 100;

/// Proof that a copy is stored, and how that was verified.
/// `copy` makes one for each copy that it has verified, `worker` one for a source that was read whole. Daemons record a
/// time for nothing else. Registration, import and an application's own INSERT record a time on the application's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// The store accepted a request with our hash, and was measured to refuse a wrong hash and store nothing.
    Checked,
    /// The store's answer carried a checksum or ETag equal to ours.
    Compared,
    /// The bytes were read back and hashed.
    ReadBack,
    /// The replica is the source: its bytes are the ones that were read.
    Source,
}

impl Verified {
    /// Returns its name in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Checked => "checked by the store",
            Self::Compared => "compared",
            Self::ReadBack => "read back",
            Self::Source => "read as the source",
        }
    }
}

/// A failure whose message may be stored and shown: no secrets, no markup, bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub class: FailureClass,
    /// At most a few hundred characters: status, code, request id and the
    /// beginning of the store's message.
    pub message: String,
    /// The delay that the store asked for.
    pub retry_after: Option<Duration>,
    /// The replica that could not be read, if that was the reason; `None`: the target or the object failed.
    pub failed_source: Option<ReplicaName>,
    /// Whether the store or the object is at fault.
    pub scope: FailureScope,
    /// The advice at the end of the message, in parentheses. It applies to a failing store, not to one of its objects.
    pub advice: Option<&'static str>,
}

impl Failure {
    /// Makes a failure that Copyhold found itself: without a delay from the store, and without a failed source.
    #[must_use]
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { class, message, retry_after: None, failed_source: None, scope: class.scope(), advice: None }
    }

    /// Returns the failure with a message that says that only this object is affected.
    #[must_use]
    pub fn of_the_object(mut self, key: &ObjectKey) -> Self {
        let advice = self.advice.take().map(|advice| format!(" ({advice})")).unwrap_or_default();
        if self.message.ends_with(&advice) {
            self.message.truncate(self.message.len() - advice.len());
        }
        // A key may be 1,024 bytes long.
        let shown = excerpt(key.as_str(), KEY_CHARS);
        self.message = format!("{} (only object \"{shown}\": others succeed there)", self.message);
        self
    }
}

/// How the attempt at one replica ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The copy is proven, at this time of our own clock. The time of the proof is recorded, not that of the record.
    Recorded { proof: Verified, proven: Instant },
    /// A recorded copy is missing: its timestamp is cleared, and the copy is wanted again.
    Cleared { next: NextAttempt, why: Failure },
    /// The attempt failed; `next` says when it is retried.
    Failed { next: NextAttempt, why: Failure },
    /// The copy was not tried, for a reason outside of it, and is not due before this delay. The row records no attempt
    /// and no error.
    Deferred { delay: Duration },
}

impl Outcome {
    /// Returns the outcome of a copy that is proven now.
    #[must_use]
    pub fn recorded(proof: Verified) -> Self {
        Self::Recorded { proof, proven: Instant::now() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_one_object_names_it_and_drops_the_advice_for_the_store() {
        let advice = "check this replica's region";
        let failure = Failure {
            advice: Some(advice),
            ..Failure::new(FailureClass::Misconfigured, format!("target b2: PutObject: 301 ({advice})"))
        };
        let named = failure.of_the_object(&ObjectKey::new("a\u{1b}b").unwrap());
        let expected = "target b2: PutObject: 301 (only object \"a\\u{1b}b\": others succeed there)";
        assert_eq!(named.message, expected);
        let long = Failure::new(FailureClass::Denied, "no").of_the_object(&ObjectKey::new("x".repeat(1000)).unwrap());
        assert!(long.message.len() < 200, "{}", long.message);
    }
}
