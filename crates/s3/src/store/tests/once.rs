//! How often a request goes out.

use bytes::Bytes;

use super::{
    canned::{Canned, Request},
    *,
};

/// What a store that has taken the whole request does instead of refusing it; empty: it closes the connection.
const NO_REFUSALS: [&str; 4] = [
    "",
    "500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    "502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
    "408 Request Timeout\r\nContent-Length: 0\r\n\r\n",
];
const SUCCESS: &str = "200 OK\r\nETag: \"d41d8cd98f00b204e9800998ecf8427e\"\r\nContent-Length: 0\r\n\r\n";

async fn put(store: &Store) -> Result<Option<ETag>, StoreError> {
    let bytes = Bytes::from_static(b"hello");
    store.put(&key("k"), &bytes, &md5(b"hello"), &Metadata::default()).await
}

async fn part(store: &Store) -> Result<ETag, StoreError> {
    let bytes = Bytes::from_static(b"hello");
    store.upload_part(&key("k"), &UploadId::new("u1"), 1, &bytes, &md5(b"hello")).await
}

async fn complete(store: &Store) -> Result<Option<ETag>, StoreError> {
    store.complete_multipart(&key("k"), &UploadId::new("u1"), &[ETag::new("\"a\"")]).await
}

#[tokio::test]
async fn a_write_that_a_store_took_without_an_answer_is_sent_once() {
    for answer in NO_REFUSALS {
        let server = Canned::new([answer, SUCCESS]).await;
        let error = put(&store(&server.endpoint).await).await.unwrap_err();
        assert!(error.outcome_unknown(), "{answer:?}: {error}");
        assert_eq!(server.only_request().body, b"hello");
    }
}

#[tokio::test]
async fn a_part_and_a_completion_are_sent_once_too() {
    for answer in NO_REFUSALS {
        let server = Canned::new([answer, SUCCESS]).await;
        assert!(part(&store(&server.endpoint).await).await.unwrap_err().outcome_unknown(), "{answer:?}");
        assert!(server.only_request().line.contains("partNumber=1"));
        let server = Canned::new([answer, SUCCESS]).await;
        assert!(complete(&store(&server.endpoint).await).await.unwrap_err().outcome_unknown(), "{answer:?}");
        assert!(server.only_request().line.starts_with("POST "));
    }
}

#[tokio::test]
async fn what_only_reads_is_asked_once_more() {
    for answer in &NO_REFUSALS[..3] {
        let server = Canned::new([*answer, SUCCESS]).await;
        store(&server.endpoint).await.head(&key("k")).await.unwrap();
        assert_eq!(server.requests().len(), 2, "{answer:?}");
    }
}

#[tokio::test]
async fn a_write_that_finds_its_warm_connection_closed_takes_another() {
    let closing = SUCCESS.replace("Content-Length", "Connection: close\r\nContent-Length");
    let silently = "200 OK\r\nContent-Length: 0\r\nX: Connection: close\r\n\r\n".to_owned();
    for first in [closing, silently] {
        let server = Canned::new([first, SUCCESS.to_owned()]).await;
        let store = store(&server.endpoint).await;
        put(&store).await.unwrap();
        // Until the client has heard of it, or it would be a race with the write.
        server.all_closed().await;
        put(&store).await.unwrap();
        assert_eq!((server.requests().len(), server.connections()), (2, 2));
    }
}

#[tokio::test]
async fn a_wrong_clock_is_corrected_for_a_completion_too() {
    let skewed = "<Error><Code>RequestTimeTooSkewed</Code><Message>too skewed</Message></Error>";
    let date = "Date: Thu, 01 Dec 2050 16:00:00 GMT\r\n";
    let skewed = format!("403 Forbidden\r\n{date}Content-Length: {}\r\n\r\n{skewed}", skewed.len());
    let done = "<CompleteMultipartUploadResult><ETag>\"b-1\"</ETag></CompleteMultipartUploadResult>";
    let done = format!("200 OK\r\nContent-Length: {}\r\n\r\n{done}", done.len());
    let server = Canned::new([skewed, done]).await;
    assert_eq!(complete(&store(&server.endpoint).await).await.unwrap(), Some(ETag::new("\"b-1\"")));
    let dates: Vec<_> =
        server.requests().iter().map(|request: &Request| request.header("x-amz-date").unwrap().to_owned()).collect();
    assert!(dates.len() == 2 && dates[1].starts_with("20501201T16"), "{dates:?}");
}

#[tokio::test]
async fn a_part_without_an_etag_is_looked_up_in_the_list_of_parts() {
    let nameless = "200 OK\r\nContent-Length: 0\r\n\r\n".to_owned();
    let list = |part: &str| {
        let list = format!("<ListPartsResult>{part}</ListPartsResult>");
        format!("200 OK\r\nContent-Length: {}\r\n\r\n{list}", list.len())
    };
    let listed = list("<Part><PartNumber>1</PartNumber><ETag>\"abc\"</ETag><Size>5</Size></Part>");
    let server = Canned::new([nameless.clone(), listed]).await;
    assert_eq!(part(&store(&server.endpoint).await).await.unwrap(), ETag::new("\"abc\""));
    assert!(server.requests()[1].line.contains("part-number-marker=0"), "{:?}", server.requests());
    for of_no_use in ["", "<Part><PartNumber>1</PartNumber><ETag>\"abc\"</ETag><Size>6</Size></Part>"] {
        let server = Canned::new([nameless.clone(), list(of_no_use)]).await;
        let error = part(&store(&server.endpoint).await).await.unwrap_err();
        assert!(error.to_string().contains("its uploads cannot be completed"), "{error}");
    }
}
