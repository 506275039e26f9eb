//! When a copy counts as proven.

use std::time::SystemTime;

use super::{
    Target,
    failure::{of_source, of_target},
    hash::{Both, Plain},
};
use crate::{
    domain::{Class, Content, Failure, MetadataHash, ObjectKey, Verified},
    store::{ETag, Get, Head, Md5, Metadata, Reason, Store, StoreError, shown},
};

/// Reads an object to the end and keeps nothing but its size and hash.
pub(super) async fn hash_of(store: &Store, key: &ObjectKey) -> Result<Content, StoreError> {
    let mut body = store.get(key, None, None).await?.body;
    let mut hash = Plain::new();
    while let Some(frame) = body.next().await? {
        hash.update(&frame);
    }
    Ok(hash.content())
}

/// What one complete reading of a copy has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub content: Content,
    pub tag: Tag,
    /// By the store's clock.
    pub last_modified: Option<SystemTime>,
}

/// What the store's own ETag says of the bytes that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// It is their MD5: these bytes were written there.
    Confirms,
    /// It has the look of an MD5, and is not theirs.
    Contradicts,
    /// It is no MD5.
    SaysNothing,
}

/// Reads a copy to its end. `came`: told of each piece's bytes. The failure speaks of the replica as a source.
pub async fn read(store: &Store, key: &ObjectKey, came: impl Fn(u64)) -> Result<Reading, Failure> {
    let failed = |error| of_source(store, error);
    let Get { head, mut body } = store.get(key, None, None).await.map_err(failed)?;
    let etag = head.etag.filter(|etag| etag.looks_like_md5() && !head.encrypted);
    let mut hash = Both::new();
    while let Some(frame) = body.next().await.map_err(failed)? {
        hash.update(&frame);
        came(frame.len() as u64);
    }
    let (crc, md5) = hash.finish();
    let tag = match etag {
        None => Tag::SaysNothing,
        Some(etag) if etag.is_md5(&md5) => Tag::Confirms,
        Some(_) => Tag::Contradicts,
    };
    Ok(Reading { content: crc, tag, last_modified: head.last_modified })
}

/// Reads what stands at a replica to its end: its content, and the hash of its metadata. The failure speaks of the
/// replica as a source.
pub async fn state_of(store: &Store, key: &ObjectKey) -> Result<(Content, MetadataHash), Failure> {
    let failed = |error| of_source(store, error);
    let Get { head, mut body } = store.get(key, None, None).await.map_err(failed)?;
    let mut hash = Plain::new();
    while let Some(frame) = body.next().await.map_err(failed)? {
        hash.update(&frame);
    }
    Ok((hash.content(), head.metadata.hash()))
}

/// Proves a copy by the ETag that the store answered; where that is no checksum of ours, by
/// what the store was measured to check, else by reading it back. One part is one PUT. `sent_hash`: each request carried
/// its hash.
pub(super) async fn prove(
    store: &Store,
    key: &ObjectKey,
    content: &Content,
    parts: &[Md5],
    answered: &ETag,
    sent_hash: bool,
) -> Result<Verified, Failure> {
    let equal = match parts {
        [whole] => answered.is_md5(whole) || answered.is_of_parts(parts),
        parts => answered.is_of_parts(parts),
    };
    let in_parts = parts.len() != 1;
    if equal {
        Ok(Verified::Compared)
    } else if !sent_hash || !store.profile().proves_by_hash(in_parts) {
        read_back(store, key, content).await
    } else if in_parts {
        // Each part was checked; that all of them are in it is seen by its size.
        let there = store.head(key).await.map_err(|error| of_target(store, error))?;
        if there.size_bytes == content.size_bytes {
            Ok(Verified::Checked)
        } else {
            read_back(store, key, content).await
        }
    } else {
        Ok(Verified::Checked)
    }
}

/// Proves a copy by its bytes.
pub(super) async fn read_back(store: &Store, key: &ObjectKey, content: &Content) -> Result<Verified, Failure> {
    let there = hash_of(store, key).await.map_err(|error| of_target(store, error))?;
    if there == *content {
        return Ok(Verified::ReadBack);
    }
    let what = format!("it keeps other bytes than were sent ({there:?} instead of {content:?})");
    Err(Failure::new(Class::Corrupt, format!("target {}: {what}", store.name())))
}

/// Where an overwrite leaves an older version behind, which costs and may be locked for years, an earlier attempt of
/// ours of which we do not know how it ended is looked for before another is made. `None`: there is none, or it is
/// another content.
pub(super) async fn left_by_us(
    target: &Target,
    key: &ObjectKey,
    content: &Content,
    metadata: &Metadata,
) -> Result<Option<Verified>, Failure> {
    let store = &*target.store;
    if !target.again || !store.keeps_versions().await {
        return Ok(None);
    }
    match store.head(key).await {
        Err(error) if error.reason() == Reason::NoSuchKey => return Ok(None),
        Err(error) => return Err(of_target(store, error)),
        // With other metadata it is another state of the object, and is written over.
        Ok(there) if there.size_bytes != content.size_bytes || there.metadata.hash() != metadata.hash() => {
            return Ok(None);
        }
        Ok(_) => {}
    }
    // By its bytes: the attempt may have failed because of what the store made of them.
    match read_back(store, key, content).await {
        Ok(proof) => Ok(Some(proof)),
        Err(Failure { class: Class::Corrupt, .. }) => Ok(None),
        Err(why) => Err(why),
    }
}

/// The object from before Copyhold came, if one stands where the copy shall go: it is
/// never written over. What an earlier attempt of ours left does not count.
pub(super) async fn look(store: &Store, key: &ObjectKey, older_than: SystemTime) -> Result<Option<Head>, Failure> {
    match store.head(key).await {
        Err(error) if error.reason() == Reason::NoSuchKey => Ok(None),
        Err(error) => Err(of_target(store, error)),
        // Without a date nobody can say that it is ours.
        Ok(head) if head.last_modified.is_none_or(|at| at < older_than) => Ok(Some(head)),
        Ok(_) => Ok(None),
    }
}

/// Proves that what stood there before is the object itself, or says that it is not.
pub(super) async fn adopt(
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
    // What has rotted still has the ETag of what was written.
    let equal =
        whole.filter(|_| !target.damaged).is_some_and(|md5| there.etag.as_ref().is_some_and(|etag| etag.is_md5(md5)));
    if equal {
        return Ok(Verified::Compared);
    }
    match read_back(store, key, content).await {
        Err(Failure { class: Class::Corrupt, .. }) => Err(in_the_way(store)),
        answer => answer,
    }
}

/// Whether a store keeps the names of the metadata that was just written. Only asked where a name is one that stores were
/// seen to alter.
pub(super) async fn keeps_names(store: &Store, key: &ObjectKey, metadata: &Metadata) -> Result<(), Failure> {
    if !metadata.has_names_that_stores_alter() || store.profile().accepts_altered_metadata {
        return Ok(());
    }
    let there = store.head(key).await.map_err(|error| of_target(store, error))?;
    match metadata.differs_in(&there.metadata) {
        None => Ok(()),
        Some(header) => {
            let what = format!(
                "it keeps other metadata than was sent: {} differs. Set altered_metadata = \"accept\" for this replica if its \
                 copies may differ in that, and retry",
                shown(header.as_bytes())
            );
            Err(Failure::new(Class::Refused, format!("target {}: {what}", store.name())))
        }
    }
}

fn other_metadata(store: &Store, header: &str) -> Failure {
    let what = format!(
        "an object with the same bytes and other metadata is already there, written before Copyhold came or not by it: {} \
         differs. Remove it, set altered_metadata = \"accept\" for this replica if copies may differ in that, or \
         existing = \"overwrite\", and retry",
        shown(header.as_bytes())
    );
    Failure::new(Class::Refused, format!("target {}: {what}", store.name()))
}

pub(super) fn in_the_way(store: &Store) -> Failure {
    let what = "another object is already there, written before Copyhold came or not by it, or damaged. Remove it, or set \
                existing = \"overwrite\" for this replica, and retry";
    Failure::new(Class::Refused, format!("target {}: {what}", store.name()))
}
