//! What is sent.

use bytes::Bytes;

use super::{canned::Canned, *};

fn stored() -> String {
    format!("200 OK\r\n{ETAG}Content-Length: 0\r\n\r\n")
}

#[tokio::test]
async fn a_put_carries_its_md5_and_nothing_that_a_store_might_refuse() {
    let server = Canned::new([stored()]).await;
    let bytes = Bytes::from_static(b"hello");
    store(&server.endpoint).await.put(&key("a b"), &bytes, &md5(b"hello"), &Metadata::default()).await.unwrap();
    let put = server.only_request();
    assert_eq!(put.line, "PUT /photos/a%20b?x-id=PutObject HTTP/1.1");
    assert_eq!(put.body, b"hello");
    assert_eq!(put.header("content-md5"), Some("XUFAKrxLKna5cZ2REBfFkg=="));
    assert_eq!(put.header("content-length"), Some("5"));
    assert_eq!(put.header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
    let refused = ["checksum", "acl", "storage-class", "trailer", "expect", "transfer-encoding", "content-encoding"];
    for (name, _) in &put.headers {
        assert!(!refused.iter().any(|word| name.contains(word)), "{name}");
    }
}

#[tokio::test]
async fn bytes_are_asked_for_as_they_are_stored_which_no_signature_depends_on() {
    let server = Canned::new([stored()]).await;
    store(&server.endpoint).await.get(&key("k"), None, None).await.unwrap();
    let get = server.only_request();
    assert_eq!(get.header("accept-encoding"), Some("identity"));
    assert!(!get.header("authorization").unwrap().contains("accept-encoding"), "{get:?}");
}

#[tokio::test]
async fn an_empty_put_says_that_it_is_empty() {
    let server = Canned::new([stored()]).await;
    store(&server.endpoint).await.put(&key("k"), &Bytes::new(), &md5(b""), &Metadata::default()).await.unwrap();
    let put = server.only_request();
    assert_eq!((put.header("content-length"), put.header("transfer-encoding")), (Some("0"), None));
}

#[tokio::test]
async fn expires_is_sent_in_the_words_of_the_source_and_signed() {
    let server = Canned::new([stored()]).await;
    let metadata = Metadata { expires: Some("next Tuesday, perhaps".into()), ..Metadata::default() };
    store(&server.endpoint).await.put(&key("k"), &Bytes::new(), &md5(b""), &metadata).await.unwrap();
    let put = server.only_request();
    assert_eq!(put.header("expires"), Some("next Tuesday, perhaps"));
    assert!(put.header("authorization").unwrap().contains("content-type;expires;host"), "{put:?}");
}

#[tokio::test]
async fn a_storage_class_is_sent_only_if_configured() {
    let server = Canned::new([stored()]).await;
    let replica = settings::StoreSettings { storage_class: Some("STANDARD_IA".into()), ..replica(&server.endpoint) };
    let store = Store::connect(&replica, 1).await.unwrap();
    store.put(&key("k"), &Bytes::new(), &md5(b""), &Metadata::default()).await.unwrap();
    assert_eq!(server.only_request().header("x-amz-storage-class"), Some("STANDARD_IA"));
}

#[tokio::test]
async fn a_part_carries_its_md5_too() {
    let created = "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>";
    let created = format!("200 OK\r\nContent-Length: {}\r\n\r\n{created}", created.len());
    let server = Canned::new([created, stored()]).await;
    let store = store(&server.endpoint).await;
    let upload = store.create_multipart(&key("k"), &Metadata::default()).await.unwrap();
    let bytes = Bytes::from_static(b"hello");
    store.upload_part(&key("k"), &upload, 7, &bytes, &md5(b"hello")).await.unwrap();
    let [create, part] = &server.requests()[..] else { panic!("{:?}", server.requests()) };
    assert_eq!(create.line, "POST /photos/k?uploads HTTP/1.1");
    assert_eq!(part.line, "PUT /photos/k?x-id=UploadPart&partNumber=7&uploadId=u1 HTTP/1.1");
    assert_eq!(part.header("content-md5"), Some("XUFAKrxLKna5cZ2REBfFkg=="));
    assert_eq!(part.header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
    for (name, _) in create.headers.iter().chain(&part.headers) {
        assert!(!name.contains("checksum") && !name.contains("acl"), "{name}");
    }
}

#[tokio::test]
async fn a_get_asks_for_the_range_and_for_no_checksums() {
    let answer = format!("206 Partial Content\r\n{ETAG}Content-Range: bytes 5-9/10\r\nContent-Length: 5\r\n\r\nworld");
    let server = Canned::new([answer]).await;
    let etag = ETag::new("\"abc\"");
    let get = store(&server.endpoint).await.get(&key("k"), Some(5..10), Some(&etag)).await.unwrap();
    assert_eq!((get.head.size_bytes, get.body.announced()), (10, 5));
    let request = server.only_request();
    assert_eq!((request.header("range"), request.header("if-match")), (Some("bytes=5-9"), Some("\"abc\"")));
    assert_eq!(request.header("x-amz-checksum-mode"), None);
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let server = Canned::new(["200 OK\r\nContent-Length: 0\r\n\r\n"]).await;
    let store = store(&server.endpoint).await;
    for _ in 0..3 {
        store.head(&key("k")).await.unwrap();
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_wrong_clock_is_corrected_and_the_request_repeated() {
    let skewed = "<Error><Code>RequestTimeTooSkewed</Code><Message>too skewed</Message></Error>";
    let date = "Date: Thu, 01 Dec 2050 16:00:00 GMT\r\n";
    let skewed = format!("403 Forbidden\r\n{date}Content-Length: {}\r\n\r\n{skewed}", skewed.len());
    let server = Canned::new([skewed, stored()]).await;
    let bytes = Bytes::from_static(b"hello");
    store(&server.endpoint).await.put(&key("k"), &bytes, &md5(b"hello"), &Metadata::default()).await.unwrap();
    let [first, second] = &server.requests()[..] else { panic!("{:?}", server.requests()) };
    assert!(!first.header("x-amz-date").unwrap().starts_with("2050"));
    assert!(second.header("x-amz-date").unwrap().starts_with("20501201T16"), "{second:?}");
    assert_eq!(second.body, b"hello");
}
