//! One TCP connection to a store or a proxy, with its socket options, and the handle that aborts it.

use std::{
    error::Error,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::{future::BoxFuture, task::AtomicWaker};
use hyper::{
    Uri,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use tokio::{io::ReadBuf, net::TcpStream, sync::OwnedSemaphorePermit};
use tower_service::Service;

use super::scheme::Scheme;

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// Opens one TCP connection with the options of [`Socket`].
pub(super) struct TcpConnector {
    pub(super) http: HttpConnector,
    pub(super) place: Option<OwnedSemaphorePermit>,
    /// What the first byte that comes should be of; `None`: a proxy's, which speaks before the store does.
    pub(super) expected: Option<Scheme>,
    /// The other end is a proxy that requests are sent to, and no tunnel.
    pub(super) forwards: bool,
}

impl TcpConnector {
    /// Moves out what connects once.
    pub(super) fn take(&mut self) -> Self {
        Self { http: self.http.clone(), place: self.place.take(), ..*self }
    }
}

/// A TCP connection whose unsent bytes die with it.
///
/// `SO_LINGER` of zero: closing it, also by the kernel after a SIGKILL, sends RST and drops what was not sent.
/// Otherwise the kernel delivers what its buffers hold, and a store may carry out a write minutes after its sender's
/// death. That does no harm to a finished request: its answer has come, so the store has read all of it. RST may
/// destroy bytes that the peer has received and not read, which belong to a request that was given up.
/// `TCP_USER_TIMEOUT`: bytes that the store does not acknowledge for as long as a call may stand still end the
/// connection.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) tcp: TokioIo<TcpStream>,
    pub(super) abort: AbortHandle,
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
        // In this order: an abort between the two steps would otherwise wake no task.
        self.0.task.register(cx.waker());
        if self.0.aborted.load(Ordering::Acquire) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
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
    /// Peeks at the first byte before hyper reads it.
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
