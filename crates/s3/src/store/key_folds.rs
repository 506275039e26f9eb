//! Learns whether a store folds different keys into one, from copies that were just written.
//!
//! It requests a new key under other spellings as well: a spelling that returns the same object is the same key there.
//! That costs a few HEADs per store and process, and writes nothing.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use copyhold_core::domain::{FailureClass, Fold, Folds, ObjectKey};
use futures::future::join_all;
use tracing::error;

use super::{Head, Reason, Store, StoreError, Tristate};

/// The number of answers without a result, after which a fold is not checked any more.
const IN_VAIN: u8 = 8;

/// Time limit of one check; copies wait for it.
const LOOK_AT_MOST: Duration = Duration::from_secs(10);

/// What this process has learned so far.
#[derive(Debug, Default)]
pub(super) struct SeenFolds {
    state: Mutex<State>,
    /// Serializes checks of copies that end at the same time.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    /// The store keeps such keys apart.
    apart: Folds,
    /// The store folds such keys.
    merged: Folds,
    in_vain: [u8; Fold::ALL.len()],
}

impl SeenFolds {
    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl State {
    fn asks(&self, fold: Fold) -> bool {
        !self.apart.has(fold) && !self.merged.has(fold) && self.in_vain[fold as usize] < IN_VAIN
    }
}

/// What the answer to another spelling shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FoldAnswer {
    Apart,
    Merged,
    Nothing,
}

impl Store {
    /// Returns the folds that the store was seen to apply since this process began.
    #[must_use]
    pub fn folds(&self) -> Folds {
        self.spellings.state().merged
    }

    /// Requests other spellings of a key that was just written, for folds that are not known yet.
    pub async fn look_for_other_spellings(&self, key: &ObjectKey) {
        if self.profile.keys.exact == Tristate::Yes || self.to_ask(key).is_empty() {
            return;
        }
        let _one_at_a_time = self.spellings.looking.lock().await;
        let asked = self.to_ask(key);
        if asked.is_empty() {
            return;
        }
        let answers = tokio::time::timeout(LOOK_AT_MOST, self.ask(key, &asked)).await.ok().flatten();
        let answers = answers.unwrap_or_else(|| vec![FoldAnswer::Nothing; asked.len()]);
        for ((fold, other), says) in asked.into_iter().zip(answers) {
            self.spellings.change(|state| match says {
                FoldAnswer::Apart => state.apart = state.apart.with(fold),
                FoldAnswer::Merged => state.merged = state.merged.with(fold),
                FoldAnswer::Nothing => state.in_vain[fold as usize] += 1,
            });
            if says == FoldAnswer::Merged {
                error!(
                    object.key = %key, replica.id = %self.replica,
                    "{} takes keys for one that differ in {}: \"{}\" is \"{}\" there. Objects whose keys differ so are parked there as they are \
                     copied; of those on record one may be another's already: run `copyhold verify --replica {}`",
                    self.replica, fold.as_str(), key.as_str().escape_default(), other.as_str().escape_default(), self.replica
                );
            }
        }
    }

    /// Returns the unknown folds, each with another spelling of the key. No copy is written to a key that the profile
    /// refuses.
    fn to_ask(&self, key: &ObjectKey) -> Vec<(Fold, ObjectKey)> {
        let state = self.spellings.state();
        let held = |other: &ObjectKey| self.profile.refuses_key(other).is_none();
        let other = |fold: Fold| Some((fold, ObjectKey::new(fold.other(key.as_str())?).ok().filter(held)?));
        Fold::ALL.into_iter().filter(|fold| state.asks(*fold)).filter_map(other).collect()
    }

    /// `None`: the object itself is not visible yet, and so the other spelling may not be either.
    async fn ask(&self, key: &ObjectKey, others: &[(Fold, ObjectKey)]) -> Option<Vec<FoldAnswer>> {
        let own = self.head(key).await.ok()?;
        Some(join_all(others.iter().map(|(_, other)| self.compare(key, other, &own))).await)
    }

    /// Interprets the answer to another spelling. `own`: the object as it was returned before.
    pub(super) async fn compare(&self, key: &ObjectKey, other: &ObjectKey, own: &Head) -> FoldAnswer {
        let first = match self.head_alone(other).await {
            Ok(first) => first,
            Err(error) if is_missing(&error) => return FoldAnswer::Apart,
            // A key that the store refuses names no object.
            Err(error) if error.class() == FailureClass::Refused => return FoldAnswer::Apart,
            Err(_) => return FoldAnswer::Nothing,
        };
        if is_same(&first, own) {
            return FoldAnswer::Merged;
        }
        // Both may have been written meanwhile.
        let Ok(own) = self.head_alone(key).await else { return FoldAnswer::Nothing };
        if is_same(&first, &own) {
            return FoldAnswer::Merged;
        }
        match self.head_alone(other).await {
            Ok(second) if is_same(&second, &own) => FoldAnswer::Merged,
            Ok(second) if is_same(&second, &first) => FoldAnswer::Apart,
            Ok(_) | Err(_) => FoldAnswer::Nothing,
        }
    }
}

/// The bucket exists: it has returned the object itself.
fn is_missing(error: &StoreError) -> bool {
    error.reason() == Reason::NoSuchKey || error.is_bare_404()
}

/// Two objects with equal contents, written in the same second, look alike too; keys that differ only in this way are
/// unlikely.
fn is_same(other: &Head, own: &Head) -> bool {
    other.size_bytes == own.size_bytes && other.etag == own.etag && other.last_modified == own.last_modified
}
