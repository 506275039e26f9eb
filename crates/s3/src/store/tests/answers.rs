//! What answers lead to, from servers that are none of S3's best.

use copyhold_core::domain::FailureClass;

use super::{canned::Canned, *};

async fn head_of(answer: impl Into<Vec<u8>>) -> Result<Head, StoreError> {
    let server = Canned::new([answer]).await;
    store(&server.endpoint).await.head(&key("k")).await
}

async fn get_of(answer: impl Into<Vec<u8>>) -> Result<GetResponse, StoreError> {
    let server = Canned::new([answer]).await;
    store(&server.endpoint).await.get(&key("k"), Some(0..10), None).await
}

fn with_body(status: &str, body: &str) -> String {
    format!("{status}\r\nx-amz-request-id: R1\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn an_error_is_told_with_status_code_and_request() {
    let body = "<Error><Code>AccessDenied</Code><Message>No.</Message></Error>";
    let error = get_of(with_body("403 Forbidden", body)).await.unwrap_err();
    assert_eq!(error.to_string(), "GetObject: 403 AccessDenied (request R1): No.");
    assert_eq!(error.class(), FailureClass::Denied);
}

#[tokio::test]
async fn a_web_page_is_no_object_and_told_as_what_it_is() {
    let error = get_of(with_body("503 Busy", "<html><body>nginx</body></html>")).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Throttled);
    assert!(error.to_string().ends_with("an HTML page instead of an answer of S3"), "{error}");
}

#[tokio::test]
async fn a_success_in_html_is_no_success() {
    let server = Canned::new([with_body("200 OK", "<html>Welcome</html>")]).await;
    let error = store(&server.endpoint).await.create_multipart(&key("k"), &Metadata::default()).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Transient, "{error}");
}

#[tokio::test]
async fn an_error_inside_a_success_is_an_error() {
    let body = "<?xml version=\"1.0\"?>\n<Error><Code>InternalError</Code><Message>We failed.</Message></Error>";
    let server = Canned::new([with_body("200 OK", body)]).await;
    let store = store(&server.endpoint).await;
    let upload = UploadId::new("u1");
    let error = store.complete_multipart(&key("k"), &upload, &[ETag::new("\"a\"")]).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Transient);
    assert!(error.to_string().contains("InternalError"), "{error}");
}

#[tokio::test]
async fn a_redirect_names_the_region() {
    let body = "<Error><Code>PermanentRedirect</Code><Endpoint>x.s3.eu-west-1.amazonaws.com</Endpoint></Error>";
    let answer = with_body("301 Moved Permanently\r\nx-amz-bucket-region: eu-west-1", body);
    let error = get_of(answer).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Misconfigured);
    assert!(error.to_string().contains("the bucket is in region eu-west-1"), "{error}");
    let error = head_of("301 Moved Permanently\r\nx-amz-bucket-region: eu-west-1\r\nContent-Length: 0\r\n\r\n").await;
    assert!(error.unwrap_err().to_string().contains("the bucket is in region eu-west-1"));
}

#[tokio::test]
async fn a_range_that_was_not_asked_for_is_not_read() {
    for range in ["bytes 1-10/100", "bytes 0-9/*", "nonsense"] {
        let answer = format!("206 Partial Content\r\nContent-Range: {range}\r\nContent-Length: 10\r\n\r\n0123456789");
        assert_eq!(get_of(answer).await.unwrap_err().class(), FailureClass::Transient, "{range}");
    }
    let whole = "200 OK\r\nContent-Length: 11\r\n\r\n01234567890";
    assert!(get_of(whole).await.unwrap_err().to_string().contains("does not answer ranges"));
    assert_eq!(get_of(format!("200 OK\r\n{ETAG}Content-Length: 3\r\n\r\n012")).await.unwrap().head.size_bytes, 3);
}

#[tokio::test]
async fn an_answer_that_nothing_shows_to_be_an_object_is_not_read() {
    // As Garage lists the bucket for the key "/", and as a captive portal answers everything.
    for body in ["<?xml version=\"1.0\"?><ListBucketResult/>", "<html>Welcome</html>"] {
        let server = Canned::new([with_body("200 OK", body)]).await;
        let error = store(&server.endpoint).await.get(&key("/"), Some(0..1_000), None).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "GetObject: an answer with neither ETag nor Last-Modified is no object (does the endpoint speak S3?)"
        );
        assert_eq!(error.class(), FailureClass::Transient);
    }
    let dated = "200 OK\r\nLast-Modified: Thu, 01 Dec 1994 16:00:00 GMT\r\nContent-Length: 3\r\n\r\n012";
    assert_eq!(get_of(dated).await.unwrap().head.size_bytes, 3);
}

#[tokio::test]
async fn a_body_without_a_length_is_not_believed() {
    let chunked = "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(get_of(chunked).await.unwrap_err().class(), FailureClass::Transient);
}

#[tokio::test]
async fn a_header_that_is_no_text_is_refused_by_its_name() {
    for name in ["x-amz-meta-city", "Content-Type", "Expires", "Content-Disposition"] {
        let mut answer = format!("200 OK\r\n{ETAG}{name}: Z").into_bytes();
        answer.extend(b"\xfcrich\r\nContent-Length: 0\r\n\r\n");
        let told = match head_of(answer).await {
            Err(error) => {
                assert_eq!(error.class(), FailureClass::Refused, "{error}");
                error.to_string()
            }
            // What cannot be read is replaced by what cannot be carried.
            Ok(head) => head.metadata.unfit().expect("an unfit header"),
        };
        assert!(told.contains(&name.to_ascii_lowercase()), "{told}");
    }
}

#[tokio::test]
async fn metadata_that_the_store_withholds_is_missed() {
    let error = head_of("200 OK\r\nx-amz-missing-meta: 2\r\nContent-Length: 0\r\n\r\n").await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Refused);
}

#[tokio::test]
async fn an_encrypted_objects_etag_is_no_md5() {
    let head = |kind: &str| {
        head_of(format!("200 OK\r\n{ETAG}x-amz-server-side-encryption: {kind}\r\nContent-Length: 0\r\n\r\n"))
    };
    assert!(head("aws:kms").await.unwrap().encrypted);
    assert!(!head("AES256").await.unwrap().encrypted);
}

#[tokio::test]
async fn a_plain_server_behind_https_is_a_matter_of_configuration() {
    let server = Canned::new(["200 OK\r\nContent-Length: 0\r\n\r\n"]).await;
    let https = server.endpoint.replace("http:", "https:");
    let error = store(&https).await.head(&key("k")).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Misconfigured, "{error}");
    assert!(error.to_string().contains(&format!("no secure connection to {https}")), "{error}");
}

#[tokio::test]
async fn a_closed_port_is_told_in_words() {
    let server = Canned::new(["200 OK\r\n\r\n"]).await;
    let endpoint = server.endpoint.clone();
    let store = store(&endpoint).await;
    server.stop().await;
    let error = store.head(&key("k")).await.unwrap_err();
    assert_eq!(error.to_string(), format!("HeadObject: cannot reach {endpoint}: connection refused"));
    assert_eq!(error.class(), FailureClass::Transient);
}

const OBJECTS: &str =
    "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>1</Size></Contents>";

async fn listed_from(bodies: &[&str]) -> Result<ListPage, StoreError> {
    let server = Canned::new(bodies.iter().map(|body| with_body("200 OK", body))).await;
    store(&server.endpoint).await.list(ListQuery { prefix: "", delimiter: None }, &ListPosition::First).await
}

#[tokio::test]
async fn what_is_no_whole_listing_says_nothing_of_a_bucket() {
    for (body, says) in [
        ("", "is empty"),
        ("<html><body>Please sign in</body></html>", "is a <html>"),
        ("<ListAllMyBucketsResult/>", "is a <ListAllMyBucketsResult>"),
        ("<Error><Code>InternalError</Code></Error>", "is a <Error>"),
        (OBJECTS, "ends in the middle"),
        ("<ListBucketResult></ListBucketResult>", "neither IsTruncated"),
    ] {
        let error = listed_from(&[body]).await.unwrap_err();
        assert_eq!(
            (error.class(), error.reason()),
            (FailureClass::Transient, Reason::NotUnderstood),
            "{body}: {error}"
        );
        assert!(
            error.to_string().starts_with("ListObjectsV2: 200: the answer") && error.to_string().contains(says),
            "{error}"
        );
        // Nor that it is empty, nor that the store is well, nor that an upload is gone or goes on.
        let server = Canned::new([with_body("200 OK", body)]).await;
        let store = store(&server.endpoint).await;
        let errors = [
            store.first_key().await.map(drop),
            store.check_list().await,
            store.list_uploads("k").await.map(drop),
            store.upload_exists(&key("k"), &UploadId::new("u")).await.map(drop),
        ];
        for error in errors {
            assert_eq!(error.unwrap_err().reason(), Reason::NotUnderstood, "{body}");
        }
        assert!(store.keeps_versions().await, "what is not known is taken for the worse");
    }
    let nameless = format!("{OBJECTS}<Contents><Size>1</Size></Contents></ListBucketResult>");
    let error = listed_from(&[&nameless]).await.unwrap_err();
    assert!(error.to_string().contains("an entry of the listing has no name"), "{error}");
}

#[tokio::test]
async fn a_listing_without_an_end_is_not_read_for_ever() {
    let endless = format!("<ListBucketResult><!--{}-->", "x".repeat(9 << 20));
    let error = listed_from(&[&endless]).await.unwrap_err();
    assert_eq!(error.reason(), Reason::NotUnderstood);
    assert!(error.to_string().contains("more than 8 MiB"), "{error}");
}

#[tokio::test]
async fn a_token_means_that_there_is_more() {
    let page = |flag: &str, objects: &str, token: &str| {
        let flag = if flag.is_empty() { String::new() } else { format!("<IsTruncated>{flag}</IsTruncated>") };
        let token = format!("<NextContinuationToken>{token}</NextContinuationToken>");
        format!("<ListBucketResult>{flag}{objects}{token}</ListBucketResult>")
    };
    let one = "<Contents><Key>a</Key><Size>1</Size></Contents>";
    for (flag, objects, token, more) in [
        ("true", one, "t", true),
        ("true", "", "t", true),
        ("", one, "t", true),
        ("", "", "t", true),
        ("false", one, "t", true),
        // It would lead round and round.
        ("false", "", "t", false),
        ("false", one, "", false),
    ] {
        let page = listed_from(&[&page(flag, objects, token)]).await.unwrap();
        assert_eq!(page.truncated, more, "{flag} {objects} {token}");
    }
}

#[tokio::test]
async fn a_bucket_is_not_empty_because_its_first_page_is() {
    let more = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>";
    let last = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
    let whole = format!("{OBJECTS}</ListBucketResult>");
    let first = async |bodies: &[&str]| {
        let server = Canned::new(bodies.iter().map(|body| with_body("200 OK", body))).await;
        store(&server.endpoint).await.first_key().await
    };
    assert_eq!(first(&[more, &whole]).await.unwrap().as_deref(), Some("a"));
    assert_eq!(first(&[more, last]).await.unwrap(), None);
    let error = first(&[more]).await.unwrap_err();
    assert!(error.to_string().contains("whether the bucket is empty is not known"), "{error}");
}
