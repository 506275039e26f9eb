//! A listing of any length that takes no memory: each key follows from its number.

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use copyhold_core::domain::{Content, ContentHash};
use s3s::dto::Checksum;

use super::metadata::Metadata;
use super::object::{Body, Object};

/// This many objects, in folders of this many; keys are in the order of their numbers: `0000012/000000012345`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneratedListing {
    pub objects: u64,
    pub per_folder: u64,
}

impl GeneratedListing {
    /// Returns the key of a number from 0.
    #[must_use]
    pub fn key(&self, number: u64) -> String {
        format!("{:07}/{number:012}", number / self.per_folder.max(1))
    }

    /// Entries in the order of their keys.
    pub(super) fn range(self, from: &Bound<String>) -> impl Iterator<Item = (String, Arc<Object>)> + use<> {
        (self.first(from)..self.objects).map(move |number| (self.key(number), Arc::new(object(number))))
    }

    /// The number of the first key that is not before the bound.
    fn first(self, from: &Bound<String>) -> u64 {
        let before = |key: String| match from {
            Bound::Included(bound) => key < *bound,
            Bound::Excluded(bound) => key <= *bound,
            Bound::Unbounded => false,
        };
        let (mut low, mut high) = (0, self.objects);
        while low < high {
            let middle = low + (high - low) / 2;
            if before(self.key(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Nothing of it but what a listing says.
fn object(number: u64) -> Object {
    let etag = format!("{:032x}", u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
    Object {
        body: Body::Forgotten,
        content: Content { size_bytes: 1_000 + number % 1_000, hash: ContentHash(number) },
        etag,
        modified: SystemTime::UNIX_EPOCH + Duration::from_hours(480_000),
        metadata: Metadata::none(),
        checksums: Checksum::default(),
    }
}
