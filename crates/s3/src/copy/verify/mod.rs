//! When a copy counts as proven.

use std::time::{Duration, SystemTime};

use copyhold_core::domain::{
    Content, EtagMatch, Failure, FailureClass, MetadataHash, ObjectKey, SourceReading, Verified, micros_since_epoch,
};

use super::{
    OnExisting, Target,
    failure::{of_source, of_target},
    hash::{Crc64, Crc64AndMd5},
};
use crate::store::{CLOCK_TOLERANCE, ETag, GetResponse, Head, Md5, Metadata, Reason, SentBy, Store, StoreError, shown};

/// How long a store is waited for that does not show yet what it has taken: 15 s, in steps.
const SHOWS_WITHIN: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_millis(7_500),
];

/// Reads an object to the end and keeps nothing but its size and hash.
pub(super) async fn hash_of(store: &Store, key: &ObjectKey) -> Result<Content, StoreError> {
    Ok(head_and_hash_of(store, key).await?.1)
}

async fn head_and_hash_of(store: &Store, key: &ObjectKey) -> Result<(Head, Content), StoreError> {
    let GetResponse { head, mut body } = store.get(key, None, None).await?;
    let mut hash = Crc64::new();
    while let Some(frame) = body.next().await? {
        hash.update(&frame);
    }
    Ok((head, hash.content()))
}

/// What one complete reading of a copy has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectReading {
    pub content: Content,
    /// What the store's own ETag says of the bytes that came.
    pub etag: EtagMatch,
    /// What the store said of the object.
    pub said: SourceReading,
    /// The hash of the metadata that came with it.
    pub metadata: MetadataHash,
    /// The encoding that came with it.
    pub encoding: Option<String>,
}

/// What the answer to a reading says of the object, in the form in which it is kept.
#[must_use]
pub fn said(store: &Store, head: &Head) -> SourceReading {
    let modified_us = head.last_modified.map(micros_since_epoch);
    SourceReading { replica: store.name().clone(), modified_us, tag: head.tag() }
}

/// Reads a copy to its end. `came`: told of each piece's bytes. The failure speaks of the replica as a source.
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

pub(super) async fn read_alike(
    store: &Store,
    key: &ObjectKey,
    first: &ObjectReading,
) -> Result<ObjectReading, Failure> {
    read_alike_counted(store, key, first, |_| {}).await
}

/// Reads an object once more, to its end: the first reading is believed if this one gives the same.
///
/// An ETag that is another one by now though the bytes are the same says nothing of them.
pub(super) async fn read_alike_counted(
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

/// Asks for the size and encoding of what is stored, because a proxy may have compressed or decompressed what came.
///
/// Only for bytes that no ETag proves. A proxy that changes the answer to HEAD in the same way is not seen by this. The
/// failure speaks of the replica as a source.
pub async fn is_as_stored(store: &Store, key: &ObjectKey, came: &ObjectReading) -> Result<(), Failure> {
    let stored = store.head(key).await.map_err(|error| of_source(store, error))?;
    let (size_bytes, encoding) = (came.content.size_bytes, encoding(&stored));
    if encoding == came.encoding && stored.size_bytes == size_bytes {
        return Ok(());
    }
    // The ETag tells only where a time is missing, because proxies that change bytes change it as well.
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

/// Its Content-Encoding, of which an empty one is none.
pub(super) fn encoding(head: &Head) -> Option<String> {
    head.metadata.content_encoding.clone().filter(|encoding| !encoding.is_empty())
}

pub(super) fn corrupt_source(store: &Store, what: &str) -> Failure {
    Failure::new(FailureClass::Corrupt, format!("source {}: {what}", store.name()))
}

/// Proves a copy by the ETag that the store answered; where that is no checksum of ours, or none, by
/// what the store was measured to check, else by reading it back. One part is one PUT. `sent_hash`: each request carried
/// its hash.
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
        // Each part was checked; that all of them are in it is seen by its size.
        match store.head(key).await {
            Ok(there) if there.size_bytes == content.size_bytes => return Ok(Verified::Checked),
            Err(error) if error.reason() != Reason::NoSuchKey => return Err(of_target(store, error)),
            Ok(_) | Err(_) => {}
        }
    }
    let is_ours = |etag: &ETag| is_of(etag, parts) || answered.is_some_and(|answered| answered.names_the_same(etag));
    let proof = read_back_written(store, key, content, is_ours).await?;
    if looked_like_md5 {
        // Under a key that the store keeps to itself, or through a gateway: its own bytes show it.
        store.etag_was_no_md5();
    }
    Ok(proof)
}

/// Whether an ETag says by itself that these parts are the object.
fn is_of(etag: &ETag, parts: &[Md5]) -> bool {
    matches!(parts, [whole] if etag.is_md5(whole)) || etag.is_of_parts(parts)
}

/// Proves by its bytes a copy that the store has just said to have taken.
///
/// A store may show it late: until then it answers that there is no such object, or with the one that stood there before.
/// Whether that is so is asked again for as long as [`SHOWS_WITHIN`] adds up to. `is_ours`: by its ETag it is the copy,
/// whatever its bytes are.
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

/// Reads what stands there, unless it is what was read before: that may be large. `None`: it is.
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

/// An earlier attempt of ours of which we do not know how it ended is looked for before another is made: where an
/// overwrite leaves an older version behind, which costs and may be locked for years, and where no ETag proves a copy,
/// so that one that was taken may have failed only because it was shown late. `None`: there is none, or it is another
/// content.
pub(super) async fn left_by_us(
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
        // With other metadata it is another state of the object, and is written over.
        Ok(there) if there.size_bytes != content.size_bytes || there.metadata.hash() != metadata.hash() => {
            return Ok(None);
        }
        Ok(_) => {}
    }
    // By its bytes: the attempt may have failed because of what the store made of them.
    match read_back(store, key, content).await {
        Ok(proof) => Ok(Some(proof)),
        Err(Failure { class: FailureClass::Corrupt, .. }) => Ok(None),
        Err(why) => Err(why),
    }
}

/// The object from before Copyhold came, if one stands where the copy shall go: it is
/// never written over. What an earlier attempt of ours left does not count.
pub(super) async fn look(
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

/// Whether an object was written since the bucket was opened for writing. Without a date nobody can say that it was, nor
/// with one that is later than the store's own.
fn is_ours(head: &Head, date: Option<SystemTime>, older_than: Option<SystemTime>) -> bool {
    head.last_modified.zip(older_than).is_some_and(|(modified, older_than)| {
        modified >= older_than && date.is_none_or(|date| modified <= date + CLOCK_TOLERANCE)
    })
}

/// Sees, of the first copy that this process has written there, that the store's clock tells it from what stood there before.
/// Else nothing more is written.
pub(super) async fn see_clock(target: &Target, key: &ObjectKey) -> Result<(), Failure> {
    let (store, OnExisting::Adopt { older_than: older_than @ Some(_) }) = (&*target.store, target.existing) else {
        return Ok(());
    };
    let seen = store
        .clock_fits
        .get_or_try_init(async || store.head_and_date(key).await.map(|(head, date)| is_ours(&head, date, older_than)));
    match seen.await {
        // Not seen: the next copy shows it.
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
        Err(Failure { class: FailureClass::Corrupt, .. }) => Err(in_the_way(store)),
        answer => answer,
    }
}

/// Whether a store keeps the metadata that was just written, as far as this process has not seen that yet.
///
/// What cannot be seen is passed over: the look is at the store's habits, and the bytes are proven already. `written`: the
/// MD5s of what was sent, one per part, and the ETag that the store answered.
pub(super) async fn keeps_metadata(
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
                    // The same bytes may have stood there with other metadata, and may still be shown.
                    if answers > 0 {
                        return Err(keeps_other_metadata(store, &header));
                    }
                    answers += 1;
                    keeps_other_metadata(store, &header)
                }
                // What it shows is another object, which says nothing of its habits.
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

fn other_metadata(store: &Store, header: &str) -> Failure {
    let what = format!(
        "an object with the same bytes and other metadata is already there, written before Copyhold came or not by it: {} \
         differs. Remove it, set altered_metadata = \"accept\" for this replica if copies may differ in that, or \
         existing = \"overwrite\", and retry",
        shown(header.as_bytes())
    );
    Failure::new(FailureClass::Refused, format!("target {}: {what}", store.name()))
}

pub(super) fn in_the_way(store: &Store) -> Failure {
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
        // Machines of one store may differ by a little; another clock does by more.
        assert!(ours(Some(202), Some(200), Some(103)));
        assert!(!ours(Some(203), Some(200), Some(103)));
        assert!(ours(Some(203), None, Some(103)));
        assert!(!ours(None, Some(200), Some(103)));
        assert!(!ours(Some(103), Some(200), None), "nothing that stands there is ours");
    }
}
