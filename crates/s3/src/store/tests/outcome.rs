//! Which failures leave open whether a store still carries the request out.

use bytes::Bytes;

use super::{canned::Canned, *};

async fn unknown_after(endpoint: &str) -> (bool, StoreError) {
    let bytes = Bytes::from_static(b"hello");
    let put = store(endpoint).await.put(&key("k"), &bytes, &md5(b"hello"), &Metadata::default()).await;
    let error = put.unwrap_err();
    (error.outcome_unknown(), error)
}

#[tokio::test]
async fn an_answer_ends_a_request_unless_it_may_be_a_proxys() {
    let error = |code: &str| format!("<Error><Code>{code}</Code><Message>No.</Message></Error>");
    for (status, code, unknown) in [
        (301, "PermanentRedirect", false),
        (307, "TemporaryRedirect", false),
        (400, "BadDigest", false),
        (400, "RequestTimeout", false),
        (403, "AccessDenied", false),
        (404, "NoSuchBucket", false),
        (408, "", true),
        (409, "OperationAborted", false),
        (412, "PreconditionFailed", false),
        (413, "", false),
        (429, "TooManyRequests", false),
        (500, "InternalError", true),
        (500, "", true),
        (501, "NotImplemented", false),
        (502, "", true),
        (503, "SlowDown", false),
        (503, "", false),
        (504, "", true),
        (507, "InsufficientStorage", false),
        (520, "", true),
        (599, "NeverHeardOf", true),
    ] {
        let body = if code.is_empty() { String::new() } else { error(code) };
        let server = Canned::new([format!("{status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())]).await;
        let (is, why) = unknown_after(&server.endpoint).await;
        assert_eq!(is, unknown, "{status} {code}: {why}");
    }
}

#[tokio::test]
async fn no_answer_or_half_of_one_leaves_it_open() {
    for answer in ["", "200", "200 OK\r\nContent-Le", "not a status\r\n\r\n", "500 X\r\nContent-Length: 9\r\n\r\nhal"] {
        let server = Canned::closing(answer).await;
        let (unknown, why) = unknown_after(&server.endpoint).await;
        assert!(unknown, "{answer:?}: {why}");
    }
}

#[tokio::test]
async fn a_success_that_cannot_be_read_leaves_it_open() {
    for body in ["<html>Welcome</html>", "no XML at all"] {
        let server = Canned::new([format!("200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())]).await;
        let store = store(&server.endpoint).await;
        let error = store.complete_multipart(&key("k"), &UploadId::new("u"), &[ETag::new("\"a\"")]).await.unwrap_err();
        assert!(error.outcome_unknown(), "{body}: {error}");
    }
}

#[tokio::test]
async fn what_found_no_connection_was_not_sent() {
    let server = Canned::new(["200 OK\r\nContent-Length: 0\r\n\r\n"]).await;
    let (plain, tls) = (server.endpoint.clone(), server.endpoint.replace("http:", "https:"));
    let (unknown, why) = unknown_after(&tls).await;
    assert_eq!((unknown, why.reason()), (false, Reason::Tls), "{why}");
    server.stop().await;
    let (unknown, why) = unknown_after(&plain).await;
    assert_eq!((unknown, why.reason()), (false, Reason::Unreachable), "{why}");
    let (unknown, why) = unknown_after("http://nowhere.invalid:9").await;
    assert_eq!((unknown, why.reason()), (false, Reason::Unreachable), "{why}");
    assert!(why.to_string().contains("its name does not resolve"), "{why}");
}

#[tokio::test]
async fn tls_that_does_not_come_about_in_time_is_a_connection_that_did_not() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", silent.local_addr().unwrap());
    let taken = async {
        let (socket, _) = silent.accept().await.unwrap();
        // From here on time passes as soon as every task waits.
        tokio::time::pause();
        socket
    };
    let (_socket, (unknown, why)) = tokio::join!(taken, unknown_after(&endpoint));
    assert_eq!((unknown, why.reason()), (false, Reason::Stalled), "{why}");
}

#[tokio::test]
async fn what_cannot_be_sent_at_all_was_not_sent() {
    let metadata = Metadata { content_type: Some("text\nplain".into()), ..Metadata::default() };
    let bytes = Bytes::from_static(b"hello");
    let store = store("http://127.0.0.1:9").await;
    let error = store.put(&key("k"), &bytes, &md5(b"hello"), &metadata).await.unwrap_err();
    assert!(!error.outcome_unknown() && error.reason() == Reason::Refused, "{error}");
}
