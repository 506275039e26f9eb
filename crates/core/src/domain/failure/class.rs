//! The classes of failures, and how much a failure says of its store.

use std::fmt;

/// What kind of failure it was. Everything about when to try again follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Timeout, reset, 500, 502, 504, short body.
    Transient,
    /// 429, 503, `SlowDown`: the store asks for less.
    Throttled,
    /// Quota, cap, 507: the store has no room.
    Full,
    /// 401 and 403 that no other class explains.
    Denied,
    /// No such bucket, a redirect, a bad signature, a TLS name that does not fit.
    Misconfigured,
    /// The store says that it has no such object.
    Gone,
    /// Another ETag, size or hash than this generation's first read.
    Changed,
    /// Bytes arrived damaged: what the store has is not what was sent.
    Corrupt,
    /// A key, size or metadata that this store cannot hold.
    Refused,
    /// The source keeps the object in a cold class that must be restored first.
    Archived,
}

/// How much one failure says of the store where it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nothing: it is the object's.
    Object,
    /// The object or the store: several objects tell.
    Either,
    /// Hardly ever one object alone: credentials, the bucket, room, no answer at all. One is enough to ask the store.
    Store,
}

impl Class {
    pub const ALL: [Self; 10] = [
        Self::Transient,
        Self::Throttled,
        Self::Full,
        Self::Denied,
        Self::Misconfigured,
        Self::Gone,
        Self::Changed,
        Self::Corrupt,
        Self::Refused,
        Self::Archived,
    ];

    /// The word for it in tables, metrics and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Throttled => "throttled",
            Self::Full => "full",
            Self::Denied => "denied",
            Self::Misconfigured => "misconfigured",
            Self::Gone => "gone",
            Self::Changed => "changed",
            Self::Corrupt => "corrupt",
            Self::Refused => "refused",
            Self::Archived => "archived",
        }
    }

    /// How much a failure of this class says of its store, unless more is known of it.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Self::Full => Scope::Store,
            Self::Transient | Self::Throttled | Self::Denied | Self::Misconfigured => Scope::Either,
            Self::Gone | Self::Changed | Self::Corrupt | Self::Refused | Self::Archived => Scope::Object,
        }
    }

    /// Whether it may have nothing to do with the object: what is so with this one may be so with the next. What was
    /// done for the object is still good then, and once the store is well it can be gone on with.
    #[must_use]
    pub const fn may_be_of_the_store(self) -> bool {
        match self {
            Self::Transient | Self::Throttled | Self::Full | Self::Denied | Self::Misconfigured => true,
            Self::Gone | Self::Changed | Self::Corrupt | Self::Refused | Self::Archived => false,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
