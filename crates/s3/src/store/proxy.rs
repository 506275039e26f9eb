//! Connects through an HTTP proxy: by a tunnel to TLS stores, with absolute URLs to others.
//!
//! It must not show the proxy's credentials.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::future::{BoxFuture, Either, select};
use http_body_util::Empty;
use hyper::{
    Request, Response, StatusCode, Uri,
    body::Incoming,
    client::conn::http1,
    header::{HOST, PROXY_AUTHORIZATION},
    rt::{Read, Write},
};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use rustls::ClientConfig;
use tower_service::Service;

use super::socket::{BoxError, Socket, TcpConnector};
use crate::settings::Proxy;

/// A proxy, and the TLS configuration for the connection to it.
#[derive(Clone, Debug)]
pub(super) struct ProxyRoute {
    pub(super) proxy: Proxy,
    pub(super) tls: Arc<ClientConfig>,
}

/// Connects to the server directly, or through a proxy.
pub(super) struct ProxyConnector {
    pub(super) tcp: TcpConnector,
    pub(super) via: Option<ProxyRoute>,
}

/// Why a connection through a proxy failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    /// Its host, port or TLS.
    #[error("the proxy cannot be reached")]
    Unreachable(#[source] BoxError),
    #[error("the proxy answers {0}")]
    Refused(StatusCode),
    /// It closed the connection, or answered with something other than HTTP.
    #[error("the proxy gives no answer that can be read")]
    Broken(#[source] Option<hyper::Error>),
}

impl Service<Uri> for ProxyConnector {
    type Response = MaybeHttpsStream<Socket>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Some(ProxyRoute { proxy, tls }) = self.via.clone() else {
            let connecting = self.tcp.call(to);
            return Box::pin(async move { Ok(MaybeHttpsStream::Http(connecting.await?)) });
        };
        let connecting = HttpsConnector::from((self.tcp.take(), tls)).call(proxy.uri().clone());
        Box::pin(async move {
            let stream = connecting.await.map_err(ProxyError::Unreachable)?;
            if to.scheme_str() == Some("https") { tunnel(stream, &to, &proxy).await } else { Ok(stream) }
        })
    }
}

/// Opens a tunnel by CONNECT. Returns the same stream.
async fn tunnel<S>(stream: S, to: &Uri, proxy: &Proxy) -> Result<S, BoxError>
where
    S: Read + Write + Unpin + Send + 'static,
{
    let authority = format!("{}:{}", to.host().unwrap_or_default(), to.port_u16().unwrap_or(443));
    let mut request = Request::connect(&authority).header(HOST, &authority).body(Empty::<Bytes>::new())?;
    if let Some(authorization) = proxy.authorization() {
        request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
    }
    let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| ProxyError::Broken(Some(error)))?;
    // An answer of 2xx ends the connection's HTTP; any other leaves it open, and is not waited for.
    let connection = pin!(connection.without_shutdown());
    let answer = pin!(sender.send_request(request));
    let broken = |error| ProxyError::Broken(Some(error));
    let parts = match select(answer, connection).await {
        Either::Left((answer, connection)) => {
            accepted(&answer.map_err(broken)?)?;
            connection.await.map_err(broken)?
        }
        Either::Right((parts, answer)) => {
            let parts = parts.map_err(broken)?;
            accepted(&answer.await.map_err(broken)?)?;
            parts
        }
    };
    // In TLS the client speaks first.
    if parts.read_buf.is_empty() { Ok(parts.io) } else { Err(ProxyError::Broken(None).into()) }
}

fn accepted(answer: &Response<Incoming>) -> Result<(), ProxyError> {
    let status = answer.status();
    if status.is_success() { Ok(()) } else { Err(ProxyError::Refused(status)) }
}
