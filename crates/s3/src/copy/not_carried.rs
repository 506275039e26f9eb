//! Reports properties that were sent with a copy and that its store did not keep: a store may drop them silently.

use copyhold_core::domain::{NotCarried, ObjectKey};
use tokio::sync::mpsc;

use super::CopyStep;
use crate::store::{Metadata, Store};

/// Checks a new copy for properties that its store may drop, and reports what is missing. It costs a HEAD, and only if
/// the object has such a property and the store is not known to refuse it. What cannot be checked counts as missing.
pub(super) async fn tell(steps: &mpsc::UnboundedSender<CopyStep>, store: &Store, key: &ObjectKey, metadata: &Metadata) {
    if metadata.website_redirect.is_none() {
        return;
    }
    let keeps = !store.refuses_redirects()
        && store.head(key).await.is_ok_and(|there| there.metadata.website_redirect == metadata.website_redirect);
    if !keeps {
        let _ = steps.send(CopyStep::Lacks { replica: store.name().clone(), property: NotCarried::Redirect });
    }
}
