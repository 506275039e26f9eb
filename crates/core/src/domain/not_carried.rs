//! Properties of an object that copies lack: tags, locks, encryption, redirect, storage class.

use std::fmt;

/// A property of the source object that its copies lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotCarried {
    /// It has tags.
    Tags,
    /// It is locked until a date, in governance or compliance mode.
    ObjectLock,
    LegalHold,
    /// It is encrypted with a key of the store's key service (SSE-KMS). The copy gets the encryption of its bucket.
    KmsEncryption,
    /// It redirects the readers of a website. Uploads send this one along, so only some copies lack it.
    Redirect,
    /// It is not in the standard storage class. The copy is in the class of its replica's settings.
    StorageClass,
}

impl NotCarried {
    pub const ALL: [Self; 6] =
        [Self::Tags, Self::ObjectLock, Self::LegalHold, Self::KmsEncryption, Self::Redirect, Self::StorageClass];

    /// Returns whether uploads send it, so that copies have it where their stores accept it.
    #[must_use]
    pub const fn is_tried(self) -> bool {
        matches!(self, Self::Redirect)
    }

    /// Returns its name in tables, events and metrics.
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
