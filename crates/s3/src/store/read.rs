//! Reads objects and their heads. Bytes are passed on frame by frame.

use std::{ops::Range, sync::Arc, time::SystemTime};

use aws_sdk_s3::{
    operation::{get_object::GetObjectOutput, head_object::HeadObjectOutput},
    primitives::{ByteStream, DateTime},
    types::{ObjectLockLegalHoldStatus, ServerSideEncryption},
};
use bytes::Bytes;
use copyhold_core::domain::{EtagMatch, NotCarried, ObjectKey};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    ETag, Md5, Metadata, Operation, Store, StoreError,
    activity::{Activity, Request},
    blank_keys::to_sdk,
    clock::AnswerDate,
    reason::Reason,
    stall_timeout::{Progress, Stalled, watched},
    transport_error,
};

/// The properties of an object that a store returns beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub etag: Option<ETag>,
    /// The size of the whole object, also if only a range was requested.
    pub size_bytes: u64,
    /// By the store's clock.
    pub last_modified: Option<SystemTime>,
    /// The version id, if the bucket keeps versions.
    pub version: Option<String>,
    /// With customer or KMS keys, an ETag is not an MD5 although it looks like one.
    pub encrypted: bool,
    pub metadata: Metadata,
    /// Properties that copies do not get; empty for nearly all objects.
    pub not_carried: Vec<NotCarried>,
}

impl Head {
    /// Returns a hash of ETag and version, by which a later reading detects a change; `None`: the store returned
    /// neither. It is recorded for years, so it must depend neither on quotes nor on this program's version.
    #[must_use]
    pub fn tag(&self) -> Option<i64> {
        // What was written before a bucket kept versions has this one, and had none before.
        let version = self.version.as_deref().filter(|version| *version != "null");
        if self.etag.is_none() && version.is_none() {
            return None;
        }
        let etag = self.etag.as_ref().map(ETag::normal).unwrap_or_default();
        let canonical = format!("{etag}\n{}", version.unwrap_or_default());
        Some(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, canonical.as_bytes()).cast_signed())
    }

    /// Returns whether its ETag claims to be the MD5 of the whole object.
    #[must_use]
    pub fn etag_may_be_md5(&self) -> bool {
        !self.encrypted && self.etag.as_ref().is_some_and(ETag::looks_like_md5)
    }

    /// Compares its ETag with the MD5 of the bytes.
    #[must_use]
    pub fn etag_match(&self, md5: &Md5) -> EtagMatch {
        match self.etag.as_ref().filter(|_| self.etag_may_be_md5()) {
            None => EtagMatch::SaysNothing,
            Some(etag) if etag.is_md5(md5) => EtagMatch::Confirms,
            Some(_) => EtagMatch::Contradicts,
        }
    }
}

/// An object, or a range of it, whose body is about to be read.
#[derive(Debug)]
pub struct GetResponse {
    pub head: Head,
    pub body: Body,
}

/// The announced bytes, as they arrive.
#[derive(Debug)]
pub struct Body {
    stream: ByteStream,
    announced: u64,
    read: u64,
    reader: ReadPermit,
    activity: Option<Activity>,
}

/// The right to read one body.
#[derive(Debug)]
struct ReadPermit {
    permit: OwnedSemaphorePermit,
    stuck: Arc<Semaphore>,
    is_aside: bool,
}

impl ReadPermit {
    /// Records that nothing moves: another body may be read in its place, up to a limit.
    fn set_aside(&mut self) {
        if !self.is_aside
            && let Ok(permit) = Arc::clone(&self.stuck).try_acquire_owned()
        {
            (self.permit, self.is_aside) = (permit, true);
        }
    }
}

impl Store {
    /// Begins to read `key`, or `range` of it.
    ///
    /// `if_match` only saves a round trip: some stores ignore it, so compare the head.
    pub async fn get(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        if_match: Option<&ETag>,
    ) -> Result<GetResponse, StoreError> {
        let call = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(to_sdk(key))
            .set_range(range.as_ref().map(|r| format!("bytes={}-{}", r.start, r.end.saturating_sub(1))))
            .set_if_match(if_match.and_then(ETag::for_if_match).map(str::to_owned));
        // Cannot fail: the semaphore is never closed.
        let permit = Arc::clone(&self.readers).acquire_owned().await.expect("an open semaphore");
        let mut reader = ReadPermit { permit, stuck: Arc::clone(&self.stuck_readers), is_aside: false };
        let progress = Progress::default();
        let answer = self.call_and(Operation::GetObject, &progress, call.send(), || reader.set_aside()).await;
        let answer = match answer {
            Err(error) => return Err(Box::pin(self.look_again(key, error)).await),
            Ok(answer) => answer,
        };
        let announced = length(answer.content_length, Operation::GetObject)?;
        let size_bytes = match answer.content_range.as_deref() {
            None if range.is_none() => announced,
            // The whole object in answer to a range: all of it fits, or the store knows no ranges.
            None if range.as_ref().is_some_and(|r| r.start == 0 && announced <= r.end) => announced,
            None => {
                return Err(lie(Operation::GetObject, "the store does not answer ranges, so it cannot be a source"));
            }
            Some(told) => total(told, range.as_ref(), announced)?,
        };
        let head = head_of_get(&answer, size_bytes)?;
        // A listing, or a page from a server that answers everything with 200.
        if head.etag.is_none() && head.last_modified.is_none() {
            return Err(lie(Operation::GetObject, "an answer with neither ETag nor Last-Modified is no object"));
        }
        let activity = progress.activity().cloned();
        Ok(GetResponse { head, body: Body { stream: answer.body, announced, read: 0, reader, activity } })
    }

    /// Returns the properties of `key`.
    pub async fn head(&self, key: &ObjectKey) -> Result<Head, StoreError> {
        Ok(self.head_and_date(key).await?.0)
    }

    /// Returns them, and when the store answered by its own clock, if it says so.
    pub async fn head_and_date(&self, key: &ObjectKey) -> Result<(Head, Option<SystemTime>), StoreError> {
        let date = AnswerDate::default();
        let call = self.client.head_object().bucket(&self.bucket).key(to_sdk(key));
        let call = call.customize().interceptor(date.clone());
        match self.call(Operation::HeadObject, &Progress::default(), call.send()).await {
            Ok(answer) => Ok((head_of_head(&answer)?, date.get())),
            Err(error) => Err(Box::pin(self.look_again(key, error)).await),
        }
    }

    /// Returns them, if the bucket is known to exist: a 404 is the object's.
    pub(super) async fn head_alone(&self, key: &ObjectKey) -> Result<Head, StoreError> {
        let call = self.client.head_object().bucket(&self.bucket).key(to_sdk(key));
        head_of_head(&self.call(Operation::HeadObject, &Progress::default(), call.send()).await?)
    }

    /// Determines what a failure to read an object means, if its answer alone does not tell.
    pub(super) async fn look_again(&self, key: &ObjectKey, error: StoreError) -> StoreError {
        let error = self.look_at_the_bucket(error).await;
        self.look_at_the_path(key, error).await
    }

    /// A 404 without a code may mean the bucket or the object: a dropped bucket answers like a missing object. Other
    /// errors are returned unchanged.
    async fn look_at_the_bucket(&self, error: StoreError) -> StoreError {
        if !error.is_bare_404() {
            return error;
        }
        let call = self.client.head_bucket().bucket(&self.bucket);
        match self.call(Operation::HeadBucket, &Progress::default(), call.send()).await {
            Ok(_) => error.meaning(Reason::NoSuchKey),
            Err(bucket) if bucket.is_bare_404() => error.meaning(Reason::NoSuchBucket),
            Err(bucket) => bucket,
        }
    }
}

impl Body {
    /// Returns how many bytes will arrive.
    #[must_use]
    pub fn announced(&self) -> u64 {
        self.announced
    }

    /// Returns the next bytes; `None` after exactly as many as were announced.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let found = |reason, message: &str| Err(StoreError::found(Operation::GetObject, reason, message));
        let progress = Progress::default();
        let request = Request::of(self.activity.as_ref());
        let (stream, reader) = (&mut self.stream, &mut self.reader);
        let next = watched(stream.next(), &progress, super::IDLE, || reader.set_aside()).await;
        drop(request);
        match next {
            Err(Stalled) => {
                found(Reason::Stalled, &format!("no byte of the body came for {} s", super::IDLE.as_secs()))
            }
            Ok(Some(Err(error))) => {
                let told = format!(
                    "the body broke off after {} of {} bytes: {}",
                    self.read,
                    self.announced,
                    transport_error::chain(&error)
                );
                found(Reason::Broken, &told)
            }
            Ok(Some(Ok(bytes))) => {
                self.read += bytes.len() as u64;
                if self.read > self.announced {
                    return found(Reason::Broken, "the body is longer than announced");
                }
                Ok(Some(bytes))
            }
            Ok(None) if self.read < self.announced => {
                found(Reason::Broken, &format!("the body ended after {} of {} bytes", self.read, self.announced))
            }
            Ok(None) => Ok(None),
        }
    }
}

/// Returns the object's length by a Content-Range, if that matches the request and the announced length.
fn total(told: &str, range: Option<&Range<u64>>, announced: u64) -> Result<u64, StoreError> {
    let parse = || {
        let (span, total) = told.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = span.split_once('-')?;
        Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, total.parse::<u64>().ok()?))
    };
    let (first, last, total) =
        parse().ok_or_else(|| lie(Operation::GetObject, &format!("Content-Range says {told}")))?;
    let fits = range.is_some_and(|r| first == r.start && last == r.end.min(total).saturating_sub(1))
        && last.checked_sub(first).is_some_and(|span| span.checked_add(1) == Some(announced));
    if fits { Ok(total) } else { Err(lie(Operation::GetObject, &format!("another range was answered: {told}"))) }
}

pub(super) fn length(told: Option<i64>, operation: Operation) -> Result<u64, StoreError> {
    told.and_then(|n| u64::try_from(n).ok())
        .ok_or_else(|| lie(operation, "the answer does not say how long the object is"))
}

fn lie(operation: Operation, what: &str) -> StoreError {
    StoreError::found(operation, Reason::NotUnderstood, what)
}

/// GetObject and HeadObject return the same headers in two types.
macro_rules! head_of {
    ($name:ident, $answer:ty, $operation:expr, $tags:expr) => {
        fn $name(answer: &$answer, size_bytes: u64) -> Result<Head, StoreError> {
            let metadata = Metadata {
                content_type: answer.content_type.clone(),
                content_encoding: Metadata::content_encoding(answer.content_encoding.clone()),
                content_disposition: answer.content_disposition.clone(),
                content_language: answer.content_language.clone(),
                cache_control: answer.cache_control.clone(),
                expires: answer.expires_string.clone(),
                user: Metadata::user(answer.metadata.clone()),
                website_redirect: answer.website_redirect_location.clone().filter(|to| !to.is_empty()),
            };
            if answer.missing_meta.is_some_and(|n| n > 0) {
                let told = "the store withholds metadata that no header can carry";
                return Err(StoreError::found($operation, Reason::Refused, told));
            }
            // An absent storage class is the standard one.
            let is_standard = |class: &str| class.is_empty() || class == "STANDARD";
            let kms = |kind: &ServerSideEncryption| kind.as_str().starts_with("aws:kms");
            let not_carried = [
                (NotCarried::Tags, $tags(answer)),
                (NotCarried::ObjectLock, answer.object_lock_mode.is_some()),
                (NotCarried::LegalHold, answer.object_lock_legal_hold_status == Some(ObjectLockLegalHoldStatus::On)),
                (NotCarried::KmsEncryption, answer.server_side_encryption.as_ref().is_some_and(kms)),
                (NotCarried::StorageClass, answer.storage_class.as_ref().is_some_and(|class| !is_standard(class.as_str()))),
            ];
            Ok(Head {
                not_carried: not_carried.into_iter().filter_map(|(what, has)| has.then_some(what)).collect(),
                etag: ETag::of_answer(answer.e_tag.clone()),
                size_bytes,
                last_modified: answer.last_modified.as_ref().and_then(time),
                version: answer.version_id.clone(),
                encrypted: answer.sse_customer_algorithm.is_some()
                    || matches!(answer.server_side_encryption, Some(ref kind) if *kind != ServerSideEncryption::Aes256),
                metadata,
            })
        }
    };
}
head_of!(head_of_get, GetObjectOutput, Operation::GetObject, |a: &GetObjectOutput| a.tag_count.is_some_and(|n| n > 0));
head_of!(head_of_whole, HeadObjectOutput, Operation::HeadObject, |a: &HeadObjectOutput| a
    .tag_count
    .is_some_and(|n| n > 0));

pub(super) fn head_of_head(answer: &HeadObjectOutput) -> Result<Head, StoreError> {
    head_of_whole(answer, length(answer.content_length, Operation::HeadObject)?)
}

fn time(at: &DateTime) -> Option<SystemTime> {
    SystemTime::try_from(*at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG_OF_A: i64 = 7_166_954_977_046_738_173;

    fn head(etag: Option<&str>, version: Option<&str>) -> Head {
        Head {
            etag: etag.map(ETag::new),
            size_bytes: 0,
            last_modified: None,
            version: version.map(Into::into),
            encrypted: false,
            metadata: Metadata::default(),
            not_carried: Vec::new(),
        }
    }

    #[test]
    fn a_tag_is_the_same_however_the_etag_is_spelled_and_another_for_another_version() {
        let tag = |etag, version| head(Some(etag), version).tag();
        let plain = tag("\"0cc175b9c0f1b6a831c399e269772661\"", None);
        // Rows keep it: it must never come out otherwise.
        assert_eq!(plain, Some(TAG_OF_A));
        for same in ["0CC175B9C0F1B6A831C399E269772661", "W/\"0cc175b9c0f1b6a831c399e269772661\""] {
            assert_eq!(tag(same, None), plain, "{same}");
        }
        assert_eq!(tag("0cc175b9c0f1b6a831c399e269772661", Some("null")), plain);
        assert_ne!(tag("0cc175b9c0f1b6a831c399e269772661", Some("v1")), plain);
        assert_ne!(tag("0cc175b9c0f1b6a831c399e269772662", None), plain);
        assert_eq!(head(None, Some("null")).tag(), None);
        assert!(head(None, Some("v1")).tag().is_some());
    }

    #[test]
    fn a_range_is_believed_only_if_it_is_the_one_asked_for() {
        assert_eq!(total("bytes 0-9/100", Some(&(0..10)), 10).unwrap(), 100);
        assert_eq!(total("bytes 0-4/5", Some(&(0..10)), 5).unwrap(), 5);
        for (told, range, announced) in [
            ("bytes 1-10/100", 0..10, 10),
            ("bytes 0-8/100", 0..10, 9),
            ("bytes 0-9/100", 0..10, 9),
            ("bytes 0-9/*", 0..10, 10),
            ("bytes */100", 0..10, 10),
            ("bytes 9-0/100", 9..10, 0),
            ("0-9/100", 0..10, 10),
            ("bytes 0-18446744073709551615/100", 0..10, 0),
        ] {
            assert!(total(told, Some(&range), announced).is_err(), "{told}");
        }
    }
}
