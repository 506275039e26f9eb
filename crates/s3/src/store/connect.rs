//! Builds the client of one replica: connections, credentials, retries.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Builder, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation,
        StalledStreamProtectionConfig,
        retry::{RetryConfig, RetryPartition},
    },
};
use tokio::sync::{Mutex, OnceCell, Semaphore};

use super::{
    Operation, Profile, Reason, Store, StoreError,
    accept_encoding::IdentityEncoding,
    adaptive_limit::AdaptiveLimit,
    blank_keys::BlankKeys,
    client::PooledHttpClient,
    credentials::{CurrentCredentials, RetriedWhenRefused},
    endpoint::Endpoint,
    etag_history::EtagHistory,
    kept_metadata::KeptMetadata,
    kept_names::KeptNames,
    key_folds::SeenFolds,
    no_write_retry::NoWriteRetry,
    proxy::ProxyRoute,
    response_body::BoundedResponse,
    sdk_workarounds::NoThrottlingRetry,
    throughput::Throughput,
    tls::{trusting, trusting_nobody},
};
use crate::settings;

/// One early retry: for a warm connection that the store had just closed, for a 500, for a corrected clock. A write
/// gets it only for a corrected clock, see [`NoWriteRetry`]. Never when the store throttles, because the concurrency
/// limit must see that. Longer waits are the queue's, which all daemons share.
const ATTEMPTS: u32 = 2;
const RETRY_WITHIN: Duration = Duration::from_millis(100);
/// Connections for requests other than transfers: listings, aborts, checks of the bucket.
const SPARE_CONNECTIONS: usize = 2;

impl Store {
    /// Builds a client for one replica with its own connection pool, retry budget and credentials, so that a failing
    /// store takes nothing from the others. Connects to nothing yet.
    ///
    /// `at_once`: how many objects or parts are read from it and written to it at once, unless the configuration says
    /// otherwise.
    #[expect(
        clippy::unused_async,
        reason = "clients that ask something first are to come without changing every caller"
    )]
    pub async fn connect(replica: &settings::StoreSettings, at_once: usize) -> Result<Self, StoreError> {
        let at_once = replica.facts.max_connections.map_or(at_once, |connections| connections / 2).max(1);
        // Nothing waits for a connection below, where it would look like a store that stands still: who asks is counted
        // before.
        // Requests that are stuck keep theirs, and others come in their place, unless the number is given.
        let aside = if replica.facts.max_connections.is_some() { 0 } else { at_once };
        let connections = at_once.saturating_add(aside).saturating_mul(2).saturating_add(SPARE_CONNECTIONS);
        let connections = connections.min(Semaphore::MAX_PERMITS);
        let http =
            http(replica, connections).map_err(|why| StoreError::found(Operation::ListObjects, Reason::Tls, why))?;
        let credentials = CurrentCredentials::of(replica);
        let endpoint = Endpoint::of(replica);
        let config = Builder::new()
            // Pinned: a later one would change time-outs, retries and checksums under us.
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .endpoint_url(endpoint.url())
            .force_path_style(replica.path_style)
            .region(Region::new(replica.region.clone()))
            .credentials_provider(credentials.clone())
            // The credentials themselves know when they are to be read again.
            .identity_cache(IdentityCache::no_cache())
            // The default adds CRC32 trailers, which B2, OVH, Garage and others refuse or store.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(RETRY_WITHIN))
            // By default all clients of one region share a budget.
            .retry_partition(RetryPartition::custom(format!("copyhold-{}", replica.name)).build())
            // We watch progress ourselves, in both directions and while waiting for an answer;
            // the SDK's watch would blame the target for a source that stands still.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .retry_classifier(NoThrottlingRetry)
            .retry_classifier(RetriedWhenRefused(credentials.clone()))
            .interceptor(BlankKeys)
            .interceptor(BoundedResponse)
            .interceptor(IdentityEncoding)
            .interceptor(NoWriteRetry)
            .build();
        Ok(Self {
            replica: replica.name.clone(),
            client: Client::from_conf(config),
            bucket: replica.bucket.clone(),
            endpoint,
            credentials,
            storage_class: replica.storage_class.as_deref().map(Into::into),
            profile: Profile::of(replica),
            limit: AdaptiveLimit::new(replica.name.clone(), at_once, aside),
            readers: Arc::new(Semaphore::new(at_once)),
            stuck_readers: Arc::new(Semaphore::new(aside)),
            throughput: Throughput::default(),
            versioned: OnceCell::new(),
            etag_history: EtagHistory::default(),
            spellings: SeenFolds::default(),
            kept_metadata: KeptMetadata::default(),
            kept_names: KeptNames::default(),
            clock_fits: OnceCell::new(),
            opaque: AtomicBool::new(false),
            refuses_redirects: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            scheme: Mutex::new(None),
        })
    }
}

/// Builds the HTTP client of a store. Error: TLS is needed, and this machine trusts no authority.
fn http(replica: &settings::StoreSettings, connections: usize) -> Result<PooledHttpClient, String> {
    // Without TLS no CA certificates are loaded: a minimal container has none.
    let tls = |needed: bool, trust: &settings::Trust| if needed { trusting(trust) } else { Ok(trusting_nobody()) };
    let via = match &replica.proxy {
        None => None,
        Some(proxy) => {
            Some(ProxyRoute { proxy: proxy.clone(), tls: tls(proxy.is_https(), &replica.surroundings.trust)? })
        }
    };
    Ok(PooledHttpClient::new(tls(replica.endpoint.scheme() == "https", &replica.trust)?, via, connections))
}
