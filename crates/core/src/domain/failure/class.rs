//! The classes of failures, and whether a failure points to its object or to its store.

use std::fmt;

/// The kind of a failure, which decides when the copy is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureClass {
    /// Timeout, reset, 500, 502, 504, short body.
    Transient,
    /// 429, 503, `SlowDown`: the store asks for fewer requests.
    Throttled,
    /// Quota, cap, 507: the store has no room.
    Full,
    /// 401 and 403 that no other class explains.
    Denied,
    /// No such bucket, a redirect, a bad signature, a TLS name that does not match.
    Misconfigured,
    /// The store answers that it has no such object.
    Gone,
    /// ETag, size or hash differ from this generation's first read.
    Changed,
    /// Bytes arrived damaged: the store has other bytes than were sent.
    Corrupt,
    /// A key, size or metadata that this store cannot hold.
    Refused,
    /// The source keeps the object in a cold class that must be restored first.
    Archived,
}

/// What one failure suggests about the store where it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureScope {
    /// Nothing: the object is at fault.
    Object,
    /// The object or the store is at fault; failures of several objects decide.
    Either,
    /// Probably the store is at fault: credentials, bucket, room, no answer at all. One such failure is enough to ping it.
    Store,
}

impl FailureClass {
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

    /// Returns its name in tables, metrics and messages.
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

    /// Returns the scope of a failure of this class, unless the error tells more.
    #[must_use]
    pub const fn scope(self) -> FailureScope {
        match self {
            Self::Full => FailureScope::Store,
            Self::Transient | Self::Throttled | Self::Denied | Self::Misconfigured => FailureScope::Either,
            Self::Gone | Self::Changed | Self::Corrupt | Self::Refused | Self::Archived => FailureScope::Object,
        }
    }

    /// Returns whether the store may be at fault. Uploaded parts remain valid then, and the upload can be resumed once
    /// the store is healthy.
    #[must_use]
    pub const fn may_be_of_the_store(self) -> bool {
        match self {
            Self::Transient | Self::Throttled | Self::Full | Self::Denied | Self::Misconfigured => true,
            Self::Gone | Self::Changed | Self::Corrupt | Self::Refused | Self::Archived => false,
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
