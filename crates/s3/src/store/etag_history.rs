//! Learns whether a store's ETags of the form of an MD5 are MD5s. A profile that states it takes precedence.

use std::{
    collections::{HashSet, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use copyhold_core::domain::ObjectKey;

use super::{Store, Tristate};

/// The number of different objects, without a contradiction, after which a store counts as known.
const ENOUGH: usize = 8;

/// Which objects' ETags were the MD5 of their bytes.
#[derive(Debug, Default)]
pub(super) struct EtagHistory {
    /// Hashes of their keys, no more than are needed.
    confirmed: Mutex<HashSet<u64>>,
    /// An ETag that looked like an MD5 was seen to be none.
    contradicted: AtomicBool,
}

impl EtagHistory {
    fn confirm(&self, key: &ObjectKey) {
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        if confirmed.len() < ENOUGH {
            let mut hasher = DefaultHasher::new();
            key.as_str().hash(&mut hasher);
            confirmed.insert(hasher.finish());
        }
    }

    fn known(&self) -> Tristate {
        if self.contradicted.load(Ordering::Relaxed) {
            return Tristate::No;
        }
        let confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        if confirmed.len() >= ENOUGH { Tristate::Yes } else { Tristate::Unknown }
    }
}

impl Store {
    /// Returns whether an ETag of this store that has the form of an MD5 is one, by the profile or by enough objects.
    #[must_use]
    pub fn etags_are_md5(&self) -> Tristate {
        match self.profile.etags.of_put_is_md5 {
            Tristate::Unknown => self.etag_history.known(),
            known => known,
        }
    }

    /// Records that the ETag of this object is the MD5 of its bytes.
    pub fn etag_was_md5(&self, key: &ObjectKey) {
        self.etag_history.confirm(key);
    }

    /// Records that an ETag of the form of an MD5 cannot be one: the bytes are known to be right, or the ETag was
    /// another a moment before. Not for bytes that only their source vouches for: they may be damaged.
    pub fn etag_was_no_md5(&self) {
        self.etag_history.contradicted.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> ObjectKey {
        ObjectKey::new(format!("k{number}")).unwrap()
    }

    #[test]
    fn a_store_is_known_by_eight_different_objects_and_no_contradiction() {
        let history = EtagHistory::default();
        for _ in 0..2 * ENOUGH {
            history.confirm(&key(0));
        }
        assert_eq!(history.known(), Tristate::Unknown);
        for number in 1..ENOUGH {
            assert_eq!(history.known(), Tristate::Unknown);
            history.confirm(&key(number));
        }
        assert_eq!(history.known(), Tristate::Yes);
        history.contradicted.store(true, Ordering::Relaxed);
        assert_eq!(history.known(), Tristate::No);
    }
}
