//! The metrics of stores and copies. The only place with their names; the program describes them.

use std::time::Duration;

use copyhold_core::domain::ReplicaName;

/// Bytes read from a source, by replica.
pub const SOURCE_BYTES: &str = "copyhold_source_bytes_total";
/// Bytes that a target has accepted, by replica.
pub const TARGET_BYTES: &str = "copyhold_target_bytes_total";
/// Duration of requests, by replica and operation.
pub const REQUEST_SECONDS: &str = "copyhold_store_request_seconds";
/// Requests that may be under way at once, by replica.
pub const CONCURRENCY_LIMIT: &str = "copyhold_store_concurrency_limit";

/// Every metric that this crate records.
pub const ALL: [&str; 4] = [SOURCE_BYTES, TARGET_BYTES, REQUEST_SECONDS, CONCURRENCY_LIMIT];

pub(crate) fn source_bytes(replica: &ReplicaName, bytes: u64) {
    metrics::counter!(SOURCE_BYTES, "replica" => replica.to_string()).increment(bytes);
}

pub(crate) fn target_bytes(replica: &ReplicaName, bytes: u64) {
    metrics::counter!(TARGET_BYTES, "replica" => replica.to_string()).increment(bytes);
}

pub(crate) fn request_took(replica: &ReplicaName, operation: &'static str, took: Duration) {
    metrics::histogram!(REQUEST_SECONDS, "replica" => replica.to_string(), "operation" => operation).record(took);
}

/// 0: one request at a time, with pauses.
pub(crate) fn concurrency_limit(replica: &ReplicaName, limit: usize) {
    #[expect(clippy::cast_precision_loss, reason = "a number of connections")]
    metrics::gauge!(CONCURRENCY_LIMIT, "replica" => replica.to_string()).set(limit as f64);
}
