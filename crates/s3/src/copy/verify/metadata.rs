//! Checks whether a store keeps the metadata that was written with a copy.

use std::time::Duration;

use copyhold_core::domain::{Failure, FailureClass, ObjectKey};

use super::is_of;
use super::{SHOWS_WITHIN, no_object};
use crate::copy::failure::of_target;
use crate::store::{ETag, Head, Md5, Metadata, Reason, SentBy, Store, shown};

/// Checks that a store keeps the metadata that was just written, unless this process has checked such metadata there.
///
/// A HEAD that fails is no failure: the check is about the store's behaviour, and the bytes are proven already.
/// `written`: the MD5s of what was sent, one per part, and the ETag that the store returned.
pub(in crate::copy) async fn keeps_metadata(
    store: &Store,
    key: &ObjectKey,
    metadata: &Metadata,
    sent_by: SentBy,
    written: (&[Md5], Option<&ETag>),
) -> Result<(), Failure> {
    if store.profile().accepts_altered_metadata {
        return Ok(());
    }
    let Some(look) = store.look_at_metadata(metadata, sent_by).await else { return Ok(()) };
    let (md5s, answered) = written;
    let is_ours = |there: &Head| {
        let by_etag = |etag: &ETag| is_of(etag, md5s) || answered.is_some_and(|answered| answered.names_the_same(etag));
        store.has_opaque_etags() || there.etag.as_ref().is_none_or(by_etag)
    };
    let mut pauses = SHOWS_WITHIN.into_iter();
    let mut answers = 0;
    loop {
        let why = match store.head(key).await {
            Ok(there) => match metadata.lost_in(&there.metadata) {
                None => {
                    look.kept();
                    return Ok(());
                }
                Some(header) if is_ours(&there) => {
                    // The same bytes may have been there with other metadata, and the store may still show that object.
                    if answers > 0 {
                        return Err(keeps_other_metadata(store, &header));
                    }
                    answers += 1;
                    keeps_other_metadata(store, &header)
                }
                // The store shows another object, which proves nothing about its behaviour.
                Some(_) => shows_another(store),
            },
            Err(error) if error.reason() == Reason::NoSuchKey => no_object(store),
            Err(error) if metadata.has_names_that_stores_alter() => return Err(of_target(store, error)),
            Err(error) => {
                if !matches!(error.class(), FailureClass::Transient | FailureClass::Throttled) {
                    look.refused();
                }
                return Ok(());
            }
        };
        let Some(pause) = pauses.next() else { return Err(why) };
        tokio::time::sleep(pause).await;
    }
}

fn shows_another(store: &Store) -> Failure {
    let within: Duration = SHOWS_WITHIN.iter().sum();
    let what =
        format!("it says that it has taken the object, and still shows another one {} s later", within.as_secs());
    Failure::new(FailureClass::Transient, format!("target {}: {what}", store.name()))
}

fn keeps_other_metadata(store: &Store, header: &str) -> Failure {
    let what = format!(
        "it keeps other metadata than was sent: {} differs. Set altered_metadata = \"accept\" for this replica if its copies \
         may differ in that, and retry",
        shown(header.as_bytes())
    );
    Failure::new(FailureClass::Refused, format!("target {}: {what}", store.name()))
}

pub(super) fn other_metadata(store: &Store, header: &str) -> Failure {
    let what = format!(
        "an object with the same bytes and other metadata is already there, written before Copyhold came or not by it: {} \
         differs. Remove it, set altered_metadata = \"accept\" for this replica if copies may differ in that, or \
         existing = \"overwrite\", and retry",
        shown(header.as_bytes())
    );
    Failure::new(FailureClass::Refused, format!("target {}: {what}", store.name()))
}
