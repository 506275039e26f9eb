//! Measures how a store behaves, instead of trusting its documentation.
//!
//! A probe writes small objects under a random prefix, reads them, and removes them again, by version if there are
//! versions, whatever happens in between. It touches no other object. In a bucket with a default retention it writes
//! only if the caller allows that. It reports [`Fact`]s, each with what the profile states.

mod bucket;
mod calls;
mod cleanup;
mod facts;
mod hashes;
mod keys;
mod metadata;
mod parts;
mod reads;
mod twins;

use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use cleanup::Leftover;
pub use facts::Fact;

use copyhold_core::domain::FailureClass;

use super::{Profile, Store, StoreError, Tristate};
use bucket::Lock;
use calls::PutOptions;
use cleanup::Cleanup;

/// The prefix of everything that a probe writes, but for one key that has a slash in front of it.
const FOLDER: &str = ".copyhold-probe";
/// A store may still execute a request that was sent before `stop` was cancelled: it gets this long to end.
const LAST_REQUEST_MAY_TAKE: Duration = Duration::from_secs(5);

/// Returns whether a key was written by a probe. An object that a lock kept a probe from deleting is not user data.
#[must_use]
pub fn is_of_a_probe(key: &[u8]) -> bool {
    let below = |key: &[u8]| Some(key.strip_prefix(FOLDER.as_bytes())?.strip_prefix(b"/")?.get(..17)?.to_vec());
    below(key.strip_prefix(b"/").unwrap_or(key)).is_some_and(|number| {
        let (digits, end) = number.split_at(16);
        end == b"/" && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The result of a probe.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The prefix that the probe wrote under.
    pub prefix: String,
    pub facts: Vec<Fact>,
    /// How long the bucket's default retention keeps objects, if it has one.
    pub retention: Option<String>,
    /// Why the measuring ended early, if it did.
    pub unmeasured: Option<Ended>,
    /// What the probe wrote and could not remove.
    pub left: Vec<Leftover>,
}

/// One probe under way.
struct Probe<'a> {
    store: &'a Store,
    prefix: String,
    stop: &'a CancellationToken,
    versioned: Tristate,
    retention: Option<String>,
    cleanup: Cleanup,
    facts: Vec<Fact>,
}

/// Why a probe ended early.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ended {
    pub kind: EndedBy,
    /// The reason, for people.
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// A retention would keep the probe's objects; nothing was written.
    Lock,
    /// It is unclear whether a retention would keep them; nothing was written.
    LockUnseen,
    NotWritable,
    NotRemovable,
    /// The caller stopped it.
    Stop,
}

impl Ended {
    fn by(kind: EndedBy, why: impl Into<String>) -> Self {
        Self { kind, why: why.into() }
    }

    fn stopped() -> Self {
        Self::by(EndedBy::Stop, "it was told to stop")
    }
}

impl Store {
    /// Returns the prefix that the probe of this number writes under.
    #[must_use]
    pub fn probe_prefix(number: u64) -> String {
        format!("{FOLDER}/{number:016x}/")
    }

    /// Measures the store under [`Store::probe_prefix`]. `locked`: also if a retention keeps the objects for a while.
    ///
    /// Cancelling `stop` ends the measuring, not the removing. Dropping the future leaves objects behind.
    pub async fn probe(&self, number: u64, locked: bool, stop: &CancellationToken) -> Report {
        let prefix = Self::probe_prefix(number);
        let mut probe = Probe {
            store: self,
            prefix,
            stop,
            versioned: Tristate::Unknown,
            retention: None,
            cleanup: Cleanup::default(),
            facts: Vec::new(),
        };
        let measured = tokio::select! {
            biased;
            measured = probe.measure(locked) => Some(measured),
            () = late(stop) => None,
        };
        let mut left = probe.clear_up().await;
        if measured.is_none() {
            // During the removal, the store may have executed a request that was cut off.
            tokio::time::sleep(LAST_REQUEST_MAY_TAKE).await;
            left = probe.clear_up().await;
        }
        let unmeasured = measured.unwrap_or_else(|| Err(Ended::stopped())).err();
        Report { prefix: probe.prefix, facts: probe.facts, retention: probe.retention, unmeasured, left }
    }
}

async fn late(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(LAST_REQUEST_MAY_TAKE).await;
}

impl Probe<'_> {
    async fn measure(&mut self, locked: bool) -> Result<(), Ended> {
        self.read_bucket_settings().await;
        match self.lock().await {
            Lock::None => {}
            Lock::Unseen(_) if locked => {}
            Lock::Default(retention) if locked => self.retention = Some(retention),
            Lock::Default(retention) => {
                let todo = "--probe-locked measures all the same; what it writes then stays for as long";
                let why = format!("the bucket keeps what is written ({retention}), so nothing was written: {todo}");
                return Err(Ended::by(EndedBy::Lock, why));
            }
            Lock::Unseen(error) => {
                let todo = "allow GetBucketObjectLockConfiguration, or measure all the same with --probe-locked";
                let what = "whether the bucket keeps what is written cannot be seen, so nothing was written";
                return Err(Ended::by(EndedBy::LockUnseen, format!("{what}: {error}; {todo}")));
            }
        }
        self.may_write_and_remove().await?;
        self.going_on()?;
        self.hashes_of_a_put().await;
        self.going_on()?;
        self.reading().await;
        self.going_on()?;
        self.overwriting().await;
        self.going_on()?;
        self.metadata().await;
        self.going_on()?;
        self.keys().await?;
        self.going_on()?;
        self.twins().await?;
        self.going_on()?;
        self.hashes_of_parts().await;
        self.going_on()?;
        self.uploads().await;
        self.going_on()
    }

    /// Writes one object and removes it, before the probe writes any other.
    async fn may_write_and_remove(&mut self) -> Result<(), Ended> {
        let key = self.key("first");
        let sent = self.put(&key, b"first", PutOptions::default()).await;
        let sent = sent.map_err(|error| {
            if error.class() == FailureClass::Denied {
                self.cleanup.forgets(&key);
            }
            Ended::by(EndedBy::NotWritable, format!("nothing can be written: {error}"))
        })?;
        if self.retention.is_some() {
            return Ok(());
        }
        let version = sent.version.filter(|_| self.versioned != Tristate::No);
        let removed = self.delete(&key, version.as_deref()).await;
        removed.map_err(|error| {
            let todo = "a probe needs DeleteObject, and DeleteObjectVersion where versions are kept";
            Ended::by(
                EndedBy::NotRemovable,
                format!("what is written cannot be removed, so no more was: {error} ({todo})"),
            )
        })
    }

    fn going_on(&self) -> Result<(), Ended> {
        if self.stop.is_cancelled() { Err(Ended::stopped()) } else { Ok(()) }
    }

    fn profile(&self) -> &Profile {
        self.store.profile()
    }

    fn found(&mut self, fact: Fact) {
        self.facts.push(fact);
    }
}

/// Returns whether the store refused the request, as opposed to being unhealthy or rejecting the credentials.
fn is_refusal(error: &StoreError) -> bool {
    match error.class() {
        FailureClass::Refused | FailureClass::Corrupt | FailureClass::Changed => true,
        FailureClass::Transient
        | FailureClass::Throttled
        | FailureClass::Full
        | FailureClass::Denied
        | FailureClass::Misconfigured
        | FailureClass::Gone
        | FailureClass::Archived => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_probe_writes_is_told_from_what_others_have() {
        let prefix = Store::probe_prefix(0x1a2b);
        for ours in [format!("{prefix}first"), format!("/{prefix}led"), prefix.clone(), format!("{prefix}a//b")] {
            assert!(is_of_a_probe(ours.as_bytes()), "{ours}");
        }
        for foreign in [
            "",
            "a",
            FOLDER,
            ".copyhold-probe/",
            ".copyhold-probe/another/first",
            "/.copyhold-probe/x",
            "//.copyhold-probe/",
            ".copyhold-probe/0000000000001A2B/first",
            ".copyhold-probe/0000000000001a2b",
            ".copyhold-probe/00000000000001a2b/x",
            "photos/.copyhold-probe/0000000000001a2b/first",
            ".copyhold-probes/0000000000001a2b/first",
        ] {
            assert!(!is_of_a_probe(foreign.as_bytes()), "{foreign}");
        }
    }
}
