//! What an object may have beside its bytes and metadata, and what a copy of it lacks.

use std::fmt;

/// A property of an object that a copy of it lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotCarried {
    /// It has tags.
    Tags,
    /// It is locked until a date, in governance or compliance mode.
    ObjectLock,
    LegalHold,
    /// It is encrypted by a key that the store's key service keeps (SSE-KMS): the copy is encrypted as its bucket says.
    KmsEncryption,
    /// It redirects the readers of a website. The only one that is sent along, so that only some copies may lack it.
    Redirect,
    /// It is in another storage class than the standard one: the copy is in the class of its replica's settings.
    StorageClass,
}

impl NotCarried {
    pub const ALL: [Self; 6] =
        [Self::Tags, Self::ObjectLock, Self::LegalHold, Self::KmsEncryption, Self::Redirect, Self::StorageClass];

    /// Whether copies get it where their stores take it.
    #[must_use]
    pub const fn is_tried(self) -> bool {
        matches!(self, Self::Redirect)
    }

    /// The word for it in tables, events and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tags => "tags",
            Self::ObjectLock => "object_lock",
            Self::LegalHold => "legal_hold",
            Self::KmsEncryption => "kms_encryption",
            Self::Redirect => "redirect",
            Self::StorageClass => "storage_class",
        }
    }
}

impl fmt::Display for NotCarried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
