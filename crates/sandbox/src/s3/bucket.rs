//! One bucket: its objects and its unfinished uploads, under one lock, so that
//! a condition and the write it guards are one step.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use hyper::header::{HeaderName, HeaderValue};
use s3s::dto::{ChecksumAlgorithm, ChecksumType};
use s3s::{S3Result, s3_error};

use super::bucket_options::BucketOptions;
use super::metadata::Metadata;
use super::object::Object;
use super::part::Part;

/// Marks a 404 for an object that a delete marker hides.
const DELETE_MARKER: HeaderName = HeaderName::from_static("x-amz-delete-marker");

#[derive(Debug)]
pub(super) struct Bucket {
    pub options: BucketOptions,
    pub created: SystemTime,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub objects: BTreeMap<String, Arc<Object>>,
    /// The uploads by key and upload id, which is the order of ListMultipartUploads.
    pub uploads: BTreeMap<(String, String), Upload>,
    /// Oldest first; empty where no versions are kept.
    pub versions: BTreeMap<String, Vec<Version>>,
    keeps_versions: bool,
    last_version: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Version {
    pub id: String,
    pub modified: SystemTime,
    /// `None`: a delete marker.
    pub object: Option<Arc<Object>>,
}

/// The result of a deletion.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DeleteResult {
    pub version: Option<String>,
    pub marker: bool,
}

/// The version id of an object in a bucket without versions.
pub(super) const NO_VERSION: &str = "null";

#[derive(Debug)]
pub(super) struct Upload {
    pub metadata: Metadata,
    pub initiated: SystemTime,
    pub checksum_algorithm: Option<ChecksumAlgorithm>,
    pub checksum_type: Option<ChecksumType>,
    pub parts: BTreeMap<i32, Part>,
}

/// The condition for a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WriteCondition {
    Never,
    /// `If-None-Match: *`
    Exists,
    /// `If-Match: *`
    Missing,
    /// `If-Match`
    Differs(String),
}

impl Bucket {
    pub fn new(options: BucketOptions) -> Self {
        let state = State { keeps_versions: options.versioned, ..State::default() };
        Self { options, created: SystemTime::now(), state: Mutex::new(state) }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    pub fn object(&self, key: &str) -> S3Result<Arc<Object>> {
        let state = self.lock();
        state.objects.get(key).cloned().ok_or_else(|| {
            let mut missing = s3_error!(NoSuchKey, "The specified key does not exist.");
            let newest = state.versions.get(key).and_then(|versions| versions.last());
            if newest.is_some_and(|version| version.object.is_none()) {
                missing.set_headers([(DELETE_MARKER, HeaderValue::from_static("true"))].into_iter().collect());
            }
            missing
        })
    }
}

impl State {
    /// Stores the object, or refuses and changes nothing; returns its version, if versions are kept.
    pub fn put(&mut self, key: &str, object: Object, unless: &WriteCondition) -> S3Result<Option<String>> {
        self.allow(key, unless)?;
        let object = Arc::new(object);
        self.objects.insert(key.to_owned(), Arc::clone(&object));
        Ok(self.keeps_versions.then(|| self.add_version(key, Some(object))))
    }

    /// Deletes one version, or the visible one. A missing one counts as deleted.
    pub fn delete(&mut self, key: &str, version: Option<&str>) -> DeleteResult {
        match version {
            Some(id) if self.keeps_versions => {
                let versions = self.versions.entry(key.to_owned()).or_default();
                let marker = versions.iter().any(|version| version.id == id && version.object.is_none());
                versions.retain(|version| version.id != id);
                let visible = versions.last().and_then(|version| version.object.clone());
                if versions.is_empty() {
                    self.versions.remove(key);
                }
                match visible {
                    Some(object) => self.objects.insert(key.to_owned(), object),
                    None => self.objects.remove(key),
                };
                DeleteResult { version: Some(id.to_owned()), marker }
            }
            Some(id) if id != NO_VERSION => DeleteResult::default(),
            None if self.keeps_versions => {
                self.objects.remove(key);
                DeleteResult { version: Some(self.add_version(key, None)), marker: true }
            }
            Some(_) | None => {
                self.objects.remove(key);
                DeleteResult::default()
            }
        }
    }

    fn add_version(&mut self, key: &str, object: Option<Arc<Object>>) -> String {
        self.last_version += 1;
        let id = format!("version-{:012}", self.last_version);
        let version = Version { id: id.clone(), modified: SystemTime::now(), object };
        self.versions.entry(key.to_owned()).or_default().push(version);
        id
    }

    pub fn allow(&self, key: &str, unless: &WriteCondition) -> S3Result<()> {
        let refused = || s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold");
        let missing = || s3_error!(NoSuchKey, "The specified key does not exist.");
        match (unless, self.objects.get(key)) {
            (WriteCondition::Exists, Some(_)) => Err(refused()),
            (WriteCondition::Missing | WriteCondition::Differs(_), None) => Err(missing()),
            (WriteCondition::Differs(etag), Some(there)) if there.etag != *etag => Err(refused()),
            (
                WriteCondition::Never | WriteCondition::Exists | WriteCondition::Missing | WriteCondition::Differs(_),
                _,
            ) => Ok(()),
        }
    }

    pub fn upload(&mut self, key: &str, id: &str) -> S3Result<&mut Upload> {
        // BTreeMap cannot be asked by a pair of borrowed strings.
        self.uploads.get_mut(&(key.to_owned(), id.to_owned())).ok_or_else(no_such_upload)
    }
}

pub(super) fn no_such_upload() -> s3s::S3Error {
    s3_error!(
        NoSuchUpload,
        "The specified multipart upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."
    )
}
