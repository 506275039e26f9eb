//! Connections to a store: TCP and TLS, their socket options, and how many there may be.
//!
//! It knows nothing of requests.

use std::{
    error::Error,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{future::BoxFuture, task::AtomicWaker};
use hyper::{
    Uri,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use rustls::ClientConfig;
use tokio::{
    io::ReadBuf,
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tower_service::Service;

use super::{
    IDLE,
    dropped_headers::HeadRecorder,
    proxy::{ProxyConnector, ProxyRoute},
    scheme::Scheme,
};

/// TCP and TLS together.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// Opens connections, and keeps their number within the limit.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    http: HttpConnector,
    tls: Arc<ClientConfig>,
    /// The proxy that all connections go through.
    via: Option<ProxyRoute>,
    places: Arc<Semaphore>,
}

/// Opens one TCP connection with the options of [`Socket`].
pub(super) struct TcpConnector {
    http: HttpConnector,
    place: Option<OwnedSemaphorePermit>,
    /// What the first byte that comes should be of; `None`: a proxy's, which speaks before the store does.
    expected: Option<Scheme>,
    /// The other end is a proxy that requests are sent to, and no tunnel.
    forwards: bool,
}

impl TcpConnector {
    /// Moves out what connects once.
    pub(super) fn take(&mut self) -> Self {
        Self { http: self.http.clone(), place: self.place.take(), ..*self }
    }
}

/// A TCP connection whose unsent bytes die with it.
///
/// `SO_LINGER` of zero: closing it, also by the kernel after a SIGKILL, sends RST and drops what was not sent. Otherwise
/// the kernel delivers what its buffers hold, and a store may carry out a write minutes after its sender's death. That
/// does no harm to a finished request: its answer has come, so the store has read all of it. RST may destroy bytes that
/// the peer has received and not read, which are those of a request that nobody waits for.
/// `TCP_USER_TIMEOUT`: bytes that the store does not acknowledge for as long as a call may stand still end the connection.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TokioIo<TcpStream>,
    abort: AbortHandle,
    /// What the first byte that comes should be of; `None`: it has come.
    expected: Option<Scheme>,
    /// Requests name the whole URL.
    forwards: bool,
    /// Counted for as long as it is open.
    _place: Option<OwnedSemaphorePermit>,
}

/// Closes a connection from outside the task that serves it.
#[derive(Clone, Debug, Default)]
pub(super) struct AbortHandle(Arc<State>);

#[derive(Debug, Default)]
struct State {
    aborted: AtomicBool,
    /// The one task that reads and writes.
    task: AtomicWaker,
}

impl AbortHandle {
    /// Has the next read or write fail, at once, which ends the task and with it the connection.
    pub(super) fn abort(&self) {
        self.0.aborted.store(true, Ordering::Release);
        self.0.task.wake();
    }

    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        // In this order, or an abort between the two would wake nobody.
        self.0.task.register(cx.waker());
        if self.0.aborted.load(Ordering::Acquire) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl Connector {
    pub(super) fn new(tls: Arc<ClientConfig>, connections: usize) -> Self {
        let mut http = HttpConnector::new();
        // The scheme is looked at above.
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(KEEPALIVE_EVERY));
        #[cfg(target_os = "linux")]
        http.set_tcp_user_timeout(Some(IDLE));
        Self { http, tls, via: None, places: Arc::new(Semaphore::new(connections)) }
    }

    /// The same, through a proxy.
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
            // Outside of the time limit: to wait for a place is not the store's slowness.
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

impl Service<Uri> for TcpConnector {
    type Response = Socket;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Socket, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let (connecting, place) = (self.http.call(to), self.place.take());
        let (expected, forwards) = (self.expected, self.forwards);
        Box::pin(async move {
            let tcp = connecting.await?;
            tcp.inner().set_zero_linger()?;
            Ok(Socket { tcp, abort: AbortHandle::default(), expected, forwards, _place: place })
        })
    }
}

impl Socket {
    /// Looks at the first byte before anybody reads it.
    fn look(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(scheme) = self.expected {
            let mut first = [0; 1];
            let seen = ready!(self.tcp.inner().poll_peek(cx, &mut ReadBuf::new(&mut first)))?;
            self.expected = None;
            if seen > 0 {
                scheme.check(first[0])?;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        self.tcp.connected().proxy(self.forwards).extra(self.abort.clone())
    }
}

impl Read for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.abort.check(cx)?;
        ready!(self.look(cx))?;
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.abort.check(cx)?;
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.abort.check(cx)?;
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.abort.check(cx)?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.abort.check(cx)?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
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
    async fn an_aborted_connection_fails_whoever_waits_for_it() {
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
