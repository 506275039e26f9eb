use std::{sync::Arc, time::Duration};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
        SharedCredentialsProvider, StalledStreamProtectionConfig,
        retry::{RetryConfig, RetryPartition},
        timeout::TimeoutConfig,
    },
};
use aws_smithy_http_client::{
    pool::{self, ConnectionPool},
    tls::{Provider, rustls_provider::CryptoMode},
};
use secrecy::ExposeSecret;
use tokio::sync::{OnceCell, Semaphore};

use super::{
    Operation, Profile, Store, StoreError, etag_history::EtagHistory, identity::AsStored, pace::Pace,
    readable::ReadableExpires, reason::Reason, speed::Speed, unthrottled::NotWhenThrottled,
};
use crate::config;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Longer than a worker waits between two objects, shorter than most load balancers do.
const KEEP_WARM_FOR: Duration = Duration::from_secs(50);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
/// One retry, soon: for the warm connection that the store had just closed, a 500,
/// a corrected clock. Never when the store throttles: its pace must hear of that. All other patience is the queue's, which all daemons share.
const ATTEMPTS: u32 = 2;
const RETRY_WITHIN: Duration = Duration::from_millis(100);
/// For what is asked beside the objects: listings, aborts, a look at the bucket.
const SPARE_CONNECTIONS: usize = 2;

impl Store {
    /// A client for one replica with a connection pool, retry budget and credentials of
    /// its own, so that a sick store takes nothing from the others. Connects to nothing yet.
    ///
    /// `at_once`: how many objects or parts of objects may be read from it at once, and how many written to it, unless
    /// the configuration says so.
    pub async fn connect(replica: &config::Replica, at_once: usize) -> Result<Self, StoreError> {
        let at_once = replica.facts.max_connections.map_or(at_once, |connections| connections / 2).max(1);
        let impossible =
            |e: &dyn std::fmt::Display| StoreError::found(Operation::Connect, Reason::Unsupported, e.to_string());
        let pool = pool(replica, at_once).map_err(|e| impossible(&e))?;
        let http = pool::Client::new(&pool).map_err(|e| impossible(&e))?;
        // As text: a Url writes a slash after the host, to which the SDK would add another.
        let endpoint = replica.endpoint.as_str().trim_end_matches('/').to_owned();
        let config = Builder::new()
            // Pinned: a later one would change time-outs, retries and checksums under us.
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .endpoint_url(&endpoint)
            .force_path_style(replica.path_style)
            .region(Region::new(replica.region.clone()))
            .credentials_provider(credentials(replica).await)
            // The default adds CRC32 trailers, which B2, OVH, Garage and others refuse or store.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(RETRY_WITHIN))
            // All clients of one region share a budget unless told otherwise.
            .retry_partition(RetryPartition::custom(format!("copyhold-{}", replica.name)).build())
            // We watch progress ourselves, in both directions and while waiting for an answer;
            // the SDK's watch would blame the target for a source that stands still.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .retry_classifier(NotWhenThrottled)
            .interceptor(ReadableExpires)
            .interceptor(AsStored)
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_WITHIN).build())
            .build();
        Ok(Self {
            replica: replica.name.clone(),
            client: Client::from_conf(config),
            bucket: replica.bucket.clone(),
            endpoint,
            storage_class: replica.storage_class.as_deref().map(Into::into),
            profile: Profile::of(replica),
            pace: Pace::new(replica.name.clone(), at_once),
            readers: Arc::new(Semaphore::new(at_once)),
            speed: Speed::default(),
            versioned: OnceCell::new(),
            etag_history: EtagHistory::default(),
            clock_fits: OnceCell::new(),
        })
    }
}

/// HTTP/2 cannot be ruled out here: the pool offers it by ALPN, and S3 stores rarely take it.
///
/// Nothing waits for a connection here, where it would look like a store that stands still: who asks is counted before.
fn pool(replica: &config::Replica, at_once: usize) -> Result<ConnectionPool, pool::BuildError> {
    let pool = ConnectionPool::builder()
        .max_connections_per_host(at_once.saturating_mul(2).saturating_add(SPARE_CONNECTIONS))
        .idle_timeout(KEEP_WARM_FOR)
        .tcp_keepalive(KEEPALIVE_EVERY)
        .tcp_nodelay(true);
    if replica.endpoint.scheme() == "http" {
        // Without TLS no CA certificates are looked for: a bare container has none.
        pool.build_http()
    } else {
        pool.tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build_https()
    }
}

async fn credentials(replica: &config::Replica) -> SharedCredentialsProvider {
    match &replica.credentials {
        config::Credentials::Ambient => {
            let region = Region::new(replica.region.clone());
            SharedCredentialsProvider::new(DefaultCredentialsChain::builder().region(region).build().await)
        }
        config::Credentials::Keys { access_key_id, secret_access_key } => SharedCredentialsProvider::new(
            Credentials::new(access_key_id.expose_secret(), secret_access_key.expose_secret(), None, None, "copyhold"),
        ),
    }
}
