//! Records what a probe writes, and removes it. It removes no other object.

use std::collections::BTreeSet;

use aws_sdk_s3::types::EncodingType;
use copyhold_core::domain::ObjectKey;
use serde::Serialize;

use super::{FOLDER, Probe, Store, StoreError, Tristate};
use crate::store::{
    Operation, Reason, UploadId, key_encoding::KeyEncoding, stall_timeout::Progress, xml_document::WholeDocument,
};

/// The most pages of a listing of the probe's own keys, which fill far less than one.
const PAGES: usize = 10;

/// What the probe has written. Each key is recorded before its request, so that a write without an answer is found.
#[derive(Debug, Default)]
pub(super) struct Cleanup {
    keys: BTreeSet<ObjectKey>,
    /// The versions whose ids the answers returned.
    versions: Vec<Version>,
    uploads: Vec<(ObjectKey, UploadId)>,
}

/// An object or upload of the probe that could not be removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Leftover {
    pub key: String,
    pub version: Option<String>,
    /// An unfinished upload, not an object.
    pub upload: bool,
    pub why: String,
}

/// One version, or a delete marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub key: ObjectKey,
    pub id: Option<String>,
}

impl Cleanup {
    pub(super) fn writes(&mut self, key: &ObjectKey) {
        self.keys.insert(key.clone());
    }

    pub(super) fn wrote(&mut self, key: &ObjectKey, version: Option<&String>) {
        self.versions.extend(version.map(|id| Version { key: key.clone(), id: Some(id.clone()) }));
    }

    /// Drops a key whose object certainly does not exist.
    pub(super) fn forgets(&mut self, key: &ObjectKey) {
        self.keys.remove(key);
    }

    pub(super) fn begins(&mut self, key: &ObjectKey, upload: &UploadId) {
        self.uploads.push((key.clone(), upload.clone()));
    }
}

impl Probe<'_> {
    /// Removes everything that the probe wrote, checks that it is gone, and returns what is left.
    pub(super) async fn clear_up(&mut self) -> Vec<Leftover> {
        if self.cleanup.keys.is_empty() {
            return Vec::new();
        }
        let mut left = self.abort_uploads().await;
        left.extend(self.remove_objects().await);
        left.sort();
        left
    }

    async fn abort_uploads(&self) -> Vec<Leftover> {
        let mut uploads = self.cleanup.uploads.clone();
        // Only a listing finds an upload whose answer was lost. Without one, the ids that the answers returned must do.
        for listed in self.list_uploads().await.unwrap_or_default() {
            if !uploads.contains(&listed) {
                uploads.push(listed);
            }
        }
        let mut left = Vec::new();
        for (key, upload) in uploads {
            if let Err(error) = self.store.abort_multipart(&key, &upload).await {
                left.push(Leftover { key: key.to_string(), version: None, upload: true, why: error.to_string() });
            }
        }
        left
    }

    async fn remove_objects(&self) -> Vec<Leftover> {
        let mut failed = Vec::new();
        let mut versions = None;
        if self.versioned != Tristate::No {
            versions = self.our_versions().await.ok();
            if versions.is_none() {
                // A control character in one of the probe's keys may have made the listing unreadable.
                failed.extend(self.remove(self.cleanup.versions.clone()).await);
                versions = self.our_versions().await.ok();
            }
        }
        let by_version = versions.is_some();
        let there = match versions {
            Some(mut versions) => {
                // A store that folds keys may list an object under a name that does not address it.
                let elsewhere =
                    |ours: &&Version| versions.iter().any(|listed| listed.id == ours.id && listed.key != ours.key);
                let by_our_names: Vec<_> = self.cleanup.versions.iter().filter(elsewhere).cloned().collect();
                versions.extend(by_our_names);
                versions
            }
            None => self.without_known_version().await,
        };
        if !by_version && self.versioned.is_yes() && !there.is_empty() {
            failed
                .push((self.everything(), "the bucket keeps versions and does not list them: older ones stay".into()));
        }
        failed.extend(self.remove(there).await);
        match self.still_there(by_version).await {
            Ok(there) => {
                let is_known =
                    |there: &Version, known: &Version| known == there || (there.id.is_none() && known.key == there.key);
                failed.retain(|(version, _)| !by_version || version.id.is_none() || there.contains(version));
                let unknown = there.into_iter().filter(|there| !failed.iter().any(|(known, _)| is_known(there, known)));
                let unknown: Vec<_> = unknown.map(|version| (version, "it is still there".to_owned())).collect();
                failed.extend(unknown);
            }
            Err(error) => failed.push((self.everything(), format!("whether it is gone cannot be seen: {error}"))),
        }
        let leftover = |(Version { key, id }, why)| Leftover { key: key.to_string(), version: id, upload: false, why };
        failed.into_iter().map(leftover).collect()
    }

    /// Removes these versions; returns the ones that could not be removed, and why.
    async fn remove(&self, versions: Vec<Version>) -> Vec<(Version, String)> {
        let mut failed = Vec::new();
        for version in versions {
            match self.delete(&version.key, version.id.as_deref()).await {
                Ok(()) => {}
                Err(error) if error.reason() == Reason::NoSuchKey => {}
                // A key that could never be written can often not be deleted either.
                Err(_) if version.id.is_none() && matches!(self.is_there(&version.key).await, Ok(false)) => {}
                Err(error) => failed.push((version, error.to_string())),
            }
        }
        failed
    }

    /// Returns what is to be removed by key alone. In a bucket with versions such a deletion adds a marker, even for a
    /// key that never existed: so keys with a known version and missing keys are left out.
    async fn without_known_version(&self) -> Vec<Version> {
        let listed = self.our_keys().await.unwrap_or_default();
        let keys: BTreeSet<_> = self.cleanup.keys.iter().cloned().chain(listed).collect();
        let mut plain = Vec::new();
        for key in keys {
            let left_out = self.versioned != Tristate::No
                && (self.cleanup.versions.iter().any(|version| version.key == key)
                    || matches!(self.is_there(&key).await, Ok(false)));
            if !left_out {
                plain.push(Version { key, id: None });
            }
        }
        plain
    }

    async fn still_there(&self, by_version: bool) -> Result<Vec<Version>, StoreError> {
        if by_version {
            return self.our_versions().await;
        }
        Ok(self.our_keys().await?.into_iter().map(|key| Version { key, id: None }).collect())
    }

    /// Stands for everything below the probe's prefix, in messages.
    fn everything(&self) -> Version {
        Version { key: self.key("*"), id: None }
    }

    /// Returns whether the probe wrote this key. Nothing else is ever removed, whatever a listing contains.
    fn is_ours(&self, key: &ObjectKey) -> bool {
        key.as_str().starts_with(&self.prefix) || self.cleanup.keys.contains(key)
    }

    /// Returns the probe's second prefix, with a leading slash.
    fn led(&self) -> String {
        format!("/{FOLDER}{}", self.prefix.trim_start_matches(FOLDER))
    }

    async fn our_keys(&self) -> Result<Vec<ObjectKey>, StoreError> {
        let mut keys = self.list(&self.prefix, None).await?;
        keys.extend(self.list(&self.led(), None).await?);
        Ok(keys.into_iter().filter_map(|key| ObjectKey::new(key).ok()).filter(|key| self.is_ours(key)).collect())
    }

    async fn our_versions(&self) -> Result<Vec<Version>, StoreError> {
        let mut versions = self.list_versions(&self.prefix).await?;
        versions.extend(self.list_versions(&self.led()).await?);
        Ok(versions)
    }

    /// Returns the probe's versions and delete markers below `prefix`.
    pub(super) async fn list_versions(&self, prefix: &str) -> Result<Vec<Version>, StoreError> {
        let Store { client, bucket, .. } = self.store;
        let mut all = Vec::new();
        let (mut key_marker, mut version_marker) = (None, None);
        for _ in 0..PAGES {
            let call = client
                .list_object_versions()
                .bucket(bucket)
                .prefix(prefix)
                .set_key_marker(key_marker)
                .set_version_id_marker(version_marker)
                .encoding_type(EncodingType::Url);
            let call = call.customize().interceptor(WholeDocument::VERSIONS);
            let answer = self.store.call(Operation::ListObjectVersions, &Progress::default(), call.send()).await?;
            let spelling = KeyEncoding::of(answer.encoding_type.as_ref());
            let versions = answer.versions.unwrap_or_default().into_iter().map(|v| (v.key, v.version_id));
            let markers = answer.delete_markers.unwrap_or_default().into_iter().map(|m| (m.key, m.version_id));
            let ours = versions.chain(markers).filter_map(|(key, id)| {
                let key = ObjectKey::new(spelling.text(key?)).ok().filter(|key| self.is_ours(key))?;
                Some(Version { key, id })
            });
            all.extend(ours);
            if answer.is_truncated != Some(true) {
                break;
            }
            (key_marker, version_marker) = (answer.next_key_marker, answer.next_version_id_marker);
        }
        Ok(all)
    }

    async fn list_uploads(&self) -> Result<Vec<(ObjectKey, UploadId)>, StoreError> {
        let listed = self.store.list_uploads(&self.prefix).await?.into_iter();
        let ours = listed.filter_map(|upload| {
            let key = ObjectKey::new(upload.key).ok().filter(|key| self.is_ours(key))?;
            Some((key, upload.id))
        });
        Ok(ours.collect())
    }
}
