//! The location of a bucket, for the contestants.

/// One store and bucket, for the configurations of rclone and Copyhold.
#[derive(Debug, Clone)]
pub(super) struct BucketLocation {
    pub(super) name: &'static str,
    pub(super) endpoint: String,
    pub(super) region: &'static str,
    pub(super) bucket: String,
    pub(super) access_key_id: String,
    pub(super) secret_access_key: String,
}
