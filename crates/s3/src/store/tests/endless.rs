//! Stores that never stop talking: what is read of them is bounded, and the connection is closed.

use copyhold_core::domain::FailureClass;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::oneshot,
};

use super::*;

/// More than is read of an answer, with what the sockets hold.
const BOUND: usize = 32 << 20;

/// A server that answers one request with `head`, and then with `piece` until the client closes. How many bytes it
/// could send.
async fn endless(head: &'static str, piece: Vec<u8>) -> (Store, oneshot::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = store(&format!("http://{}", listener.local_addr().unwrap())).await;
    let (told, sent) = oneshot::channel();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = socket.read(&mut request).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut sent = 0;
        while sent <= 2 * BOUND && socket.write_all(&piece).await.is_ok() {
            sent += piece.len();
        }
        let _ = told.send(sent);
        // The SDK may ask a second time.
        while let Ok((mut again, _)) = listener.accept().await {
            let _ = again.read(&mut request).await;
            let _ = again.write_all(head.as_bytes()).await;
            for _ in 0..160 {
                let _ = again.write_all(&piece).await;
            }
        }
    });
    (store, sent)
}

fn chunk(text: &str) -> Vec<u8> {
    let body = text.repeat((1 << 16) / text.len());
    format!("{:x}\r\n{body}\r\n", body.len()).into_bytes()
}

#[tokio::test]
async fn an_error_without_end_is_what_its_status_says_and_takes_no_memory() {
    for (head, class) in [
        ("HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n", FailureClass::Denied),
        ("HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n", FailureClass::Throttled),
        ("HTTP/1.1 507 Full\r\nTransfer-Encoding: chunked\r\n\r\n", FailureClass::Full),
    ] {
        let (store, sent) = endless(head, chunk("a")).await;
        let error = store.get(&key("k"), None, None).await.unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        assert!(error.to_string().len() < 600, "{error}");
        assert!(sent.await.unwrap() < BOUND, "{head}");
    }
    let (store, sent) = endless("HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n", chunk("<Error>")).await;
    let put = store.put(&key("k"), &bytes::Bytes::new(), &md5(b""), &Metadata::default()).await;
    assert_eq!(put.unwrap_err().class(), FailureClass::Denied);
    assert!(sent.await.unwrap() < BOUND);
}

#[tokio::test]
async fn a_success_without_end_is_no_answer_of_s3() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (listing, sent) = endless(head, chunk("<Contents></Contents>")).await;
    let error = listing.check_list().await.unwrap_err();
    assert!(error.to_string().contains("more than 8 MiB"), "{error}");
    assert!(sent.await.unwrap() < BOUND);

    let (completing, sent) = endless(head, chunk(" ")).await;
    let upload = UploadId::new("u");
    let error = completing.complete_multipart(&key("k"), &upload, &[ETag::new("\"a\"")]).await.unwrap_err();
    assert!(error.to_string().contains("more than 1 MiB") && error.outcome_unknown(), "{error}");
    assert!(sent.await.unwrap() < BOUND);

    let (putting, sent) = endless(head, chunk("a")).await;
    let put = putting.put(&key("k"), &bytes::Bytes::new(), &md5(b""), &Metadata::default()).await;
    assert!(put.unwrap_err().outcome_unknown());
    assert!(sent.await.unwrap() < BOUND);
}

#[tokio::test]
async fn headers_without_end_are_bounded() {
    let (store, sent) =
        endless("HTTP/1.1 200 OK\r\n", b"x-amz-meta-a: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(1_000))
            .await;
    let error = store.head(&key("k")).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Refused, "{error}");
    assert!(sent.await.unwrap() < BOUND);
}

#[tokio::test]
async fn words_before_the_answer_are_passed_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = store(&format!("http://{}", listener.local_addr().unwrap())).await;
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = socket.read(&mut request).await.unwrap();
        socket.write_all(&b"HTTP/1.1 100 Continue\r\n\r\n".repeat(5_000)).await.unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\n{ETAG}Content-Length: 0\r\n\r\n");
        socket.write_all(answer.as_bytes()).await.unwrap();
        let _ = socket.read(&mut request).await;
    });
    assert!(store.head(&key("k")).await.unwrap().etag.is_some());
}

#[tokio::test]
async fn a_compressed_error_is_not_unpacked() {
    let (store, _) =
        endless("HTTP/1.1 403 Forbidden\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", {
            let mut piece = b"10000\r\n\x1f\x8b".to_vec();
            piece.extend(vec![0; 0xfffe]);
            piece.extend(b"\r\n");
            piece
        })
        .await;
    let error = store.get(&key("k"), None, None).await.unwrap_err();
    assert_eq!(error.to_string(), "GetObject: 403: a compressed answer, which is not read");
}
