//! The HTTP client below the SDK: hyper-util's, over the connections of [`Connector`].
//!
//! It speaks HTTP/1.1 only. It does not retry, except as hyper-util does: a request of which nothing was sent, because
//! its warm connection turned out to be closed.

use std::{borrow::Cow, sync::Arc, time::Duration};

use aws_smithy_runtime_api::client::{
    connection::{CaptureSmithyConnection, ConnectionMetadata},
    connector_metadata::ConnectorMetadata,
    http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use aws_smithy_types::{body::SdkBody, retry::ErrorKind};
use http_body::Body as _;
use hyper::{
    Method, Request,
    header::{CONTENT_LENGTH, HeaderValue, PROXY_AUTHORIZATION},
    http::Extensions,
};
use hyper_util::{
    client::legacy::{
        self,
        connect::{CaptureConnection, HttpInfo, capture_connection},
    },
    rt::{TokioExecutor, TokioTimer},
};
use rustls::ClientConfig;

use super::{
    connector::Connector,
    dropped_headers::DroppedHeaders,
    headers::{self, MOST_HEADERS},
    proxy::ProxyRoute,
    socket::AbortHandle,
    transport_error,
};

/// Longer than a worker waits between two objects, shorter than most load balancers do.
const KEEP_WARM_FOR: Duration = Duration::from_secs(50);

/// The HTTP client of one store, with connections of its own.
#[derive(Clone, Debug)]
pub(super) struct PooledHttpClient {
    client: legacy::Client<Connector, SdkBody>,
    /// The credentials for a request that goes to a proxy and not through a tunnel.
    authorization: Option<HeaderValue>,
}

impl PooledHttpClient {
    /// Makes a client that keeps at most `connections` open. Connects to nothing yet.
    pub(super) fn new(tls: Arc<ClientConfig>, via: Option<ProxyRoute>, connections: usize) -> Self {
        let authorization = via.as_ref().and_then(|via| via.proxy.authorization().cloned());
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        // Without a timer no warm connection would ever be closed.
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(KEEP_WARM_FOR).http1_max_headers(MOST_HEADERS);
        // Dropped headers that travel with an object are marked below.
        builder.http1_ignore_invalid_headers_in_responses(true);
        Self { client: builder.build(Connector::new(tls, connections).through(via)), authorization }
    }
}

impl HttpClient for PooledHttpClient {
    /// The settings hold time limits only, which the connector and the stall timeout replace.
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        Some(ConnectorMetadata::new("hyper", Some(Cow::Borrowed("1.x"))))
    }
}

impl HttpConnector for PooledHttpClient {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let mut request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into()))),
        };
        say_length(&mut request);
        if let Some(authorization) = &self.authorization
            && request.uri().scheme_str() == Some("http")
        {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        let used = capture_connection(&mut request);
        if let Some(told) = request.extensions().get::<CaptureSmithyConnection>() {
            let used = used.clone();
            told.set_connection_retriever(move || metadata(&used));
        }
        let answer = self.client.request(request);
        HttpConnectorFuture::new(async move {
            let unanswered = PendingRequest(Some(used.clone()));
            let answer = answer.await;
            unanswered.end();
            let mut answer = answer.map_err(error)?.map(SdkBody::from_body_1_x);
            if let Some(left_out) = extras(&used).get::<DroppedHeaders>() {
                headers::mark(answer.headers_mut(), &left_out.take());
            }
            headers::repair(answer.headers_mut());
            HttpResponse::try_from(answer).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// Adds Content-Length to a PUT or POST without a body: gateways answer 411 if it is missing.
fn say_length(request: &mut Request<SdkBody>) {
    let may_have_body = matches!(*request.method(), Method::PUT | Method::POST);
    if may_have_body && request.body().size_hint().exact() == Some(0) {
        request.headers_mut().entry(CONTENT_LENGTH).or_insert(HeaderValue::from_static("0"));
    }
}

/// A request whose answer has not begun. Dropped before that, it closes its connection.
///
/// hyper would first write what it has buffered, to a store that may execute it much later.
struct PendingRequest(Option<CaptureConnection>);

impl PendingRequest {
    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        if let Some(used) = self.0.take()
            && let Some(abort) = extras(&used).get::<AbortHandle>()
        {
            abort.abort();
        }
    }
}

fn extras(used: &CaptureConnection) -> Extensions {
    let mut extras = Extensions::new();
    if let Some(connected) = used.connection_metadata().as_ref() {
        connected.get_extras(&mut extras);
    }
    extras
}

/// Returns the metadata of a connection for the SDK, which stops using a connection after errors that may be the
/// connection's.
fn metadata(used: &CaptureConnection) -> Option<ConnectionMetadata> {
    let proxied = used.connection_metadata().as_ref()?.is_proxied();
    let extras = extras(used);
    let info = extras.get::<HttpInfo>();
    let poisoned = used.clone();
    let mut metadata = ConnectionMetadata::builder().proxied(proxied).poison_fn(move || {
        if let Some(connected) = poisoned.connection_metadata().as_ref() {
            connected.poison();
        }
    });
    metadata.set_local_addr(info.map(HttpInfo::local_addr)).set_remote_addr(info.map(HttpInfo::remote_addr));
    Some(metadata.build())
}

/// Converts the error to the SDK's kinds, by which it decides about its retry.
fn error(error: legacy::Error) -> ConnectorError {
    if error.is_connect() {
        return ConnectorError::io(error.into());
    }
    let kind = transport_error::find::<hyper::Error>(&error).map_or(Kind::Io, Kind::of);
    match kind {
        Kind::User => ConnectorError::user(error.into()),
        Kind::Io => ConnectorError::io(error.into()),
        Kind::Incomplete => ConnectorError::other(error.into(), Some(ErrorKind::TransientError)),
        Kind::Other => ConnectorError::other(error.into(), None),
    }
}

/// The origin of a hyper error.
enum Kind {
    /// The request body, which Copyhold supplies.
    User,
    Io,
    /// The store closed the connection instead of answering.
    Incomplete,
    Other,
}

impl Kind {
    fn of(error: &hyper::Error) -> Self {
        if error.is_user() {
            Self::User
        } else if error.is_closed() || error.is_canceled() || transport_error::find::<std::io::Error>(error).is_some() {
            Self::Io
        } else if error.is_incomplete_message() {
            Self::Incomplete
        } else {
            Self::Other
        }
    }
}
