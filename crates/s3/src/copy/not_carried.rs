//! What a copy lacks that was sent with it: a store may take it and keep nothing of it, without a word.

use copyhold_core::domain::{NotCarried, ObjectKey};
use tokio::sync::mpsc;

use super::Step;
use crate::store::{Metadata, Store};

/// Looks at a copy that was just made for what its store need not keep, and tells what is missing. It costs a HEAD, and
/// only where the object has such a thing and the store is not known to refuse it. What cannot be seen counts as missing.
pub(super) async fn tell(steps: &mpsc::UnboundedSender<Step>, store: &Store, key: &ObjectKey, metadata: &Metadata) {
    if metadata.website_redirect.is_none() {
        return;
    }
    let keeps = !store.refuses_redirects()
        && store.head(key).await.is_ok_and(|there| there.metadata.website_redirect == metadata.website_redirect);
    if !keeps {
        let _ = steps.send(Step::Lacks { replica: store.name().clone(), property: NotCarried::Redirect });
    }
}
