//! Answers that hold something odd: what does not matter fails no call, and what does refuses the object by name.

use copyhold_core::domain::{FailureClass, NotCarried};

use super::{canned::Canned, *};

/// The head of an object whose answer has these header lines besides.
async fn head_with(lines: impl AsRef<[u8]>) -> Result<Head, StoreError> {
    let mut answer =
        format!("206 Partial Content\r\n{ETAG}Content-Range: bytes 0-2/3\r\nContent-Length: 3\r\n").into_bytes();
    answer.extend(lines.as_ref());
    answer.extend(b"\r\n\r\nabc");
    let server = Canned::new([answer]).await;
    Ok(store(&server.endpoint).await.get(&key("k"), Some(0..10), None).await?.head)
}

#[tokio::test]
async fn no_header_that_a_copy_does_not_need_makes_an_object_unreadable() {
    for lines in [
        "Last-Modified: 2024-01-01T00:00:00.000Z",
        "Last-Modified: Mon, 1 Jan 2024 00:00:00 UTC",
        "Last-Modified: never",
        "Last-Modified:",
        "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nLast-Modified: Tue, 02 Jan 2024 00:00:00 GMT",
        "Date: yesterday",
        "Expires: 5d",
        "x-amz-delete-marker: False",
        "x-amz-server-side-encryption-bucket-key-enabled: True",
        "x-amz-mp-parts-count: many",
        "x-amz-tagging-count: 1, 2",
        "x-amz-tagging-count: -1",
        "x-amz-missing-meta:",
        "x-amz-missing-meta: 00",
        "x-amz-object-lock-retain-until-date: 2030-01-01",
        "x-amz-object-lock-legal-hold: off",
        "x-amz-object-lock-mode: None",
        "x-amz-server-side-encryption:",
        "x-amz-restore: 1\r\nx-amz-restore: 2",
        "x-amz-expiration: 1\r\nx-amz-expiration: 2",
        "x-amz-version-id: 1\r\nx-amz-version-id: 2",
        "x-amz-checksum-crc32: nonsense!\r\nx-amz-checksum-crc32: more",
        "x-amz-storage-class: A\r\nx-amz-storage-class: B",
        "Accept-Ranges: bytes\r\nAccept-Ranges: none",
        "x-amz-request-id: 1\r\nx-amz-request-id: 2",
        "Content-Length: 3",
        "Set-Cookie: a=1\r\nSet-Cookie: b=2",
    ] {
        let head = head_with(lines).await.unwrap_or_else(|error| panic!("{lines}: {error}"));
        assert_eq!((head.size_bytes, head.encrypted, head.metadata.unfit()), (3, false, None), "{lines}");
    }
    let unreadable = head_with(b"x-amz-expiration: Z\xfcrich\r\nLast-Modified: \xff\r\nx-amz-restore: \xff").await;
    assert_eq!(unreadable.unwrap().last_modified, None);
}

#[tokio::test]
async fn a_date_in_an_odd_form_is_still_that_date() {
    let at = |text: &str| head_with(format!("Last-Modified: {text}"));
    let usual = at("Mon, 01 Jan 2024 00:00:00 GMT").await.unwrap().last_modified;
    for odd in ["2024-01-01T00:00:00Z", "Monday, 01-Jan-24 00:00:00 GMT", "1704067200"] {
        assert_eq!(at(odd).await.unwrap().last_modified, usual, "{odd}");
    }
}

#[tokio::test]
async fn what_an_object_has_besides_is_seen_however_it_is_counted() {
    assert_eq!(head_with("x-amz-tagging-count: 1, 2").await.unwrap().not_carried, [NotCarried::Tags]);
    assert_eq!(head_with("x-amz-object-lock-legal-hold: on").await.unwrap().not_carried, [NotCarried::LegalHold]);
    let error = head_with("x-amz-missing-meta: some").await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Refused, "{error}");
}

#[tokio::test]
async fn metadata_that_comes_in_several_lines_is_one_value_or_refuses_the_object_by_name() {
    let of = |lines: &'static str| async move { head_with(lines).await.unwrap().metadata };
    assert_eq!(of("x-amz-meta-a: 1\r\nx-amz-meta-a: 2").await.user["a"], "1,2");
    let both = of("Content-Language: de\r\nContent-Language: fr\r\nCache-Control: a\r\nCache-Control: b").await;
    assert_eq!((both.content_language.as_deref(), both.cache_control.as_deref()), (Some("de, fr"), Some("a, b")));
    assert_eq!(of("Content-Type: a/b\r\nContent-Type: a/b").await.content_type.as_deref(), Some("a/b"));
    for name in ["Content-Type", "Content-Disposition", "Expires"] {
        let head = head_with(format!("{name}: a\r\n{name}: b")).await.unwrap();
        let why = head.metadata.unfit().expect("it is unclear which");
        assert!(why.starts_with(&name.to_ascii_lowercase()) && why.contains("different values"), "{why}");
    }
}

#[tokio::test]
async fn an_object_with_some_hundred_headers_is_read_and_one_with_thousands_is_refused_by_itself() {
    let lines = |n: usize| (0..n).map(|i| format!("x-amz-meta-{i}: v")).collect::<Vec<_>>().join("\r\n");
    assert_eq!(head_with(lines(900)).await.unwrap().metadata.user.len(), 900);
    let error = head_with(lines(3_000)).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Refused, "{error}");
    assert!(error.to_string().contains("more than 1000 headers"), "{error}");
}

#[tokio::test]
async fn a_header_that_http_does_not_allow_is_passed_over_unless_it_travels_with_the_object() {
    for harmless in ["x-served-by: a\x01b", "X Served By: me", "x-amz-expiration: \x7f", "nonsense"] {
        let head = head_with(harmless).await.unwrap_or_else(|error| panic!("{harmless:?}: {error}"));
        assert_eq!(head.metadata.unfit(), None, "{harmless:?}");
    }
    for line in ["x-amz-meta-a: \x01", "Content-Type: a\x7fb", "x-amz-meta-a : b", "Cache-Control: a\r\n b"] {
        let head = head_with(line).await.unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let why = head.metadata.unfit().expect("it is lost");
        let name = line.split([':', ' ']).next().unwrap().to_ascii_lowercase();
        assert!(why.starts_with(&format!("{name} is no text")), "{line:?}: {why}");
    }
    let error = head_with("x-amz-meta-\u{fc}: b").await.unwrap_err();
    assert!(error.to_string().contains("withholds metadata that no header can carry"), "{error}");
    // Of the next answer over the same connection nothing is left out.
    let lost = format!("200 OK\r\n{ETAG}x-amz-meta-a: \x01\r\nContent-Length: 0\r\n\r\n");
    let server = Canned::new([lost, format!("200 OK\r\n{ETAG}Content-Length: 0\r\n\r\n")]).await;
    let store = store(&server.endpoint).await;
    assert!(store.head(&key("k")).await.unwrap().metadata.unfit().is_some());
    assert_eq!(store.head(&key("k")).await.unwrap().metadata.unfit(), None);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn one_odd_value_does_not_hide_a_whole_listing() {
    let objects = "<Contents><Key>a</Key><Size>x</Size><LastModified>Mon, 1 Jan 2024 00:00:00 UTC</LastModified></Contents>\
                   <Contents><Key>b</Key><Size> 7 </Size><LastModified>never</LastModified></Contents>\
                   <Contents><Key>c</Key><LastModified/><Size/></Contents>";
    let body = format!(
        "<ListBucketResult><KeyCount>three</KeyCount><MaxKeys/><IsTruncated>False</IsTruncated>{objects}</ListBucketResult>"
    );
    let server = Canned::new([format!("200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())]).await;
    let page = store(&server.endpoint)
        .await
        .list(ListQuery { prefix: "", delimiter: None }, &ListPosition::First)
        .await
        .unwrap();
    let shown: Vec<_> = page.objects.iter().map(|object| (object.size_bytes, object.last_modified.is_some())).collect();
    assert_eq!((page.truncated, shown), (false, vec![(None, true), (Some(7), false), (None, false)]));

    let upload = "<Upload><Key>k</Key><UploadId>u</UploadId><Initiated>soon</Initiated></Upload>";
    let body = format!("<ListMultipartUploadsResult><IsTruncated>0</IsTruncated>{upload}</ListMultipartUploadsResult>");
    let server = Canned::new([format!("200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())]).await;
    let uploads = store(&server.endpoint).await.list_uploads("k").await.unwrap();
    assert_eq!((uploads.len(), uploads[0].initiated), (1, None));
}

#[tokio::test]
async fn whether_a_listing_is_all_there_is_must_be_readable() {
    let body = "<ListBucketResult><IsTruncated>perhaps</IsTruncated></ListBucketResult>";
    let server = Canned::new([format!("200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())]).await;
    let error = store(&server.endpoint).await.check_list().await.unwrap_err();
    assert!(error.to_string().contains("neither IsTruncated nor"), "{error}");
}

#[tokio::test]
async fn a_key_of_white_space_is_sent_as_it_is() {
    for (odd, path) in [(" ", "/photos/%20"), ("\t\n", "/photos/%09%0A"), ("\u{2028}", "/photos/%E2%80%A8")] {
        let server = Canned::new([format!("200 OK\r\n{ETAG}Content-Length: 0\r\n\r\n")]).await;
        let store = store(&server.endpoint).await;
        store.head(&key(odd)).await.unwrap();
        store.put(&key(odd), &bytes::Bytes::new(), &md5(b""), &Metadata::default()).await.unwrap();
        for request in server.requests() {
            let sent = request.line.split(' ').nth(1).unwrap();
            assert_eq!(sent.split('?').next(), Some(path), "{odd:?}");
        }
    }
}

#[tokio::test]
async fn a_request_without_a_body_says_so() {
    let body = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
    let server = Canned::new([format!("200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())]).await;
    store(&server.endpoint).await.create_multipart(&key("k"), &Metadata::default()).await.unwrap();
    assert_eq!(server.only_request().header("content-length"), Some("0"));
}

#[tokio::test]
async fn a_body_that_is_too_large_on_the_way_names_the_setting() {
    let page = "<html><body><h1>413 Request Entity Too Large</h1>nginx</body></html>";
    let server = Canned::new([format!("413 Too Large\r\nContent-Length: {}\r\n\r\n{page}", page.len())]).await;
    let bytes = bytes::Bytes::from_static(b"large");
    let put = store(&server.endpoint).await.put(&key("k"), &bytes, &md5(b"large"), &Metadata::default()).await;
    let error = put.unwrap_err();
    assert_eq!(error.class(), FailureClass::Refused);
    assert!(error.to_string().contains("set max_put in this replica's section"), "{error}");
    // Of what is read, nothing is too large.
    let error = store(&server.endpoint).await.head(&key("k")).await.unwrap_err();
    assert!(!error.to_string().contains("max_put"), "{error}");
}

#[tokio::test]
async fn a_path_that_is_changed_on_the_way_is_its_objects_own_trouble() {
    let refused = "<Error><Code>SignatureDoesNotMatch</Code><Message>No.</Message></Error>";
    let refused = format!("403 Forbidden\r\nContent-Length: {}\r\n\r\n{refused}", refused.len());
    let listed = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
    let listed = format!("200 OK\r\nContent-Length: {}\r\n\r\n{listed}", listed.len());
    for odd in ["a//b", "/a", "a/../b", "a%2Fb", "a b"] {
        let server = Canned::new([refused.clone(), listed.clone()]).await;
        let error = store(&server.endpoint).await.get(&key(odd), None, None).await.unwrap_err();
        assert_eq!(error.class(), FailureClass::Refused, "{error}");
        assert!(error.to_string().contains("a proxy in front of the store"), "{error}");
    }
    // Nothing about this store works, or the key is always left unchanged: then the secret is wrong.
    for (answers, odd) in [([refused.clone(), refused.clone()], "a//b"), ([refused, listed], "a/b")] {
        let server = Canned::new(answers).await;
        let error = store(&server.endpoint).await.get(&key(odd), None, None).await.unwrap_err();
        assert_eq!(error.class(), FailureClass::Misconfigured, "{error}");
    }
}

#[tokio::test]
async fn uploads_whose_keys_are_encoded_without_a_word_are_told_by_their_prefix() {
    let list = |keys: &[&str]| {
        let upload = |key: &&str| format!("<Upload><Key>{key}</Key><UploadId>u</UploadId></Upload>");
        let uploads: String = keys.iter().map(upload).collect();
        let body = format!(
            "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{uploads}</ListMultipartUploadsResult>"
        );
        format!("200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let odd = "a+b //%2F \u{fc}";
    for (listed, shown) in [
        // As Ceph's gateway writes them.
        (&["a%2Bb%20//%252F%20%C3%BC", "a%2Bb%20//%252F%20%C3%BC2"][..], odd),
        (&["a+b //%2F \u{fc}"], odd),
        // It heeds no prefixes, and writes keys as they are.
        (&["a%2Bb%20//%252F%20%C3%BC", "other"], "a%2Bb%20//%252F%20%C3%BC"),
    ] {
        let server = Canned::new([list(listed)]).await;
        let uploads = store(&server.endpoint).await.list_uploads(odd).await.unwrap();
        assert_eq!(uploads[0].key, shown, "{listed:?}");
    }
}

#[tokio::test]
async fn an_upload_of_which_a_store_says_that_there_is_no_such_key_is_gone() {
    for (code, known) in [("NoSuchUpload", Some(false)), ("NoSuchKey", Some(false)), ("NoSuchBucket", None)] {
        let body = format!("<Error><Code>{code}</Code><Message>No.</Message></Error>");
        let server = Canned::new([format!("404 Not Found\r\nContent-Length: {}\r\n\r\n{body}", body.len())]).await;
        let told = store(&server.endpoint).await.upload_exists(&key("k"), &UploadId::new("u")).await;
        assert_eq!(told.ok(), known, "{code}");
    }
}
