//! Whether a target takes the object's key for another one's: looked at after a copy was written, before it counts.

use copyhold_core::domain::{Failure, FailureClass, ObjectKey};

use super::Target;
use crate::store::Store;

/// Of a key in a message.
const SHOWN_CHARS: usize = 100;

/// A store that was found to fold keys since the copy began may hold another object under the key by now: the copy is
/// made again, when the caller knows of it.
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

/// Why no copy of this object is recorded there.
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

/// In ASCII, or the two would look alike.
fn shown(key: &ObjectKey) -> String {
    let mut shown: String = key.as_str().escape_default().take(SHOWN_CHARS).collect();
    if key.as_str().escape_default().count() > SHOWN_CHARS {
        shown.push_str("...");
    }
    format!("\"{shown}\"")
}
