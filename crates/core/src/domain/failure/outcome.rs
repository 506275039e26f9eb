//! How an attempt at one replica ended: proof, failure, outcome.

use std::time::{Duration, Instant};

use super::{Class, Next, ObjectKey, ReplicaName, Scope, excerpt};

/// How much of a key a message shows.
const KEY_CHARS: usize = 100;

/// Proof that a copy is where it should be, and how that was seen.
/// `copy` makes one for each copy that it has verified, `worker` one for a source that was read whole. Daemons record a
/// time for nothing else. Registration, import and an application's own INSERT record a time on the application's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// The store took a request that carried our hash, and was measured to refuse a wrong one and keep nothing.
    Checked,
    /// The store's answer carried a checksum or ETag equal to ours.
    Compared,
    /// The bytes were read back and hashed.
    ReadBack,
    /// The bytes of this replica were what we read: it is the source.
    Source,
}

impl Verified {
    /// The word for it in logs.
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

/// A failure in words that may be kept and shown: no secrets, no markup, bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub class: Class,
    /// At most a few hundred characters, made of status, code, request id and
    /// the beginning of the store's message.
    pub message: String,
    /// How long the store asked us to wait, if it did.
    pub retry_after: Option<Duration>,
    /// The replica that could not be read, where that was the reason; `None`: it was the replica's own failure, or
    /// the object's.
    pub source: Option<ReplicaName>,
    /// How much it says of the store.
    pub scope: Scope,
    /// What the message advises at its end, in parentheses. It is for a store that fails, not for one of its objects.
    pub advice: Option<&'static str>,
}

impl Failure {
    /// One that we found ourselves: nobody said how long to wait, and no source is to blame.
    #[must_use]
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), retry_after: None, source: None, scope: class.scope(), advice: None }
    }

    /// The same, of which it is known that other objects do not share it.
    #[must_use]
    pub fn of_the_object(mut self, key: &ObjectKey) -> Self {
        let advice = self.advice.take().map(|advice| format!(" ({advice})")).unwrap_or_default();
        if self.message.ends_with(&advice) {
            self.message.truncate(self.message.len() - advice.len());
        }
        // A key may be a thousand bytes long.
        let shown = excerpt(key.as_str(), KEY_CHARS);
        self.message = format!("{} (only object \"{shown}\": others succeed there)", self.message);
        self
    }
}

/// How the attempt at one replica ended. Whoever matches on it has decided everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The copy is proven, since this moment by our own clock. It is recorded with the time of the proof, not of the record.
    Recorded { proof: Verified, proven: Instant },
    /// What we believed recorded is not there: the time is taken back and the copy is wanted again.
    Cleared { next: Next, why: Failure },
    /// It failed; when it is tried again.
    Failed { next: Next, why: Failure },
    /// It was not tried, through no fault of its own; not before this long. Nothing is counted or explained: what it
    /// waits for is known where that belongs.
    Rests { delay: Duration },
}

impl Outcome {
    /// A copy that was proven at this moment.
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
            ..Failure::new(Class::Misconfigured, format!("target b2: PutObject: 301 ({advice})"))
        };
        let named = failure.of_the_object(&ObjectKey::new("a\u{1b}b").unwrap());
        let expected = "target b2: PutObject: 301 (only object \"a\\u{1b}b\": others succeed there)";
        assert_eq!(named.message, expected);
        let long = Failure::new(Class::Denied, "no").of_the_object(&ObjectKey::new("x".repeat(1000)).unwrap());
        assert!(long.message.len() < 200, "{}", long.message);
    }
}
