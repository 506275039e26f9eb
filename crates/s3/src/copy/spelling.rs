//! Whether a target takes the object's key for another one's: looked at after a copy was written, before it counts.

use super::Target;
use crate::domain::{Class, Failure, ObjectKey};

/// A store that was found to fold keys since the copy began may hold another object under the key by now: the copy is
/// made again, when the caller knows of it.
pub(super) async fn is_its_own(target: &Target, key: &ObjectKey) -> Result<(), Failure> {
    let store = &target.store;
    store.look_for_other_spellings(key).await;
    if store.folds() == target.folds {
        return Ok(());
    }
    let what = format!(
        "this store takes different keys for one (they differ in: {}), which was seen only now. Another object may have been \
         written over this copy, so it is made again",
        store.folds()
    );
    Err(Failure::new(Class::Transient, format!("target {}: {what}", store.name())))
}
