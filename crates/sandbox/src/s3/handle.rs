//! A bucket seen from inside the process: what a test or an independent reader asks without HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use copyhold_core::domain::{Content, ContentHash};
use md5::{Digest as _, Md5};
use s3s::dto::Checksum;

use super::api::etag::{hex, of_one, of_parts};
use super::bucket::{Bucket, Upload, WriteCondition};
use super::call_counts::{BytesMoved, CallCounts, Counts};
use super::fault::Fault;
use super::fault_rules::{InjectedFault, When};
use super::metadata::Metadata;
use super::object::{Body, Object, Pieces};
use super::operation::Op;
use super::state::ServerState;
use super::synthetic::Synthetic;

/// One bucket by name. Reading or writing objects panics if the bucket does not exist; counting and injecting faults
/// works even then.
#[derive(Debug, Clone)]
pub struct BucketHandle {
    name: String,
    shared: Arc<ServerState>,
    call_counts: Arc<CallCounts>,
}

/// One object, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub key: String,
    /// Size and CRC-64/NVME of the stored bytes, computed when they were received.
    pub content: Content,
    /// The ETag, without quotes.
    pub etag: String,
    pub metadata: Metadata,
    pub modified: SystemTime,
}

/// One unfinished multipart upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadInfo {
    pub key: String,
    pub id: String,
    pub metadata: Metadata,
    pub initiated: SystemTime,
    /// Part numbers with size and hash of what was received.
    pub parts: BTreeMap<i32, Content>,
}

impl BucketHandle {
    pub(super) fn new(name: &str, shared: Arc<ServerState>) -> Self {
        Self { name: name.to_owned(), call_counts: shared.call_counts(name), shared }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    // ---- objects

    /// Stores an object; not counted as a call or a write.
    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        self.put_with(key, bytes, Metadata::none());
    }

    pub fn put_with(&self, key: &str, bytes: impl Into<Bytes>, metadata: Metadata) {
        let bytes = bytes.into();
        let hash = ContentHash(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes));
        let content = Content { size_bytes: bytes.len() as u64, hash };
        let etag = of_one(Md5::digest(&bytes).into(), &self.bucket().options);
        self.place(key, Body::Held(vec![bytes]), content, etag, metadata);
    }

    /// Stores a generated object, whose ETag is its MD5: reads its bytes once, some seconds per GiB.
    pub fn put_synthetic(&self, key: &str, object: Synthetic) {
        let md5 = object.md5();
        self.shared.known.add(md5, Content { size_bytes: object.size_bytes, hash: object.hash() });
        self.place_synthetic(key, object, hex(&md5));
    }

    /// Stores it as if it had been uploaded in parts of `part_bytes`; its ETag ends in `-N`.
    pub fn put_synthetic_in_parts(&self, key: &str, object: Synthetic, part_bytes: u64) {
        let starts = (0..object.size_bytes).step_by(usize::try_from(part_bytes).expect("a part fits in memory"));
        let parts = starts.map(|start| {
            let (mut md5, mut crc) = (Md5::new(), crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme));
            let mut size_bytes = 0;
            for piece in object.pieces(start..start + part_bytes) {
                md5.update(&piece);
                crc.update(&piece);
                size_bytes += piece.len() as u64;
            }
            let md5 = md5.finalize().into();
            self.shared.known.add(md5, Content { size_bytes, hash: ContentHash(crc.finalize()) });
            md5
        });
        self.place_synthetic(key, object, of_parts(parts));
    }

    /// Stores it with the caller's ETag, without quotes: hashing a large object for its MD5 takes seconds.
    pub fn put_synthetic_as(&self, key: &str, object: Synthetic, etag: &str) {
        self.place_synthetic(key, object, etag.to_owned());
    }

    fn place_synthetic(&self, key: &str, object: Synthetic, etag: String) {
        let content = Content { size_bytes: object.size_bytes, hash: object.hash() };
        self.place(key, Body::Made(object), content, etag, Metadata::none());
    }

    fn place(&self, key: &str, body: Body, content: Content, etag: String, metadata: Metadata) {
        let object =
            Object { body, content, etag, metadata, modified: SystemTime::now(), checksums: Checksum::default() };
        // Cannot fail: there is no condition.
        self.bucket().lock().put(key, object, &WriteCondition::Never).expect("unconditional");
    }

    /// Returns all bytes in one buffer; `None` if there is no such object or its bytes were not kept.
    pub fn get(&self, key: &str) -> Option<Bytes> {
        let object = self.bucket().object(key).ok()?;
        object.body.whole(object.content.size_bytes)
    }

    /// Iterates over all bytes, for objects that are larger than memory.
    pub fn pieces(&self, key: &str) -> Option<Pieces> {
        let object = self.bucket().object(key).ok()?;
        object.body.pieces(0..object.content.size_bytes)
    }

    pub fn inspect(&self, key: &str) -> Option<ObjectInfo> {
        Some(info(key, &*self.bucket().object(key).ok()?))
    }

    /// Returns every object in the order of the keys.
    pub fn list(&self) -> Vec<ObjectInfo> {
        self.bucket().lock().objects.iter().map(|(key, object)| info(key, object)).collect()
    }

    pub fn keys(&self) -> Vec<String> {
        self.bucket().lock().objects.keys().cloned().collect()
    }

    /// Deletes an object. Returns whether it existed.
    pub fn delete(&self, key: &str) -> bool {
        let bucket = self.bucket();
        let mut state = bucket.lock();
        let there = state.objects.contains_key(key);
        state.delete(key, None);
        there
    }

    /// Keys of all versions and delete markers, in their order.
    pub fn versions(&self) -> Vec<String> {
        let bucket = self.bucket();
        let state = bucket.lock();
        state.versions.iter().flat_map(|(key, versions)| versions.iter().map(|_| key.clone())).collect()
    }

    /// Unfinished uploads, in the order of key and beginning.
    pub fn uploads(&self) -> Vec<UploadInfo> {
        let bucket = self.bucket();
        let state = bucket.lock();
        let uploads = state.uploads.iter().map(|((key, id), upload)| UploadInfo {
            key: key.clone(),
            id: id.clone(),
            metadata: upload.metadata.clone(),
            initiated: upload.initiated,
            parts: upload.parts.iter().map(|(number, part)| (*number, part.content)).collect(),
        });
        uploads.collect()
    }

    /// Begins an upload at a time of the caller's choice, as another client might have; returns its id.
    pub fn begin_upload(&self, key: &str, initiated: SystemTime) -> String {
        let id = self.shared.next_upload_id();
        let upload = Upload {
            metadata: Metadata::none(),
            initiated,
            checksum_algorithm: None,
            checksum_type: None,
            parts: BTreeMap::new(),
        };
        self.bucket().lock().uploads.insert((key.to_owned(), id.clone()), upload);
        id
    }

    /// Removes unfinished uploads, as a lifecycle rule does after some days.
    pub fn expire_uploads(&self) {
        self.bucket().lock().uploads.clear();
    }

    // ---- counts

    pub fn calls(&self, op: Op) -> u64 {
        self.counts(|c| c.of(op).calls)
    }

    pub fn successes(&self, op: Op) -> u64 {
        self.counts(|c| c.of(op).successes)
    }

    /// Returns how often the key was written over HTTP: PutObject, CopyObject, CompleteMultipartUpload.
    pub fn writes(&self, key: &str) -> u64 {
        self.counts(|c| c.writes(key))
    }

    /// Returns the bytes of the bodies of an operation.
    pub fn moved(&self, op: Op) -> BytesMoved {
        self.call_counts.moved(op)
    }

    pub fn counts<T>(&self, look: impl FnOnce(&Counts) -> T) -> T {
        self.call_counts.read(look)
    }

    /// Resets the counts.
    pub fn forget_counts(&self) {
        self.call_counts.forget();
    }

    /// Waits until the counts satisfy a condition.
    pub async fn until(&self, reached: impl Fn(&Counts) -> bool) {
        self.call_counts.until(reached).await;
    }

    /// Waits until the `n`th call of this operation has arrived.
    pub async fn arrived(&self, op: Op, n: u64) {
        self.until(|c| c.of(op).calls >= n).await;
    }

    /// Waits until the `n`th call of this operation on this key has arrived.
    pub async fn arrived_for(&self, op: Op, key: &str, n: u64) {
        self.until(|c| c.of_key(op, key).calls >= n).await;
    }

    // ---- faults

    /// Injects a fault for this bucket.
    pub fn order(&self, fault: Fault, when: impl Into<When>) -> InjectedFault {
        self.shared.rules.order(fault, when.into().bucket(&self.name))
    }

    /// Removes every fault of this bucket, and opens the gates that hold calls.
    pub fn clear_faults(&self) {
        self.shared.rules.clear_bucket(&self.name);
    }

    /// Flips one bit of a stored object, whose ETag stays as it was: silent damage.
    ///
    /// # Panics
    /// If there is no such object, or it is empty or its bytes were not kept.
    pub fn damage(&self, key: &str, at: u64) {
        let bucket = self.bucket();
        let object = bucket.object(key).expect("an object to damage");
        let mut bytes = object.body.whole(object.content.size_bytes).expect("kept bytes").to_vec();
        let at = usize::try_from(at).expect("a position in memory") % bytes.len();
        bytes[at] ^= 1;
        let hash = ContentHash(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes));
        let content = Content { hash, ..object.content };
        let damaged = Object { body: Body::Held(vec![bytes.into()]), content, ..(*object).clone() };
        // Cannot fail: there is no condition.
        bucket.lock().put(key, damaged, &WriteCondition::Never).expect("unconditional");
    }

    /// Sets the modification time of a stored object.
    ///
    /// # Panics
    /// If there is no such object.
    pub fn set_modified(&self, key: &str, modified: SystemTime) {
        self.replace(key, |object| Object { modified, ..object });
    }

    /// Sets the ETag of a stored object, without quotes.
    ///
    /// # Panics
    /// If there is no such object.
    pub fn set_etag(&self, key: &str, etag: &str) {
        self.replace(key, |object| Object { etag: etag.to_owned(), ..object });
    }

    fn replace(&self, key: &str, change: impl FnOnce(Object) -> Object) {
        let bucket = self.bucket();
        let object = bucket.object(key).expect("an object to change");
        // Cannot fail: there is no condition.
        bucket.lock().put(key, change((*object).clone()), &WriteCondition::Never).expect("unconditional");
    }

    /// Adds the CRC-64/NVME of its bytes to the checksums of a stored object, as if its writer had declared it.
    ///
    /// # Panics
    /// If there is no such object.
    pub fn declare_crc64(&self, key: &str) {
        let bucket = self.bucket();
        let object = bucket.object(key).expect("an object");
        let value = STANDARD.encode(object.content.hash.0.to_be_bytes());
        let checksums = Checksum { checksum_crc64nvme: Some(value), ..Checksum::default() };
        let declared = Object { checksums, ..(*object).clone() };
        // Cannot fail: there is no condition.
        bucket.lock().put(key, declared, &WriteCondition::Never).expect("unconditional");
    }

    fn bucket(&self) -> Arc<Bucket> {
        self.shared.bucket(&self.name).unwrap_or_else(|_| panic!("there is no bucket {}", self.name))
    }
}

fn info(key: &str, object: &Object) -> ObjectInfo {
    ObjectInfo {
        key: key.to_owned(),
        content: object.content,
        etag: object.etag.clone(),
        metadata: object.metadata.clone(),
        modified: object.modified,
    }
}
