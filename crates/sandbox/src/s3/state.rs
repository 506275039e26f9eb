//! The state that all connections of one server share.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use hyper::header::HeaderValue;
use s3s::auth::{S3Auth, SecretKey};
use s3s::host::{S3Host, VirtualHost};
use s3s::validation::NameValidation;
use s3s::{S3Result, s3_error};

use super::bucket::Bucket;
use super::call_counts::CallCounts;
use super::content_index::ContentIndex;
use super::fault_rules::Rules;
use super::operation::bucket_in_host;

#[derive(Debug, Default)]
pub(super) struct ServerState {
    pub buckets: RwLock<BTreeMap<String, Arc<Bucket>>>,
    /// By bucket name, kept after the bucket is removed: calls to a missing bucket count too.
    counts_by_bucket: RwLock<HashMap<String, Arc<CallCounts>>>,
    pub rules: Arc<Rules>,
    pub known: ContentIndex,
    last_upload: AtomicU64,
    last_request: AtomicU64,
}

impl ServerState {
    pub fn bucket(&self, name: &str) -> S3Result<Arc<Bucket>> {
        let buckets = self.buckets.read().expect("no holder panics");
        buckets.get(name).cloned().ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))
    }

    pub fn call_counts(&self, bucket: &str) -> Arc<CallCounts> {
        if let Some(call_counts) = self.counts_by_bucket.read().expect("no holder panics").get(bucket) {
            return Arc::clone(call_counts);
        }
        let mut counts_by_bucket = self.counts_by_bucket.write().expect("no holder panics");
        Arc::clone(counts_by_bucket.entry(bucket.to_owned()).or_default())
    }

    pub fn next_request_id(&self) -> HeaderValue {
        HeaderValue::from(self.last_request.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Ids rise, unlike S3's, so that a listing of uploads is in the order of their beginning.
    pub fn next_upload_id(&self) -> String {
        format!("upload-{:012}", self.last_upload.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// The only accepted access key: id and secret.
#[derive(Clone)]
pub(super) struct OneUser(pub Arc<RwLock<(String, String)>>);

impl S3Auth for OneUser {
    fn get_secret_key<'a, 'k, 'f>(&'a self, access_key: &'k str) -> futures::future::BoxFuture<'f, S3Result<SecretKey>>
    where
        'a: 'f,
        'k: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let keys = self.0.read().expect("no holder panics");
            if access_key == keys.0 {
                Ok(SecretKey::from(keys.1.as_str()))
            } else {
                Err(s3_error!(InvalidAccessKeyId, "The AWS Access Key Id you provided does not exist in our records."))
            }
        })
    }
}

/// Accepts `bucket.localhost` for a bucket and any other host for path-style requests.
pub(super) struct ByHost;

impl S3Host for ByHost {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        Ok(match bucket_in_host(host) {
            Some(bucket) => VirtualHost::new("localhost").with_bucket(bucket),
            None => VirtualHost::new(host),
        })
    }
}

/// Accepts the names of replicas as bucket names: `b2` is too short for AWS.
pub(super) struct AnyName;

impl NameValidation for AnyName {
    fn validate_bucket_name(&self, name: &str) -> bool {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        (1..=63).contains(&name.len()) && name.bytes().all(allowed)
    }
}
