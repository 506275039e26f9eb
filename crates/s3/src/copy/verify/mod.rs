//! Proves that a copy is stored, by ETag, by a measured check of the store, or by reading it back.

mod existing;
mod metadata;
mod reading;

use std::time::Duration;

use copyhold_core::domain::{Content, Failure, FailureClass, ObjectKey, Verified};

use crate::copy::failure::of_target;
use crate::store::{ETag, Head, Md5, Reason, Store, StoreError};
pub(super) use existing::{adopt, in_the_way, left_by_us, look, see_clock};
pub(super) use metadata::keeps_metadata;
use reading::head_and_hash_of;
pub use reading::{ObjectReading, is_as_stored, read, said};
pub(super) use reading::{corrupt_source, encoding, hash_of, read_alike, read_alike_counted};

/// How long a copy waits for a store that does not yet show an object that it has accepted: 15 s, in steps.
const SHOWS_WITHIN: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_millis(7_500),
];

/// Proves a copy by the ETag that the store returned. If that is no checksum of the bytes, the proof is a hash that the
/// store was measured to check, or reading the copy back. One part is one PUT. `sent_hash`: each request had its hash.
pub(super) async fn prove(
    store: &Store,
    key: &ObjectKey,
    content: &Content,
    parts: &[Md5],
    answered: Option<&ETag>,
    sent_hash: bool,
) -> Result<Verified, Failure> {
    let in_parts = parts.len() != 1;
    let looked_like_md5 = !in_parts && answered.is_some_and(ETag::looks_like_md5);
    if answered.is_some_and(|etag| is_of(etag, parts)) {
        if looked_like_md5 {
            store.etag_was_md5(key);
        }
        return Ok(Verified::Compared);
    }
    store.record_opaque_etag();
    if sent_hash && store.profile().proves_by_hash(in_parts) {
        if !in_parts {
            return Ok(Verified::Checked);
        }
        // The store checked each part; the size shows that the object has all of them.
        match store.head(key).await {
            Ok(there) if there.size_bytes == content.size_bytes => return Ok(Verified::Checked),
            Err(error) if error.reason() != Reason::NoSuchKey => return Err(of_target(store, error)),
            Ok(_) | Err(_) => {}
        }
    }
    let is_ours = |etag: &ETag| is_of(etag, parts) || answered.is_some_and(|answered| answered.names_the_same(etag));
    let proof = read_back_written(store, key, content, is_ours).await?;
    if looked_like_md5 {
        // Encrypted with the store's own key, or behind a gateway: only the bytes prove the copy.
        store.etag_was_no_md5();
    }
    Ok(proof)
}

/// Compares an ETag with the MD5 that was sent or, of several parts, with the MD5 of their MD5s.
fn is_of(etag: &ETag, parts: &[Md5]) -> bool {
    matches!(parts, [whole] if etag.is_md5(whole)) || etag.is_of_parts(parts)
}

/// Proves by its bytes a copy that the store has just accepted.
///
/// A store may show it late: until then it answers that there is no such object, or returns the previous one. The check
/// is repeated for the sum of [`SHOWS_WITHIN`]. `is_ours`: the ETag identifies the copy, whatever its bytes are.
async fn read_back_written(
    store: &Store,
    key: &ObjectKey,
    content: &Content,
    is_ours: impl Fn(&ETag) -> bool,
) -> Result<Verified, Failure> {
    let mut pauses = SHOWS_WITHIN.into_iter();
    let mut other: Option<(Head, Failure)> = None;
    loop {
        let why = match read_unless_same(store, key, other.as_ref().map(|(head, _)| head)).await {
            Ok(Some((_, there))) if there == *content => return Ok(Verified::ReadBack),
            Ok(Some((head, there))) => {
                let why = other_bytes(store, &there, content);
                if head.etag.as_ref().is_some_and(&is_ours) {
                    return Err(why);
                }
                other.insert((head, why)).1.clone()
            }
            Ok(None) => other.as_ref().map_or_else(|| no_object(store), |(_, why)| why.clone()),
            Err(error) if error.reason() == Reason::NoSuchKey => no_object(store),
            Err(error) => return Err(of_target(store, error)),
        };
        let Some(pause) = pauses.next() else { return Err(why) };
        tokio::time::sleep(pause).await;
    }
}

/// Reads the object, unless it is the one that was read `before`, which may be large. `None`: it is.
async fn read_unless_same(
    store: &Store,
    key: &ObjectKey,
    before: Option<&Head>,
) -> Result<Option<(Head, Content)>, StoreError> {
    if let Some(before) = before {
        let there = store.head(key).await?;
        let same = there.etag == before.etag
            && there.last_modified == before.last_modified
            && there.size_bytes == before.size_bytes;
        if same {
            return Ok(None);
        }
    }
    head_and_hash_of(store, key).await.map(Some)
}

/// Proves a copy by its bytes.
pub(super) async fn read_back(store: &Store, key: &ObjectKey, content: &Content) -> Result<Verified, Failure> {
    let there = hash_of(store, key).await.map_err(|error| of_target(store, error))?;
    if there == *content { Ok(Verified::ReadBack) } else { Err(other_bytes(store, &there, content)) }
}

fn other_bytes(store: &Store, there: &Content, content: &Content) -> Failure {
    let what = format!("it keeps other bytes than were sent ({there} instead of {content})");
    Failure::new(FailureClass::Corrupt, format!("target {}: {what}", store.name()))
}

fn no_object(store: &Store) -> Failure {
    let within: Duration = SHOWS_WITHIN.iter().sum();
    let what = format!("it says that it has taken the object, and {} s later that there is none", within.as_secs());
    Failure::new(FailureClass::Transient, format!("target {}: {what}", store.name()))
}
