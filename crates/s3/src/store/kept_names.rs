//! Whether a store keeps an object under the key that it was written to, as its own listing shows.
//!
//! Asked of a copy that was just written, where its key has something unusual of which that was not seen yet. A plain key
//! costs nothing. No habit of a store is listed here: its listing gives the other name, and a HEAD proves it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use copyhold_core::domain::{KeyTrait, ObjectKey, UnusualKey, is_kept, lookalikes, may_be_made_of, simplified};
use tracing::error;

use super::{Head, ListPage, ListPosition, ListQuery, ListedObject, Store, Tristate, key_folds::FoldAnswer};

/// Looks in a row that say nothing, after which this store is asked no more.
const IN_VAIN: u8 = 8;
/// How long one look may take; copies wait for it.
const LOOK_AT_MOST: Duration = Duration::from_secs(10);
/// Traits and keys that are remembered.
const REMEMBERED: usize = 8192;

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct KeptNames {
    state: Mutex<State>,
    /// Copies that end at the same time ask once.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Keys with these are kept as they are.
    kept: BTreeSet<KeyTrait>,
    in_vain: u8,
    altered: BTreeMap<ObjectKey, KeptAs>,
}

/// The other key that a store takes a key for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAs {
    pub other: ObjectKey,
    /// What was on record of the other object is taken back, since a copy of this one was written over it.
    pub is_taken_back: bool,
}

/// What a look has shown.
enum Seen {
    Kept,
    As(ObjectKey),
    Nothing,
}

impl KeptNames {
    /// A poisoned lock only means that somebody panicked between two of these short steps.
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
    /// The other key that it was seen to take this one for, since this process began.
    #[must_use]
    pub fn kept_as(&self, key: &ObjectKey) -> Option<KeptAs> {
        self.kept_names.state().altered.get(key).cloned()
    }

    /// Notes that nothing is on record any more of the object that this one was written over.
    pub fn note_taken_back(&self, key: &ObjectKey) {
        if let Some(kept_as) = self.kept_names.state().altered.get_mut(key) {
            kept_as.is_taken_back = true;
        }
    }

    /// Looks under which name a copy is kept that was just written. `Some`: under another, which may be another object's.
    /// Names that differ as [`Store::folds`] says do not count: those are known.
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

    /// `None`: the store does not say. `prefix`: the plain beginning of the key.
    async fn see_name(&self, key: &ObjectKey, prefix: &str) -> Option<Seen> {
        let own = self.head(key).await.ok()?;
        // Its own name is the first of those that begin with it.
        let listed = self.list_by(key.as_str()).await?;
        let is_listed = has(&listed, key);
        let mut others = lookalikes(key.as_str());
        if !is_listed {
            let listed = self.list_by(prefix).await?;
            if has(&listed, key) {
                // It heeds no prefix of such characters.
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

    /// Whether the listing has both names: then they are two objects, that look alike and came within the same second.
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

/// Whether a listing may show what a HEAD of the copy has shown. Its time is not compared: another HEAD decides.
fn looks_like(listed: &ListedObject, own: &Head) -> bool {
    listed.size_bytes.is_none_or(|size| size == own.size_bytes)
        && (listed.etag.is_none() || own.etag.is_none() || listed.etag == own.etag)
}
