//! The S3 client: one [`Store`] per replica, with a client, a connection pool and
//! a retry budget of its own.
//!
//! Every failure leaves this module as a [`StoreError`], whose [`Reason`] alone decides what
//! follows. A read that failed transiently is sent once more within 100 ms, a write is not
//! (`connect`, `no_write_retry`). It does not decide when a copy is retried. It never holds more
//! of an object than the frame being passed on.

mod accept_encoding;
mod activity;
mod adaptive_limit;
mod authorities;
mod blank_keys;
mod client;
mod clock;
mod connect;
mod connector;
mod credentials;
mod dates;
mod dropped_headers;
mod endpoint;
mod error;
mod etag;
mod etag_history;
mod head;
mod headers;
mod kept_metadata;
mod kept_names;
mod key_encoding;
mod key_folds;
mod list;
mod metadata;
mod no_write_retry;
mod operation;
mod path;
mod permission_probe;
mod probe;
mod profile;
mod proxy;
mod read;
mod reason;
mod response_body;
mod scheme;
mod scheme_probe;
mod sdk_workarounds;
mod socket;
mod stall_timeout;
mod streaming_body;
#[cfg(test)]
mod tests;
mod throughput;
mod tls;
mod transport_error;
mod uploads;
mod versions;
mod write;
mod xml_document;
mod xml_repair;

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aws_sdk_s3::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    types::StorageClass,
};
use tokio::sync::{Mutex, OnceCell, Semaphore};

pub use activity::{Activity, STUCK_AFTER, within_current};
pub use clock::CLOCK_TOLERANCE;
pub use error::StoreError;
pub use etag::{ETag, Md5};
pub use head::HeadResult;
pub use kept_metadata::{MetadataCheck, SentBy};
pub use kept_names::KeptAs;
pub use list::{InvalidListedKey, ListPage, ListPosition, ListQuery, ListedObject, shown};
pub use metadata::Metadata;
pub use operation::Operation;
pub use permission_probe::BucketContents;
pub use probe::{Ended as ProbeEnded, EndedBy as ProbeEndedBy, Fact, Leftover, Report as ProbeReport, is_of_a_probe};
pub use profile::{Profile, Tristate};
pub use read::{Body, GetResponse, Head};
pub use reason::Reason;
pub use streaming_body::{BodySender, StreamingBody};
pub use uploads::ListedUpload;
pub use write::UploadId;

use crate::metrics;
use activity::Request;
use adaptive_limit::{AdaptiveLimit, Prefixes};
use copyhold_core::domain::{FailureClass, ObjectKey, ReplicaName};
use credentials::CurrentCredentials;
use endpoint::Endpoint;
use stall_timeout::{Progress, watched};
use throughput::Throughput;

/// How long a call may make no progress: no byte sent, none received.
pub const IDLE: Duration = Duration::from_mins(1);
/// A store may assemble terabytes before it answers.
const COMPLETE_IDLE: Duration = Duration::from_mins(10);

/// One bucket on one store.
#[derive(Debug)]
pub struct Store {
    replica: ReplicaName,
    client: Client,
    bucket: String,
    endpoint: Endpoint,
    credentials: CurrentCredentials,
    storage_class: Option<StorageClass>,
    profile: Profile,
    limit: AdaptiveLimit,
    /// A body that is being read keeps its connection after its call has ended.
    readers: Arc<Semaphore>,
    /// Permits for bodies that move no byte: other readers may use their places.
    stuck_readers: Arc<Semaphore>,
    throughput: Throughput,
    /// Whether the bucket keeps versions, once that was requested.
    versioned: OnceCell<bool>,
    etag_history: etag_history::EtagHistory,
    spellings: key_folds::SeenFolds,
    kept_metadata: kept_metadata::KeptMetadata,
    kept_names: kept_names::KeptNames,
    /// Whether the store's clock distinguishes a new copy from older objects, once that was checked.
    pub(crate) clock_fits: OnceCell<bool>,
    /// The store has answered a write with an ETag that proves nothing about the bytes.
    opaque: AtomicBool,
    /// The store has refused a write for its website redirect, and accepted it without.
    refuses_redirects: AtomicBool,
    /// The store has answered a request, so the endpoint's scheme is right.
    answered: AtomicBool,
    scheme: Mutex<Option<scheme_probe::SchemeProbe>>,
}

impl Store {
    /// Returns the name of its replica.
    #[must_use]
    pub fn name(&self) -> &ReplicaName {
        &self.replica
    }

    /// The proxy that its requests go through: host and port, and the variable that names it.
    #[must_use]
    pub fn proxy(&self) -> Option<String> {
        self.endpoint.proxy().map(|proxy| format!("{proxy}, which {} names", proxy.variable()))
    }

    /// Returns what the store supports and can hold.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Records that a write was answered with an ETag that says nothing of the bytes, or with none.
    pub fn record_opaque_etag(&self) {
        self.opaque.store(true, Ordering::Relaxed);
    }

    /// Returns whether its ETags are known, or were found by this process, to prove nothing.
    #[must_use]
    pub fn has_opaque_etags(&self) -> bool {
        self.profile.etags.of_put_is_md5 == Tristate::No || self.opaque.load(Ordering::Relaxed)
    }

    /// Returns how long requests for this object must wait, because the store throttles one of its prefixes; `None`:
    /// they need not.
    #[must_use]
    pub fn spared_for(&self, key: &ObjectKey) -> Option<Duration> {
        self.limit.spared_for(&activity::prefixes_of(key))
    }

    /// Returns the recent upload throughput of a request; `None`: no request was large enough yet.
    #[must_use]
    pub fn bytes_per_second(&self) -> Option<f64> {
        self.throughput.bytes_per_second()
    }

    /// Sends `call` when the concurrency limit allows it, waits while it makes progress, measures it, and reduces its
    /// failure to what may be recorded.
    ///
    /// Not an `async fn`, so that the SDK's futures, of several KiB each, are boxed before
    /// another future holds one.
    fn call<'a, T: Send + 'a, E>(
        &'a self,
        operation: Operation,
        progress: &'a Progress,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send + 'a,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + 'a
    where
        E: ProvideErrorMetadata + Error + Send + 'static,
    {
        self.call_and(operation, progress, call, || ())
    }

    /// Sends `call` in the same way, and calls `stuck` when it moves no byte for a while.
    fn call_and<'a, T: Send + 'a, E>(
        &'a self,
        operation: Operation,
        progress: &'a Progress,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send + 'a,
        mut stuck: impl FnMut() + Send + 'a,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + 'a
    where
        E: ProvideErrorMetadata + Error + Send + 'static,
    {
        let call = Box::pin(call);
        async move {
            let prefixes =
                progress.activity().map_or_else(Prefixes::default, |activity| Arc::clone(activity.prefixes()));
            let mut pass = if operation.is_paced() { Some(self.limit.enter().await) } else { None };
            // The store may have throttled the prefix while this request waited.
            if let Some(rest) = self.limit.spared_for(&prefixes).filter(|_| pass.is_some()) {
                return Err(StoreError::spared(operation, rest));
            }
            // From here on, and not before: that we spare the store is not its slowness.
            let began = Instant::now();
            let request = Request::of(progress.activity());
            let sends = matches!(operation, Operation::PutObject | Operation::UploadPart);
            let _watch = sends.then(|| self.throughput.watch(progress));
            let idle = if operation == Operation::CompleteMultipartUpload { COMPLETE_IDLE } else { IDLE };
            let set_aside = || {
                if let Some(pass) = &mut pass {
                    pass.set_aside();
                }
                stuck();
            };
            let answer = watched(call, progress, idle, set_aside).await;
            drop(request);
            metrics::request_took(&self.replica, operation.as_str(), began.elapsed());
            let answer = match answer {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) => {
                    let error = StoreError::of_sdk(operation, &self.endpoint, &error);
                    Err(error.without(self.credentials.key_id().as_deref()))
                }
                Err(stall_timeout::Stalled) => {
                    let what = format!("nothing moved to or from {} for {} s", self.endpoint, idle.as_secs());
                    Err(StoreError::found(operation, Reason::Stalled, what).without_answer())
                }
            };
            if pass.is_some() {
                match &answer {
                    Ok(_) => self.limit.succeeded(&prefixes),
                    Err(error) if error.class() == FailureClass::Throttled => {
                        // The parts of an object are as different as objects are.
                        let whole = operation != Operation::UploadPart;
                        let object = progress.activity().filter(|_| whole).map(Activity::object);
                        self.limit.throttled(object, &prefixes, error.retry_after());
                    }
                    Err(_) => {}
                }
            }
            if answer.as_ref().map_or_else(StoreError::has_status, |_| true) {
                self.answered.store(true, Ordering::Relaxed);
            }
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.is_no_answer()
                && !self.answered.load(Ordering::Relaxed)
                && let Some(other) = Box::pin(self.other_scheme()).await
            {
                return Err(error.of_the_scheme(self.endpoint.url(), other));
            }
            Err(error)
        }
    }
}

/// Whether a store's listing is the whole document; why not. For the fuzz targets.
pub fn check_listing(body: &[u8]) -> Result<(), String> {
    xml_document::WholeDocument::OBJECTS.check(body).map_err(|error| error.to_string())
}
