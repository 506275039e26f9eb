//! Where a bucket is, for the contestants.

/// One store and bucket, as rclone and we are told of it.
#[derive(Debug, Clone)]
pub(super) struct BucketLocation {
    pub(super) name: &'static str,
    pub(super) endpoint: String,
    pub(super) region: &'static str,
    pub(super) bucket: String,
    pub(super) access_key_id: String,
    pub(super) secret_access_key: String,
}
