//! Content and metadata of an object as hashes, and what a source said when they were read.

use std::fmt;

use super::ReplicaName;

/// CRC-64/NVME of a whole object: combinable across parts; AWS calls it a full-object checksum.
/// It detects damage, not forgery.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ContentHash(pub u64);

/// Size and hash that the first complete read of a generation found. Later reads must find the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub size_bytes: u64,
    pub hash: ContentHash,
}

/// A hash of an object's metadata in canonical form. Equal hashes mean equal metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataHash(pub u64);

/// Last-Modified and ETag that a source returned when the object was read, by the store's own clock.
/// A later reading that finds other bytes is judged against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReading {
    pub replica: ReplicaName,
    /// Last-Modified, µs since the epoch by the store's clock.
    pub modified_us: Option<i64>,
    /// A hash of the ETag and the version id.
    pub tag: Option<i64>,
}

impl MetadataHash {
    /// Returns the bits as PostgreSQL's `bigint` stores them.
    #[must_use]
    pub fn to_bigint(self) -> i64 {
        self.0.cast_signed()
    }

    #[must_use]
    pub fn from_bigint(bits: i64) -> Self {
        Self(bits.cast_unsigned())
    }
}

impl ContentHash {
    /// Returns the bits as PostgreSQL's `bigint` stores them.
    #[must_use]
    pub fn to_bigint(self) -> i64 {
        self.0.cast_signed()
    }

    #[must_use]
    pub fn from_bigint(bits: i64) -> Self {
        Self(bits.cast_unsigned())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "crc64nvme:{:016x}", self.0)
    }
}

/// `48213 bytes, crc64nvme:c352d31f41d51723`
impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {}", self.size_bytes, self.hash)
    }
}
