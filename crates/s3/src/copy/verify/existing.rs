//! Objects that a target already holds: the result of an earlier attempt, or an object older than Copyhold.

use std::time::SystemTime;

use copyhold_core::domain::{Content, Failure, FailureClass, ObjectKey, Verified};

use super::{metadata::other_metadata, read_back};
use crate::copy::failure::of_target;
use crate::copy::{OnExisting, Target};
use crate::store::{CLOCK_TOLERANCE, Head, Md5, Metadata, Reason, Store};

/// Looks for the copy of an earlier attempt whose result is unknown, before another attempt writes. `None`: there is
/// none, or it has other content.
///
/// It looks in two cases. Where an overwrite leaves an older version behind, that version costs storage and may be
/// locked for years. Where no ETag proves a copy, the attempt may have failed only because the store showed it late.
pub(in crate::copy) async fn left_by_us(
    target: &Target,
    key: &ObjectKey,
    content: &Content,
    metadata: &Metadata,
) -> Result<Option<Verified>, Failure> {
    let store = &*target.store;
    if !target.again || !(store.has_opaque_etags() || store.keeps_versions().await) {
        return Ok(None);
    }
    match store.head(key).await {
        Err(error) if error.reason() == Reason::NoSuchKey => return Ok(None),
        Err(error) => return Err(of_target(store, error)),
        // An object with other metadata is another state of the object, and is overwritten.
        Ok(there) if there.size_bytes != content.size_bytes || there.metadata.hash() != metadata.hash() => {
            return Ok(None);
        }
        Ok(_) => {}
    }
    // Compares the bytes: the attempt may have failed because the store altered them.
    match read_back(store, key, content).await {
        Ok(proof) => Ok(Some(proof)),
        Err(Failure { class: FailureClass::Corrupt, .. }) => Ok(None),
        Err(why) => Err(why),
    }
}

/// Returns an object under the key that is older than Copyhold: it is never
/// overwritten. The copy of an earlier attempt does not count.
pub(in crate::copy) async fn look(
    store: &Store,
    key: &ObjectKey,
    older_than: Option<SystemTime>,
) -> Result<Option<Head>, Failure> {
    if older_than.is_some() && store.clock_fits.get() == Some(&false) {
        return Err(clock_does_not_fit(store));
    }
    match store.head_and_date(key).await {
        Err(error) if error.reason() == Reason::NoSuchKey => Ok(None),
        Err(error) => Err(of_target(store, error)),
        Ok((head, date)) => Ok((!is_ours(&head, date, older_than)).then_some(head)),
    }
}

/// Returns whether an object was written since the bucket was first used. It is unknown without a date, or with a date
/// later than the store's own clock.
fn is_ours(head: &Head, date: Option<SystemTime>, older_than: Option<SystemTime>) -> bool {
    head.last_modified.zip(older_than).is_some_and(|(modified, older_than)| {
        modified >= older_than && date.is_none_or(|date| modified <= date + CLOCK_TOLERANCE)
    })
}

/// Checks with the first copy that this process wrote to the store that the store's clock distinguishes it from older
/// objects. Otherwise nothing more is written there.
pub(in crate::copy) async fn see_clock(target: &Target, key: &ObjectKey) -> Result<(), Failure> {
    let (store, OnExisting::Adopt { older_than: older_than @ Some(_) }) = (&*target.store, target.existing) else {
        return Ok(());
    };
    let seen = store
        .clock_fits
        .get_or_try_init(async || store.head_and_date(key).await.map(|(head, date)| is_ours(&head, date, older_than)));
    match seen.await {
        // Without an answer, the next copy is checked.
        Ok(true) | Err(_) => Ok(()),
        Ok(false) => Err(clock_does_not_fit(store)),
    }
}

fn clock_does_not_fit(store: &Store) -> Failure {
    let what = "a copy that was just written has a Last-Modified that does not fit the Date of the store's answers, so it cannot be \
                told from what was there before: this store's clock does not allow existing = \"adopt\". Set its clock, or that of \
                the proxy in front of it, right";
    Failure::new(FailureClass::Misconfigured, format!("target {}: {what}", store.name()))
}

/// Proves that the older object is the object itself, or fails.
pub(in crate::copy) async fn adopt(
    target: &Target,
    key: &ObjectKey,
    there: &Head,
    content: &Content,
    whole: Option<&Md5>,
    metadata: &Metadata,
) -> Result<Verified, Failure> {
    let store = &*target.store;
    if there.size_bytes != content.size_bytes {
        return Err(in_the_way(store));
    }
    if !store.profile().accepts_altered_metadata
        && let Some(header) = metadata.differs_in(&there.metadata)
    {
        return Err(other_metadata(store, &header));
    }
    // A copy that was damaged at rest still has the ETag of the written bytes.
    let equal =
        whole.filter(|_| !target.damaged).is_some_and(|md5| there.etag.as_ref().is_some_and(|etag| etag.is_md5(md5)));
    if equal {
        return Ok(Verified::Compared);
    }
    match read_back(store, key, content).await {
        Err(Failure { class: FailureClass::Corrupt, .. }) => Err(in_the_way(store)),
        answer => answer,
    }
}

pub(in crate::copy) fn in_the_way(store: &Store) -> Failure {
    let what = "another object is already there, written before Copyhold came or not by it, or damaged. Remove it, or set \
                existing = \"overwrite\" for this replica, and retry";
    Failure::new(FailureClass::Refused, format!("target {}: {what}", store.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Metadata;

    #[test]
    fn an_object_is_ours_if_the_stores_clock_says_so_without_contradicting_itself() {
        let at = |second| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second);
        let ours = |modified: Option<u64>, date: Option<u64>, older_than: Option<u64>| {
            let head = Head {
                etag: None,
                size_bytes: 0,
                version: None,
                last_modified: modified.map(at),
                encrypted: false,
                metadata: Metadata::default(),
                not_carried: Vec::new(),
            };
            is_ours(&head, date.map(at), older_than.map(at))
        };
        assert!(ours(Some(103), Some(200), Some(103)));
        assert!(!ours(Some(102), Some(200), Some(103)));
        // The machines of one store may differ a little; another clock differs by more.
        assert!(ours(Some(202), Some(200), Some(103)));
        assert!(!ours(Some(203), Some(200), Some(103)));
        assert!(ours(Some(203), None, Some(103)));
        assert!(!ours(None, Some(200), Some(103)));
        assert!(!ours(Some(103), Some(200), None), "nothing that stands there is ours");
    }
}
