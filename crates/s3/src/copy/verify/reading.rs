//! Reads a copy completely, and checks by a second answer that the bytes are the stored ones.

use copyhold_core::domain::{
    Content, EtagMatch, Failure, FailureClass, MetadataHash, ObjectKey, SourceReading, micros_since_epoch,
};

use crate::copy::failure::of_source;
use crate::copy::hash::{Crc64, Crc64AndMd5};
use crate::store::{GetResponse, Head, Store, StoreError, shown};

/// Reads an object to its end and keeps only its size and hash.
pub(in crate::copy) async fn hash_of(store: &Store, key: &ObjectKey) -> Result<Content, StoreError> {
    Ok(head_and_hash_of(store, key).await?.1)
}

pub(super) async fn head_and_hash_of(store: &Store, key: &ObjectKey) -> Result<(Head, Content), StoreError> {
    let GetResponse { head, mut body } = store.get(key, None, None).await?;
    let mut hash = Crc64::new();
    while let Some(frame) = body.next().await? {
        hash.update(&frame);
    }
    Ok((head, hash.content()))
}

/// The result of one complete reading of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectReading {
    pub content: Content,
    /// Whether the store's own ETag matches the bytes that arrived.
    pub etag: EtagMatch,
    /// What the store returned about the object.
    pub said: SourceReading,
    /// The hash of the metadata that came with it.
    pub metadata: MetadataHash,
    /// The encoding that came with it.
    pub encoding: Option<String>,
}

/// Returns what an answer states about the object, in the form in which it is recorded.
#[must_use]
pub fn said(store: &Store, head: &Head) -> SourceReading {
    let modified_us = head.last_modified.map(micros_since_epoch);
    SourceReading { replica: store.name().clone(), modified_us, tag: head.tag() }
}

/// Reads a copy to its end. `came` gets the number of bytes of each frame. The failure names the replica as a source.
pub async fn read(store: &Store, key: &ObjectKey, came: impl Fn(u64)) -> Result<ObjectReading, Failure> {
    let failed = |error| of_source(store, error);
    let GetResponse { head, mut body } = store.get(key, None, None).await.map_err(failed)?;
    let mut hash = Crc64AndMd5::new();
    while let Some(frame) = body.next().await.map_err(failed)? {
        hash.update(&frame);
        came(frame.len() as u64);
    }
    let (content, md5) = hash.finish();
    let etag = head.etag_match(&md5);
    if etag == EtagMatch::Confirms {
        store.etag_was_md5(key);
    }
    Ok(ObjectReading {
        content,
        etag,
        said: said(store, &head),
        metadata: head.metadata.hash(),
        encoding: encoding(&head),
    })
}

pub(in crate::copy) async fn read_alike(
    store: &Store,
    key: &ObjectKey,
    first: &ObjectReading,
) -> Result<ObjectReading, Failure> {
    read_alike_counted(store, key, first, |_| {}).await
}

/// Reads an object once more, to its end: the first reading counts if this one is equal.
///
/// If the ETag has changed although the bytes are the same, it proves nothing about them.
pub(in crate::copy) async fn read_alike_counted(
    store: &Store,
    key: &ObjectKey,
    first: &ObjectReading,
    came: impl Fn(u64),
) -> Result<ObjectReading, Failure> {
    let mut again = read(store, key, came).await?;
    if again.content != first.content {
        let what = if again.said == first.said {
            "bytes arrived damaged: they do not match the source's ETag, nor a second reading"
        } else {
            "a second reading gave other bytes, with another ETag or Last-Modified"
        };
        return Err(corrupt_source(store, what));
    }
    if again.said.modified_us != first.said.modified_us {
        let what = "the object was written between two readings";
        return Err(Failure::new(FailureClass::Changed, format!("source {}: {what}", store.name())));
    }
    if again.said.tag != first.said.tag {
        if again.etag == EtagMatch::Contradicts {
            store.etag_was_no_md5();
            again.etag = EtagMatch::SaysNothing;
        }
        again.said.tag = None;
    }
    Ok(again)
}

/// Checks size and encoding with a HEAD, because a proxy may have compressed or decompressed the bytes that arrived.
///
/// Only for bytes that no ETag proves. It does not detect a proxy that changes the answer to HEAD in the same way. The
/// failure names the replica as a source.
pub async fn is_as_stored(store: &Store, key: &ObjectKey, came: &ObjectReading) -> Result<(), Failure> {
    let stored = store.head(key).await.map_err(|error| of_source(store, error))?;
    let (size_bytes, encoding) = (came.content.size_bytes, encoding(&stored));
    if encoding == came.encoding && stored.size_bytes == size_bytes {
        return Ok(());
    }
    // The ETag decides only if a time is missing, because proxies that change bytes change it as well.
    let now = said(store, &stored);
    let is_written_since = match came.said.modified_us.zip(now.modified_us) {
        Some((then, now)) => then != now,
        None => came.said.tag != now.tag,
    };
    if is_written_since {
        let what = "the object changed while it was being read";
        return Err(Failure::new(FailureClass::Changed, format!("source {}: {what}", store.name())));
    }
    let words = |encoding: &Option<String>| encoding.as_ref().map_or("none".into(), |name| shown(name.as_bytes()));
    let what = format!(
        "its bytes are changed on the way: {size_bytes} bytes came with the encoding {}, {} bytes are stored with {}. A proxy \
         in front of the store must send them as they are",
        words(&came.encoding),
        stored.size_bytes,
        words(&encoding),
    );
    Err(corrupt_source(store, &what))
}

/// Returns the Content-Encoding; an empty one counts as none.
pub(in crate::copy) fn encoding(head: &Head) -> Option<String> {
    head.metadata.content_encoding.clone().filter(|encoding| !encoding.is_empty())
}

pub(in crate::copy) fn corrupt_source(store: &Store, what: &str) -> Failure {
    Failure::new(FailureClass::Corrupt, format!("source {}: {what}", store.name()))
}
