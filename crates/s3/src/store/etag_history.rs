//! Owns what this process has seen of a store's ETags: whether those that look like MD5s are MD5s.
//! A profile that knows it goes before what was seen.

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

/// So many different objects, and no contradiction, make a store known.
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
    /// Whether an ETag of this store that looks like an MD5 is one: the profile says so, or enough objects have shown it.
    #[must_use]
    pub fn etags_are_md5(&self) -> Tristate {
        match self.profile.etags.of_put_is_md5 {
            Tristate::Unknown => self.etag_history.known(),
            known => known,
        }
    }

    /// The ETag that came with the bytes of this object is their MD5.
    pub fn etag_was_md5(&self, key: &ObjectKey) {
        self.etag_history.confirm(key);
    }

    /// An ETag looked like an MD5 and cannot be one: the bytes are known to be right, or it was another one a moment
    /// before. Not for bytes of which only their source says that they are right: that may be damage.
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
