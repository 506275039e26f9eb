//! Detects that a target folds the object's key with another one, after a copy was written and before it counts.

use copyhold_core::domain::{Failure, FailureClass, ObjectKey};

use super::Target;
use crate::store::Store;

/// Characters of a key in a message.
const SHOWN_CHARS: usize = 100;

/// Fails the copy if the store was found to fold keys since it began: the store may hold another object under the key.
/// The copy is made again once the caller knows the fold.
pub(super) async fn is_its_own(target: &Target, key: &ObjectKey) -> Result<(), Failure> {
    let store = &target.store;
    store.look_for_other_spellings(key).await;
    if store.folds() == target.folds {
        return match store.look_for_other_name(key).await {
            None => Ok(()),
            Some(other) => Err(kept_as_another(store, key, &other)),
        };
    }
    let what = format!(
        "this store takes different keys for one (they differ in: {}), which was seen only now. Another object may have been \
         written over this copy, so it is made again",
        store.folds()
    );
    Err(Failure::new(FailureClass::Transient, format!("target {}: {what}", store.name())))
}

/// Makes the failure of a copy whose key the store folds with another one.
#[must_use]
pub fn kept_as_another(store: &Store, key: &ObjectKey, other: &ObjectKey) -> Failure {
    let what = format!(
        "this store keeps the key {} under the name {}, which may be another object's, so the copy is not recorded. Give the \
         object another key, or use a store that keeps such keys as they are",
        shown(key),
        shown(other)
    );
    Failure::new(FailureClass::Refused, format!("target {}: {what}", store.name()))
}

/// Escaped to ASCII, because the two keys might look alike.
fn shown(key: &ObjectKey) -> String {
    let mut shown: String = key.as_str().escape_default().take(SHOWN_CHARS).collect();
    if key.as_str().escape_default().count() > SHOWN_CHARS {
        shown.push_str("...");
    }
    format!("\"{shown}\"")
}
