//! Learns whether a store keeps an object under the key that it was written to, by its own listing.
//!
//! It checks a new copy whose key has an unusual trait that was not checked before. A plain key costs nothing. No
//! store's behaviour is hard-coded: its listing gives the other name, and a HEAD proves it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use copyhold_core::domain::{KeyTrait, ObjectKey, UnusualKey, is_kept, lookalikes, may_be_made_of, simplified};
use tracing::error;

use super::{Head, ListPage, ListPosition, ListQuery, ListedObject, Store, Tristate, key_folds::FoldAnswer};

/// The number of checks in a row without a result, after which this store is not checked any more.
const IN_VAIN: u8 = 8;
/// Time limit of one check; copies wait for it.
const LOOK_AT_MOST: Duration = Duration::from_secs(10);
/// The most traits and keys that are remembered.
const REMEMBERED: usize = 8192;

/// What this process has learned so far.
#[derive(Debug, Default)]
pub(super) struct KeptNames {
    state: Mutex<State>,
    /// Serializes checks of copies that end at the same time.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Traits of keys that the store keeps unchanged.
    kept: BTreeSet<KeyTrait>,
    in_vain: u8,
    altered: BTreeMap<ObjectKey, KeptAs>,
}

/// The other key under which a store keeps an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAs {
    pub other: ObjectKey,
    /// The record of the other object was revoked, because a copy of this one was written over it.
    pub is_taken_back: bool,
}

/// The result of a check.
enum Seen {
    Kept,
    As(ObjectKey),
    Nothing,
}

impl KeptNames {
    /// A poisoned lock is usable: no step under it leaves the value inconsistent.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_to_ask(&self, unusual: &UnusualKey) -> bool {
        self.in_vain < IN_VAIN && unusual.traits.iter().any(|one| !is_kept(&self.kept, *one))
    }
}

impl Store {
    /// Returns the other key under which the store was seen to keep this one, since this process began.
    #[must_use]
    pub fn kept_as(&self, key: &ObjectKey) -> Option<KeptAs> {
        self.kept_names.state().altered.get(key).cloned()
    }

    /// Records that the object that this one was written over is not on record any more.
    pub fn note_taken_back(&self, key: &ObjectKey) {
        if let Some(kept_as) = self.kept_names.state().altered.get_mut(key) {
            kept_as.is_taken_back = true;
        }
    }

    /// Checks under which key the store keeps a new copy. `Some`: under another, which may be another object's. Keys
    /// that differ by [`Store::folds`] do not count: those folds are known.
    pub async fn look_for_other_name(&self, key: &ObjectKey) -> Option<ObjectKey> {
        if self.profile.keys.exact == Tristate::Yes {
            return None;
        }
        let unusual = UnusualKey::of(key.as_str())?;
        if !self.kept_names.state().is_to_ask(&unusual) {
            return None;
        }
        let _one_at_a_time = self.kept_names.looking.lock().await;
        if !self.kept_names.state().is_to_ask(&unusual) {
            return None;
        }
        let look = self.see_name(key, &key.as_str()[..unusual.plain_bytes]);
        let seen = tokio::time::timeout(LOOK_AT_MOST, look).await.ok().flatten().unwrap_or(Seen::Nothing);
        let mut state = self.kept_names.state();
        match seen {
            Seen::Nothing => {
                state.in_vain += 1;
                None
            }
            Seen::Kept => {
                state.in_vain = 0;
                if state.kept.len() < REMEMBERED {
                    state.kept.extend(unusual.traits);
                }
                None
            }
            Seen::As(other) => {
                if state.altered.len() >= REMEMBERED {
                    state.altered.pop_first();
                }
                let kept_as = KeptAs { other: other.clone(), is_taken_back: false };
                if state.altered.insert(key.clone(), kept_as).is_none() {
                    error!(
                        object.key = %key, replica.id = %self.replica,
                        "{} takes the key \"{}\" for \"{}\", which may be another object's: the copy is not recorded",
                        self.replica, key.as_str().escape_default(), other.as_str().escape_default()
                    );
                }
                Some(other)
            }
        }
    }

    /// `None`: the store does not tell. `prefix`: the plain beginning of the key.
    async fn see_name(&self, key: &ObjectKey, prefix: &str) -> Option<Seen> {
        let own = self.head(key).await.ok()?;
        // Its own name is the first of those that begin with it.
        let listed = self.list_by(key.as_str()).await?;
        let is_listed = has(&listed, key);
        let mut others = lookalikes(key.as_str());
        if !is_listed {
            let listed = self.list_by(prefix).await?;
            if has(&listed, key) {
                // The store ignores a prefix with such characters.
                return Some(Seen::Kept);
            }
            let named = listed.objects.iter().filter(|listed| looks_like(listed, &own));
            let named = named.filter_map(|listed| listed.key.as_ref().ok()).map(|name| name.as_str().to_owned());
            others.splice(0..0, named.filter(|name| may_be_made_of(key.as_str(), name)).take(4));
            others.extend(simplified(key.as_str()));
        }
        let folds = self.folds();
        for other in others.into_iter().filter_map(|other| ObjectKey::new(other).ok()) {
            if folds.are_one(key.as_str(), other.as_str()) {
                // The name that it gives to all of them.
                if !is_listed && self.compare(key, &other, &own).await == FoldAnswer::Merged {
                    return Some(Seen::Kept);
                }
            } else if self.profile.refuses_key(&other).is_none()
                && self.compare(key, &other, &own).await == FoldAnswer::Merged
                && !self.lists_both(key, &other).await
            {
                return Some(Seen::As(other));
            }
        }
        Some(if is_listed { Seen::Kept } else { Seen::Nothing })
    }

    /// Returns whether the listing has both keys: then they are two objects that look alike and were written within one
    /// second.
    async fn lists_both(&self, key: &ObjectKey, other: &ObjectKey) -> bool {
        let lists = async |key: &ObjectKey| self.list_by(key.as_str()).await.is_some_and(|page| has(&page, key));
        lists(key).await && lists(other).await
    }

    async fn list_by(&self, prefix: &str) -> Option<ListPage> {
        self.list(ListQuery { prefix, delimiter: None }, &ListPosition::First).await.ok()
    }
}

fn has(page: &ListPage, key: &ObjectKey) -> bool {
    page.objects.iter().any(|listed| listed.key.as_ref() == Ok(key))
}

/// Returns whether an entry of the listing may be the copy that a HEAD returned. Its time is not compared: another HEAD
/// decides.
fn looks_like(listed: &ListedObject, own: &Head) -> bool {
    listed.size_bytes.is_none_or(|size| size == own.size_bytes)
        && (listed.etag.is_none() || own.etag.is_none() || listed.etag == own.etag)
}
