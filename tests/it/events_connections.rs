//! However many clients connect, and however they behave, a daemon answers health checks and shuts down on request.

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::{
    harness::{Begin, DaemonProcess, Harness, eventually, soon},
    http::{Http, append, bearer, settings},
};

const LINES: &str = "/v1/events?kinds=test.tick&format=ndjson";

async fn harness(more: &str) -> (Harness, DaemonProcess, Http) {
    let harness = Harness::with(Begin::Migrated, &settings(more)).await;
    let daemon = harness.daemon().await;
    let http = Http::of(&harness, &daemon).await;
    (harness, daemon, http)
}

#[tokio::test]
async fn readers_above_the_limit_are_told_to_come_back_later() {
    let (_harness, _daemon, http) = harness("[events]\nreaders = 2\n").await;
    let first = http.read(LINES).await;
    let _second = http.read(LINES).await;
    let refused = http.read(LINES).await;
    assert_eq!(refused.status, 503);
    let pause: u64 = refused.header("retry-after").parse().unwrap();
    assert!((5..=15).contains(&pause));
    // Its connection makes room at once for a client that can be served.
    assert_eq!(refused.header("connection"), "close");
    assert!(refused.json().await["error"].as_str().unwrap().contains("events.readers"));
    drop(first);
    eventually("a place is free again", async || http.read(LINES).await.status == 200).await;
}

#[tokio::test]
async fn silent_connections_lock_no_client_out_and_are_closed() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    // Up to 1025 connections, then.
    let (harness, _daemon, http) = harness("[events]\nreaders = 1\n").await;
    let mut reader = http.read(LINES).await;
    let mut silent = Vec::new();
    for _ in 0..1500 {
        silent.push(TcpStream::connect(http.0).await.unwrap());
    }
    for page in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(http.read(page).await.status, 200, "{page}");
    }
    // The oldest made room for the latest; and these are given up after a while too.
    for mut connection in [silent.remove(0), silent.pop().unwrap()] {
        let read = soon("a silent connection is closed", connection.read(&mut [0; 16])).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    // A client that has sent a request keeps its connection.
    append(&harness, 1, 1).await;
    assert_eq!(reader.numbers(1).await, [1]);
}

/// Asks for all events and reads nothing.
async fn deaf(http: Http) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(http.0).await.unwrap();
    let request = format!("GET {LINES}&after=0 HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\n\r\n", http.0, bearer());
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// More than all buffers on the way hold.
async fn append_much(harness: &Harness) {
    harness
        .execute(
            "SELECT copyhold.append_log(ARRAY(
                 SELECT jsonb_build_object('kind', 'test.tick', 'n', n, 'text', repeat('x', 60000))
                 FROM generate_series(1, 200) n ORDER BY n))",
        )
        .await;
}

async fn readers(http: Http) -> Option<String> {
    let mut metrics = http.read("/metrics").await;
    while let Some(line) = metrics.line().await {
        if let Some(count) = line.strip_prefix("copyhold_event_readers ") {
            return Some(count.to_owned());
        }
    }
    None
}

#[tokio::test]
async fn a_reader_that_never_reads_is_cut_and_delays_no_other() {
    let (harness, _daemon, http) = harness("").await;
    append_much(&harness).await;
    let _deaf = deaf(http).await;
    eventually("it is a reader", async || readers(http).await.as_deref() == Some("1")).await;
    let mut other = http.read(&format!("{LINES}&after=0")).await;
    assert_eq!(other.numbers(200).await, (1..=200).collect::<Vec<_>>());
    drop(other);
    eventually("no reader is left", async || readers(http).await.as_deref() == Some("0")).await;
}

#[tokio::test]
async fn a_reader_that_never_reads_does_not_hold_up_the_end() {
    let (harness, mut daemon, http) = harness("").await;
    append_much(&harness).await;
    let _deaf = deaf(http).await;
    eventually("it is a reader", async || readers(http).await.as_deref() == Some("1")).await;
    let mut other = http.read(LINES).await;
    daemon.signal(Signal::TERM);
    assert!(other.event().await.is_none());
    assert_eq!(daemon.exit_code().await, Some(0));
}
