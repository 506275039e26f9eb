use std::fmt;

/// CRC-64/NVME of a whole object: combinable across parts, and what AWS calls
/// a full-object checksum. It tells damage from sameness, not friend from foe.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ContentHash(pub u64);

/// What one complete read of a generation found: later reads must find the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub size_bytes: u64,
    pub hash: ContentHash,
}

impl ContentHash {
    /// The bits as PostgreSQL's `bigint` keeps them.
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
        write!(f, "crc64nvme:{:016x}", self.0)
    }
}
