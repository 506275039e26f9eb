//! Whether a store takes different keys for one, as far as that is seen at work.
//!
//! A key that was just written is asked for under other spellings as well: one that shows the same object is the same
//! key there. That costs a few HEADs per store and process, and writes nothing.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use copyhold_core::domain::{FailureClass, Fold, Folds, ObjectKey};
use futures::future::join_all;
use tracing::error;

use super::{Head, Reason, Store, StoreError, Tristate};

/// Answers that say nothing, after which a habit is not asked for any more.
const IN_VAIN: u8 = 8;

/// How long one look may take; copies wait for it.
const LOOK_AT_MOST: Duration = Duration::from_secs(10);

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct SeenFolds {
    state: Mutex<State>,
    /// Copies that end at the same time ask once.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    /// It keeps such keys apart.
    apart: Folds,
    /// It takes them for one.
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

/// What the answer to another spelling says of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FoldAnswer {
    Apart,
    Merged,
    Nothing,
}

impl Store {
    /// The ways in which it was seen, since this process began, to take different keys for one.
    #[must_use]
    pub fn folds(&self) -> Folds {
        self.spellings.state().merged
    }

    /// Asks for other spellings of a key that was just written, as far as it is not known what the store makes of them.
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

    /// What is not known yet, each with another spelling of the key. To one that its profile refuses no copy is written.
    fn to_ask(&self, key: &ObjectKey) -> Vec<(Fold, ObjectKey)> {
        let state = self.spellings.state();
        let held = |other: &ObjectKey| self.profile.refuses_key(other).is_none();
        let other = |fold: Fold| Some((fold, ObjectKey::new(fold.other(key.as_str())?).ok().filter(held)?));
        Fold::ALL.into_iter().filter(|fold| state.asks(*fold)).filter_map(other).collect()
    }

    /// `None`: the object itself is not shown, and a store that shows it late shows the other spelling late as well.
    async fn ask(&self, key: &ObjectKey, others: &[(Fold, ObjectKey)]) -> Option<Vec<FoldAnswer>> {
        let own = self.head(key).await.ok()?;
        Some(join_all(others.iter().map(|(_, other)| self.compare(key, other, &own))).await)
    }

    /// What the answer to another spelling says. `own`: the object as it was shown before.
    pub(super) async fn compare(&self, key: &ObjectKey, other: &ObjectKey, own: &Head) -> FoldAnswer {
        let first = match self.head_alone(other).await {
            Ok(first) => first,
            Err(error) if is_missing(&error) => return FoldAnswer::Apart,
            // A spelling that it does not take is nobody's key.
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

/// Its bucket is there: the object itself was shown.
fn is_missing(error: &StoreError) -> bool {
    error.reason() == Reason::NoSuchKey || error.is_bare_404()
}

/// Two objects with the same contents, put there in the same second, look alike too; hardly anybody has two whose keys
/// differ just so.
fn is_same(other: &Head, own: &Head) -> bool {
    other.size_bytes == own.size_bytes && other.etag == own.etag && other.last_modified == own.last_modified
}
