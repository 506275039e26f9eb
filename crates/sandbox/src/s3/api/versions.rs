//! Answers requests for a bucket's versioning, lock configuration and versions.

use hyper::StatusCode;
use s3s::dto::{
    BucketVersioningStatus, DefaultRetention, DeleteMarkerEntry, GetBucketVersioningInput, GetBucketVersioningOutput,
    GetObjectLockConfigurationInput, GetObjectLockConfigurationOutput, ListObjectVersionsInput,
    ListObjectVersionsOutput, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockRetentionMode, ObjectLockRule,
    ObjectVersion,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::super::bucket::{NO_VERSION, State, Version};
use super::etag::strong;
use super::list::Spelling;
use super::{ServerState, page_size, signed};

pub(super) async fn status(
    shared: &ServerState,
    req: S3Request<GetBucketVersioningInput>,
) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    let bucket = shared.bucket(&req.input.bucket)?;
    let enabled = || BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED);
    let status = bucket.options.versioned.then(enabled);
    Ok(S3Response::new(GetBucketVersioningOutput { status, ..GetBucketVersioningOutput::default() }))
}

pub(super) async fn lock(
    shared: &ServerState,
    req: S3Request<GetObjectLockConfigurationInput>,
) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
    let bucket = shared.bucket(&req.input.bucket)?;
    let Some(days) = bucket.options.retention_days else {
        let code = S3ErrorCode::Custom("ObjectLockConfigurationNotFoundError".into());
        let mut error = S3Error::with_message(code, "Object Lock configuration does not exist for this bucket");
        error.set_status_code(StatusCode::NOT_FOUND);
        return Err(error);
    };
    let mode = Some(ObjectLockRetentionMode::from_static(ObjectLockRetentionMode::GOVERNANCE));
    let retention = DefaultRetention { days: Some(days), mode, ..DefaultRetention::default() };
    let configuration = ObjectLockConfiguration {
        object_lock_enabled: Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED)),
        rule: Some(ObjectLockRule { default_retention: Some(retention) }),
    };
    Ok(S3Response::new(GetObjectLockConfigurationOutput { object_lock_configuration: Some(configuration) }))
}

/// The newest version of a key first. Of a bucket without versions, its objects.
pub(super) async fn list(
    shared: &ServerState,
    req: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let input = req.input;
    let bucket = shared.bucket(&input.bucket)?;
    let most = page_size(input.max_keys)?;
    let prefix = bucket.options.heeded(input.prefix);
    let mut all = all(&bucket.lock());
    all.retain(|(key, ..)| key.starts_with(&prefix));
    if let Some(after) = &input.key_marker {
        let id = input.version_id_marker.as_deref();
        let last = all.iter().rposition(|(key, version, _)| key == after && id.is_none_or(|id| version.id == id));
        let passed = last.map_or_else(|| all.iter().take_while(|(key, ..)| key <= after).count(), |last| last + 1);
        all.drain(..passed);
    }
    let is_truncated = all.len() > most;
    all.truncate(most);
    let last = all.last().filter(|_| is_truncated).map(|(key, version, _)| (key.clone(), version.id.clone()));
    let spell = Spelling::of(input.encoding_type.as_ref());
    let (mut versions, mut markers) = (Vec::new(), Vec::new());
    for (key, version, is_latest) in all {
        let (key, last_modified) = (Some(spell.out(&key)), Some(version.modified.into()));
        let (is_latest, version_id) = (Some(is_latest), Some(version.id));
        match version.object {
            Some(object) => versions.push(ObjectVersion {
                key,
                last_modified,
                is_latest,
                version_id,
                size: Some(signed(object.content.size_bytes)),
                e_tag: Some(strong(&object.etag)),
                ..ObjectVersion::default()
            }),
            None => markers.push(DeleteMarkerEntry {
                key,
                last_modified,
                is_latest,
                version_id,
                ..DeleteMarkerEntry::default()
            }),
        }
    }
    Ok(S3Response::new(ListObjectVersionsOutput {
        name: Some(input.bucket),
        prefix: Some(spell.out(&prefix)),
        is_truncated: Some(is_truncated),
        next_key_marker: last.as_ref().map(|(key, _)| spell.out(key)),
        next_version_id_marker: last.map(|(_, id)| id),
        versions: Some(versions),
        delete_markers: Some(markers),
        encoding_type: input.encoding_type,
        ..ListObjectVersionsOutput::default()
    }))
}

/// Key, version, and whether it is the one that is seen.
fn all(state: &State) -> Vec<(String, Version, bool)> {
    let kept = state.versions.iter().flat_map(|(key, versions)| {
        let newest_first = versions.iter().rev().enumerate();
        newest_first.map(|(age, version)| (key.clone(), version.clone(), age == 0))
    });
    let without = state.objects.iter().filter(|(key, _)| !state.versions.contains_key(*key)).map(|(key, object)| {
        let version = Version { id: NO_VERSION.to_owned(), modified: object.modified, object: Some(object.clone()) };
        (key.clone(), version, true)
    });
    let mut all: Vec<_> = kept.chain(without).collect();
    // Stable: versions of one key stay in their order.
    all.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    all
}
