//! Opens connections to a store, through TLS and a proxy, and limits their number.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use hyper::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::ClientConfig;
use tokio::sync::Semaphore;
use tower_service::Service;

use super::{
    IDLE,
    dropped_headers::HeadRecorder,
    proxy::{ProxyConnector, ProxyRoute},
    scheme::Scheme,
    socket::{BoxError, Socket, TcpConnector},
};

/// Time limit for TCP and TLS together.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);

/// Opens connections, and limits their number.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    http: HttpConnector,
    tls: Arc<ClientConfig>,
    /// The proxy that all connections go through.
    via: Option<ProxyRoute>,
    places: Arc<Semaphore>,
}

impl Connector {
    pub(super) fn new(tls: Arc<ClientConfig>, connections: usize) -> Self {
        let mut http = HttpConnector::new();
        // The connector accepts https too: TLS is added above it.
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(KEEPALIVE_EVERY));
        #[cfg(target_os = "linux")]
        http.set_tcp_user_timeout(Some(IDLE));
        Self { http, tls, via: None, places: Arc::new(Semaphore::new(connections)) }
    }

    /// Returns the connector with a proxy in between.
    pub(super) fn through(self, via: Option<ProxyRoute>) -> Self {
        Self { via, ..self }
    }
}

impl Service<Uri> for Connector {
    type Response = HeadRecorder<MaybeHttpsStream<MaybeHttpsStream<Socket>>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Self { http, tls, via, places } = self.clone();
        Box::pin(async move {
            // Outside of the time limit: waiting for a free connection says nothing about the store.
            let place = Some(places.acquire_owned().await?);
            let scheme = Scheme::of(&to);
            let expected = via.is_none().then_some(scheme);
            let forwards = via.is_some() && scheme == Scheme::Http;
            let tcp = TcpConnector { http, place, expected, forwards };
            let mut https = HttpsConnector::from((ProxyConnector { tcp, via }, tls));
            match tokio::time::timeout(CONNECT_WITHIN, https.call(to)).await {
                Ok(connected) => connected.map(HeadRecorder::new),
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use hyper_util::rt::TokioIo;
    use rustls::{RootCertStore, crypto::aws_lc_rs};
    use tokio::net::TcpListener;

    use super::*;

    fn connector(connections: usize) -> Connector {
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let tls = tls.with_safe_default_protocol_versions().unwrap();
        Connector::new(Arc::new(tls.with_root_certificates(RootCertStore::empty()).with_no_client_auth()), connections)
    }

    async fn listening() -> (TcpListener, Uri) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        (listener, to)
    }

    #[tokio::test]
    async fn every_connection_has_its_socket_options() {
        let (_listener, to) = listening().await;
        let MaybeHttpsStream::Http(MaybeHttpsStream::Http(socket)) = connector(1).call(to).await.unwrap().into_inner()
        else {
            panic!("no TLS was asked for")
        };
        let options = socket2::SockRef::from(socket.tcp.inner());
        assert_eq!(options.linger().unwrap(), Some(Duration::ZERO), "unsent bytes are dropped");
        assert_eq!(options.tcp_user_timeout().unwrap(), Some(IDLE));
        assert!(options.tcp_nodelay().unwrap() && options.keepalive().unwrap());
    }

    #[tokio::test]
    async fn a_connection_beyond_the_limit_waits_until_another_is_closed() {
        let (_listener, to) = listening().await;
        let mut connector = connector(1);
        let first = connector.call(to.clone()).await.unwrap();
        let mut second = connector.call(to);
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        second.await.unwrap();
    }

    #[tokio::test]
    async fn an_aborted_connection_fails_its_pending_read() {
        let (_listener, to) = listening().await;
        let MaybeHttpsStream::Http(MaybeHttpsStream::Http(socket)) = connector(1).call(to).await.unwrap().into_inner()
        else {
            panic!("no TLS was asked for")
        };
        let abort = socket.abort.clone();
        let mut buffer = [0; 8];
        let mut io = TokioIo::new(socket);
        let reading = tokio::io::AsyncReadExt::read(&mut io, &mut buffer);
        let aborting = async { abort.abort() };
        let (read, ()) = tokio::join!(reading, aborting);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
