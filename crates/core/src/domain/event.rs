//! The kinds of events that Copyhold writes, and the set of kinds that an operator keeps.

use std::{collections::BTreeSet, fmt, str::FromStr};

/// The member `kind` of an event that Copyhold writes. docs/events.md lists the other members of each kind.
///
/// Applications append events with kinds of their own, or without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// Copies of an object were recorded; the event says whether that completes the object.
    ObjectCopied,
    /// The primary has content other than what was registered: a new generation begins.
    ObjectChanged,
    /// An attempt at one replica failed and will be retried.
    CopyFailed,
    /// The copy is not retried until an operator or the application asks for it.
    CopyParked,
    /// A recorded copy is missing, damaged or has other content, and is wanted again.
    CopyLost,
    /// A daemon has found that it no longer holds a lease, and stops that copy.
    LeaseLost,
    /// A lease expired without a result from its holder; the object can be claimed again.
    LeaseSwept,
    ReplicaAdded,
    ReplicaPaused,
    ReplicaResumed,
    ReplicaBreakerOpened,
    ReplicaBreakerClosed,
    /// The replica receives no more copies; it remains a source.
    ReplicaDraining,
    ReplicaUndrained,
    /// All copies of the replica are wanted again because its bucket was lost.
    ReplicaReset,
    /// The replica's name now denotes another bucket.
    ReplicaMoved,
    /// The replica's columns were dropped.
    ReplicaRemoved,
    /// The replica is the primary from now on.
    ReplicaPromoted,
    /// Too many objects changed at the primary without being registered; further ones are parked.
    ReplicaChangesParked,
    /// The rules that say where objects are wanted have changed.
    ReplicaRulesChanged,
    DaemonStarted,
    /// The daemon has deregistered, or its heartbeat is missing for too long.
    DaemonStopped,
}

impl EventKind {
    pub const ALL: [Self; 22] = [
        Self::ObjectCopied,
        Self::ObjectChanged,
        Self::CopyFailed,
        Self::CopyParked,
        Self::CopyLost,
        Self::LeaseLost,
        Self::LeaseSwept,
        Self::ReplicaAdded,
        Self::ReplicaPaused,
        Self::ReplicaResumed,
        Self::ReplicaBreakerOpened,
        Self::ReplicaBreakerClosed,
        Self::ReplicaDraining,
        Self::ReplicaUndrained,
        Self::ReplicaReset,
        Self::ReplicaMoved,
        Self::ReplicaRemoved,
        Self::ReplicaPromoted,
        Self::ReplicaChangesParked,
        Self::ReplicaRulesChanged,
        Self::DaemonStarted,
        Self::DaemonStopped,
    ];

    /// Returns the kind as it is written in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ObjectCopied => "object.copied",
            Self::ObjectChanged => "object.changed",
            Self::CopyFailed => "copy.failed",
            Self::CopyParked => "copy.parked",
            Self::CopyLost => "copy.lost",
            Self::LeaseLost => "lease.lost",
            Self::LeaseSwept => "lease.swept",
            Self::ReplicaAdded => "replica.added",
            Self::ReplicaPaused => "replica.paused",
            Self::ReplicaResumed => "replica.resumed",
            Self::ReplicaBreakerOpened => "replica.breaker_opened",
            Self::ReplicaBreakerClosed => "replica.breaker_closed",
            Self::ReplicaDraining => "replica.draining",
            Self::ReplicaUndrained => "replica.undrained",
            Self::ReplicaReset => "replica.reset",
            Self::ReplicaMoved => "replica.moved",
            Self::ReplicaRemoved => "replica.removed",
            Self::ReplicaPromoted => "replica.promoted",
            Self::ReplicaChangesParked => "replica.changes_parked",
            Self::ReplicaRulesChanged => "replica.rules_changed",
            Self::DaemonStarted => "daemon.started",
            Self::DaemonStopped => "daemon.stopped",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kinds of events that are kept; others are never written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventKinds(BTreeSet<EventKind>);

/// A word that is not a kind of event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind of event")]
pub struct UnknownKind(pub String);

impl EventKinds {
    #[must_use]
    pub fn all() -> Self {
        Self(EventKind::ALL.into())
    }

    #[must_use]
    pub fn none() -> Self {
        Self(BTreeSet::new())
    }

    #[must_use]
    pub fn contains(&self, kind: EventKind) -> bool {
        self.0.contains(&kind)
    }
}

/// `all`, `none`, or kinds with commas between them.
impl FromStr for EventKinds {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        match text {
            "all" => Ok(Self::all()),
            "none" => Ok(Self::none()),
            list => {
                let kind = |word: &str| {
                    let found = EventKind::ALL.into_iter().find(|kind| kind.as_str() == word);
                    found.ok_or_else(|| UnknownKind(word.to_owned()))
                };
                list.split(',').map(str::trim).map(kind).collect::<Result<_, _>>().map(Self)
            }
        }
    }
}

impl fmt::Display for EventKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        if self.0.len() == EventKind::ALL.len() {
            return f.write_str("all");
        }
        let words: Vec<_> = self.0.iter().map(|kind| kind.as_str()).collect();
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_choice_of_kinds_is_read_as_the_same_choice() {
        for text in ["all", "none", "copy.parked", "copy.parked, daemon.stopped"] {
            let kinds: EventKinds = text.parse().unwrap();
            assert_eq!(kinds.to_string(), text);
        }
        assert_eq!("copy.failed,copy.eaten".parse::<EventKinds>(), Err(UnknownKind("copy.eaten".into())));
    }
}
