//! Endpoints whose scheme is the wrong one say so.

use copyhold_core::domain::FailureClass;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{canned::Canned, *};

const HANDSHAKE: u8 = 0x16;
/// Of TLS: a fatal failure of the handshake.
const ALERT: &[u8] = &[0x15, 3, 3, 0, 2, 2, 40];

/// A server that says `to_tls` to a handshake and `to_plain` to everything else, and closes.
async fn server(to_tls: &'static [u8], to_plain: &'static [u8]) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            let answer = if request[0] == HANDSHAKE { to_tls } else { to_plain };
            let _ = socket.write_all(answer).await;
            // Closed in order, so that the answer is read.
            let _ = socket.shutdown().await;
            let _ = socket.read(&mut request).await;
        }
    });
    address
}

async fn told(endpoint: &str) -> String {
    let error = store(endpoint).await.get(&key("k"), None, None).await.unwrap_err();
    assert_eq!((error.class(), error.reason()), (FailureClass::Misconfigured, Reason::Tls), "{error}");
    error.to_string()
}

#[tokio::test]
async fn http_where_tls_is_spoken_says_so() {
    // As a TLS server answers a client that speaks plain HTTP: with an alert, with a page, or not at all.
    for to_plain in [
        ALERT,
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 48\r\n\r\nThe plain HTTP request was sent to HTTPS port...",
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
        b"HTTP/1.1 301 Moved\r\nLocation: https://store.example/\r\nContent-Length: 0\r\n\r\n",
        b"",
    ] {
        let endpoint = format!("http://{}", server(ALERT, to_plain).await);
        let told = told(&endpoint).await;
        assert!(told.contains("it speaks TLS: write https:// in this replica's endpoint"), "{told}");
    }
}

#[tokio::test]
async fn https_where_plain_http_is_spoken_says_so() {
    let page = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for to_tls in [&b"HTTP/1.0 400 Bad Request\r\n\r\n"[..], b"<!DOCTYPE HTML>", b""] {
        let endpoint = format!("https://{}", server(to_tls, page).await);
        let told = told(&endpoint).await;
        assert!(told.contains("it speaks HTTP without TLS: write http://"), "{told}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_to_anybody_is_not_blamed_for_its_scheme() {
    for scheme in ["http", "https"] {
        let endpoint = format!("{scheme}://{}", server(b"", b"").await);
        let error = store(&endpoint).await.get(&key("k"), None, None).await.unwrap_err();
        assert_eq!(error.class(), FailureClass::Transient, "{error}");
    }
}

#[tokio::test]
async fn a_store_that_has_answered_before_is_never_asked_for_its_scheme() {
    let server = Canned::new([format!("200 OK\r\n{ETAG}Content-Length: 0\r\n\r\n"), String::new()]).await;
    let store = store(&server.endpoint).await;
    store.head(&key("k")).await.unwrap();
    assert_eq!(store.head(&key("k")).await.unwrap_err().class(), FailureClass::Transient);
    assert!(server.requests().iter().all(|request| request.line.starts_with("HEAD")), "{:?}", server.requests());
}
