//! The connections, one task each: who gets one, and what ends it. hyper serves them: `axum::serve` waits for a
//! request's head without a time limit.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::Service as _, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::connection_limit::{ConnectionLimit, ConnectionSlot};
use crate::metrics;

/// For the head of a request, and between two requests of one connection.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of a response that wait in the process for a connection, besides what the system holds for it.
const BUFFER: usize = 64 * 1024;
/// Bytes that the system may hold for a connection: left to itself it would grow to megabytes for each slow reader.
const SEND_BUFFER: u32 = 128 * 1024;
/// A peer that acknowledges nothing for so long, or has no room, is cut.
#[cfg(target_os = "linux")]
const SILENT_FOR: Duration = Duration::from_secs(30);
/// A reader that has not taken one batch in this time is cut, however busily it takes single bytes.
const BATCH_WITHIN: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The answer to a connection for which there is no room, before its request is read.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// One connection, as the handlers see it.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    pub(super) progress: ReadProgress,
}

/// How a reader keeps up.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadProgress(Arc<Mutex<Option<Instant>>>);

impl ReadProgress {
    /// The connection has been given a batch.
    pub(super) fn batch_sent(&self) {
        self.set(Some(Instant::now()));
    }

    /// The connection has room for another.
    pub(super) fn batch_requested(&self) {
        self.set(None);
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn is_stuck(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|since| since.elapsed() > BATCH_WITHIN)
    }
}

/// Opens the listening socket. Connections inherit its buffer sizes.
pub(super) fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = if listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(listen)?;
    socket.listen(1024)
}

/// Serves `router` on at most `most` connections until `end`; responses under way then are sent to their end.
pub(super) async fn serve(listener: TcpListener, router: Router, most: usize, end: &CancellationToken) {
    let limit = ConnectionLimit::new(most);
    let open = TaskTracker::new();
    loop {
        let (socket, peer) = tokio::select! {
            accepted = accept(&listener) => accepted,
            () = end.cancelled() => break,
        };
        match limit.take() {
            Some(place) => {
                open.spawn(serve_one(socket, peer, place, router.clone(), end.clone()));
            }
            None => refuse(&socket),
        }
    }
    drop(listener);
    open.close();
    open.wait().await;
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // The client closed the connection while it waited.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                warn!(error = %error, "Could not accept an HTTP connection");
                // Most likely there are no more files: some are closed meanwhile.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Tries to answer 503 before the connection is closed.
fn refuse(socket: &TcpStream) {
    metrics::connection_refused();
    if let Err(error) = socket.try_write(FULL) {
        debug!(error = %error, "Could not refuse a connection politely");
    }
}

async fn serve_one(socket: TcpStream, peer: SocketAddr, slot: ConnectionSlot, router: Router, end: CancellationToken) {
    if let Err(error) = prepare(&socket) {
        debug!(error = %error, "A connection without the usual settings");
    }
    let progress = ReadProgress::default();
    let router = TowerToHyperService::new(router);
    let answer = service_fn(|request: Request<Incoming>| {
        slot.is_used();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Connection { peer, progress: progress.clone() });
        router.call(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .keep_alive(slot.may_linger)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(socket), answer);
    let mut serving = pin!(serving);
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ending = false;
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    debug!(error = %error, "A connection has ended");
                }
                return;
            }
            () = end.cancelled(), if !ending => {
                ending = true;
                serving.as_mut().graceful_shutdown();
            }
            () = slot.must_close() => return,
            _ = look.tick() => if progress.is_stuck() {
                metrics::event_reader_ended("slow");
                return;
            }
        }
    }
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    // An event waits for no other.
    socket.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(socket).set_tcp_user_timeout(Some(SILENT_FOR))?;
    // Elsewhere it is noticed when the system has given up sending.
    #[cfg(not(target_os = "linux"))]
    SockRef::from(socket).set_keepalive(true)?;
    Ok(())
}
