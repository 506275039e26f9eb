//! Tests: objects are put, got, copied and deleted.

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    BucketLocationConstraint, CreateBucketConfiguration, Delete, MetadataDirective, ObjectIdentifier, StorageClass,
};

use super::super::Metadata;
use super::*;

#[tokio::test]
async fn what_is_put_is_got_again() {
    let s = Setup::new().await;
    s.put("a//b", b"hello").await;
    assert_eq!(s.get("a//b").await, b"hello");
    assert_eq!(s.b2.get("a//b").unwrap(), "hello");
    assert_eq!(s.b2.keys(), ["a//b"]);
}

#[tokio::test]
async fn an_empty_object_is_an_object() {
    let s = Setup::new().await;
    s.put("empty", b"").await;
    assert_eq!(s.get("empty").await, b"");
    assert_eq!(s.b2.inspect("empty").unwrap().content.size_bytes, 0);
    let range = s.client.get_object().bucket("b2").key("empty").range("bytes=0-0").send().await;
    assert_eq!(refusal(range), refused(416, "InvalidRange"));
}

#[tokio::test]
async fn a_second_put_replaces_the_first() {
    let s = Setup::new().await;
    s.put("k", b"one").await;
    s.put("k", b"three").await;
    assert_eq!(s.get("k").await, b"three");
    assert_eq!(s.b2.keys().len(), 1);
}

#[tokio::test]
async fn an_object_put_in_process_is_got_over_http() {
    let s = Setup::new().await;
    s.b2.put("k", "inside");
    assert_eq!(s.get("k").await, b"inside");
    let head = s.client.head_object().bucket("b2").key("k").send().await.unwrap();
    assert_eq!(head.e_tag().unwrap().trim_matches('"'), s.b2.inspect("k").unwrap().etag);
    assert_eq!(head.content_length(), Some(6));
}

#[tokio::test]
async fn a_missing_key_and_a_missing_bucket_have_different_codes() {
    let s = Setup::new().await;
    assert_eq!(refusal(s.client.get_object().bucket("b2").key("no").send().await), refused(404, "NoSuchKey"));
    assert_eq!(refusal(s.client.get_object().bucket("nowhere").key("no").send().await), refused(404, "NoSuchBucket"));
    let put = s.client.put_object().bucket("nowhere").key("k").body(vec![0; 4 << 20].into());
    assert_eq!(refusal(put.send().await), refused(404, "NoSuchBucket"));
}

#[tokio::test]
async fn a_head_of_nothing_is_a_bare_404() {
    let s = Setup::new().await;
    let head = s.client.head_object().bucket("b2").key("no").send().await.unwrap_err();
    assert_eq!(head.raw_response().unwrap().status().as_u16(), 404);
    assert_eq!(head.raw_response().unwrap().body().bytes(), Some(&b""[..]));
    assert!(head.into_service_error().is_not_found());
}

#[tokio::test]
async fn every_kept_header_comes_back() {
    let s = Setup::new().await;
    let expires = DateTime::from_secs(1_900_000_000);
    let put = s.client.put_object().bucket("b2").key("k").body(ByteStream::from_static(b"x"));
    let put = put
        .content_type("text/plain; charset=utf-8")
        .content_encoding("gzip")
        .content_disposition("attachment; filename=\"a b\"");
    let put = put.content_language("de-CH").cache_control("max-age=60, public").expires(expires);
    let put = put.metadata("colour", "blue  green").metadata("empty", "").storage_class(StorageClass::StandardIa);
    put.send().await.unwrap();

    let got = s.client.get_object().bucket("b2").key("k").send().await.unwrap();
    assert_eq!(got.content_type(), Some("text/plain; charset=utf-8"));
    assert_eq!(got.content_encoding(), Some("gzip"));
    assert_eq!(got.content_disposition(), Some("attachment; filename=\"a b\""));
    assert_eq!(got.content_language(), Some("de-CH"));
    assert_eq!(got.cache_control(), Some("max-age=60, public"));
    assert_eq!(got.expires_string(), Some("Sun, 17 Mar 2030 17:46:40 GMT"));
    assert_eq!(got.metadata().unwrap()["colour"], "blue  green");
    assert_eq!(got.metadata().unwrap()["empty"], "");
    assert_eq!(got.storage_class(), Some(&StorageClass::StandardIa));

    let head = s.client.head_object().bucket("b2").key("k").send().await.unwrap();
    assert_eq!(head.content_type(), got.content_type());
    assert_eq!(head.metadata(), got.metadata());
    assert_eq!(s.b2.inspect("k").unwrap().metadata.get("x-amz-meta-colour"), Some("blue  green"));
}

#[tokio::test]
async fn an_object_without_a_type_is_an_octet_stream_and_its_class_is_not_named() {
    let s = Setup::new().await;
    let put = s.presigned_put("k").await;
    assert_eq!(s.send(&put, "content-length: 1\r\nx-amz-storage-class: STANDARD\r\n", b"x").await.status, 200);
    let head = s.client.head_object().bucket("b2").key("k").send().await.unwrap();
    assert_eq!(head.content_type(), Some("binary/octet-stream"));
    assert_eq!(head.storage_class(), None);
    assert_eq!(s.b2.inspect("k").unwrap().metadata, Metadata::none());
}

#[tokio::test]
async fn raw_utf8_in_metadata_comes_back_as_it_went() {
    let s = Setup::new().await;
    s.b2.put_with("k", "x", Metadata::none().with("x-amz-meta-name", "grün").with("x-amz-meta-latin", b"\xe9"));
    let heard = s.send(&s.presigned_get("k").await, "", b"").await;
    assert!(heard.head.contains("x-amz-meta-name: grün\r\n"), "{}", heard.head);
    assert_eq!(s.b2.inspect("k").unwrap().metadata.raw("x-amz-meta-latin"), Some(&b"\xe9"[..]));
}

#[tokio::test]
async fn aws_chunked_is_never_taken_for_an_encoding_of_the_object() {
    let s = Setup::new().await;
    let client = s.hashing_client();
    let stream = || ByteStream::from_body_1_x(s3s::Body::from(bytes::Bytes::from_static(b"streamed")));
    let put = |key: &str| client.put_object().bucket("b2").key(key).body(stream()).content_length(8);
    put("plain").send().await.unwrap();
    put("gzip").content_encoding("gzip").send().await.unwrap();
    assert_eq!(s.b2.get("plain").unwrap(), "streamed");
    assert_eq!(s.b2.inspect("plain").unwrap().metadata.get("content-encoding"), None);
    assert_eq!(s.b2.inspect("gzip").unwrap().metadata.get("content-encoding"), Some("gzip"));
}

#[tokio::test]
async fn a_range_is_answered_with_its_place_in_the_whole() {
    let s = Setup::new().await;
    s.put("k", b"0123456789").await;
    for (range, place, bytes) in [
        ("bytes=0-0", "bytes 0-0/10", "0"),
        ("bytes=2-5", "bytes 2-5/10", "2345"),
        ("bytes=7-", "bytes 7-9/10", "789"),
        ("bytes=-3", "bytes 7-9/10", "789"),
        ("bytes=-30", "bytes 0-9/10", "0123456789"),
        ("bytes=8-99", "bytes 8-9/10", "89"),
    ] {
        let got = s.client.get_object().bucket("b2").key("k").range(range).send().await.unwrap();
        assert_eq!(got.content_range(), Some(place));
        assert_eq!(got.content_length(), i64::try_from(bytes.len()).ok());
        assert_eq!(got.body.collect().await.unwrap().to_vec(), bytes.as_bytes());
    }
    let heard = s.send(&s.presigned_get("k").await, "range: bytes=1-2\r\n", b"").await;
    assert_eq!((heard.status, heard.body_text().as_str()), (206, "12"));
}

#[tokio::test]
async fn a_range_beyond_the_end_is_refused_with_the_true_length() {
    let s = Setup::new().await;
    s.put("k", b"0123456789").await;
    for range in ["bytes=10-", "bytes=10-11", "bytes=-0"] {
        let got = s.client.get_object().bucket("b2").key("k").range(range).send().await;
        assert_eq!(refusal(got), refused(416, "InvalidRange"), "{range}");
    }
    let heard = s.send(&s.presigned_get("k").await, "range: bytes=10-\r\n", b"").await;
    assert!(heard.head.contains("content-range: bytes */10\r\n"), "{}", heard.head);
}

#[tokio::test]
async fn deleting_is_done_once_and_succeeds_always() {
    let s = Setup::new().await;
    s.put("k", b"x").await;
    for _ in 0..2 {
        s.client.delete_object().bucket("b2").key("k").send().await.unwrap();
    }
    assert_eq!(s.b2.get("k"), None);
}

#[tokio::test]
async fn many_are_deleted_at_once_and_named() {
    let s = Setup::new().await;
    let keys = ["a", "b & <c>", " spaced ", "ü"];
    for key in &keys {
        s.b2.put(key, "x");
    }
    s.b2.put("kept", "x");
    let id = |key: &&str| ObjectIdentifier::builder().key(*key).build().unwrap();
    let delete = Delete::builder().set_objects(Some(keys.iter().map(id).collect())).build().unwrap();
    let deleted = s.client.delete_objects().bucket("b2").delete(delete).send().await.unwrap();
    let named: Vec<_> = deleted.deleted().iter().filter_map(|d| d.key()).collect();
    assert_eq!(named, keys);
    assert_eq!(s.b2.keys(), ["kept"]);
}

#[tokio::test]
async fn a_copy_takes_bytes_and_metadata_with_it() {
    let s = Setup::new().await;
    let wasabi = s.server.create_bucket("wasabi", BucketOptions::default());
    let metadata = Metadata::none().with("x-amz-meta-a", "1").with("content-type", "text/plain");
    wasabi.put_with("/from +%", "copied", metadata);
    let copied =
        s.client.copy_object().copy_source("wasabi//from%20%2B%25").bucket("b2").key("to").send().await.unwrap();
    let there = s.b2.inspect("to").unwrap();
    assert_eq!(copied.copy_object_result().unwrap().e_tag().unwrap().trim_matches('"'), there.etag);
    let source = wasabi.inspect("/from +%").unwrap();
    assert_eq!((there.metadata, there.content), (source.metadata, source.content));
    assert_eq!(s.b2.get("to").unwrap(), "copied");
}

#[tokio::test]
async fn a_copy_onto_itself_must_change_something() {
    let s = Setup::new().await;
    let wasabi = s.server.create_bucket("wasabi", BucketOptions::default());
    wasabi.put_with("k", "x", Metadata::none().with("x-amz-meta-a", "1"));
    let copy = || s.client.copy_object().copy_source("wasabi/k").bucket("wasabi").key("k");
    assert_eq!(refusal(copy().send().await), refused(400, "InvalidRequest"));
    copy().metadata_directive(MetadataDirective::Replace).metadata("b", "2").send().await.unwrap();
    let metadata = wasabi.inspect("k").unwrap().metadata;
    assert_eq!((metadata.get("x-amz-meta-a"), metadata.get("x-amz-meta-b")), (None, Some("2")));
}

#[tokio::test]
async fn a_copy_of_nothing_says_so() {
    let s = Setup::new().await;
    s.server.create_bucket("wasabi", BucketOptions::default());
    for (source, code) in [("wasabi/no", "NoSuchKey"), ("nowhere/no", "NoSuchBucket")] {
        let copy = s.client.copy_object().copy_source(source).bucket("b2").key("k").send().await;
        assert_eq!(refusal(copy), refused(404, code));
    }
}

#[tokio::test]
async fn buckets_are_made_listed_asked_for_and_taken_away() {
    let s = Setup::new().await;
    let place = CreateBucketConfiguration::builder().location_constraint(BucketLocationConstraint::EuCentral1).build();
    let create = || s.client.create_bucket().bucket("wasabi").create_bucket_configuration(place.clone());
    create().send().await.unwrap();
    assert_eq!(refusal(create().send().await), refused(409, "BucketAlreadyOwnedByYou"));
    let listed = s.client.list_buckets().send().await.unwrap();
    let names: Vec<_> = listed.buckets().iter().filter_map(|b| b.name()).collect();
    assert_eq!(names, ["b2", "wasabi"]);

    s.server.bucket("wasabi").put("k", "x");
    s.client.head_bucket().bucket("wasabi").send().await.unwrap();
    let delete = || s.client.delete_bucket().bucket("wasabi").send();
    assert_eq!(refusal(delete().await), refused(409, "BucketNotEmpty"));
    s.server.bucket("wasabi").delete("k");
    delete().await.unwrap();
    assert_eq!(
        s.client.head_bucket().bucket("wasabi").send().await.unwrap_err().raw_response().unwrap().status().as_u16(),
        404
    );
    assert_eq!(s.server.buckets(), ["b2"]);
}

#[tokio::test]
async fn a_closed_server_is_away_and_has_everything_when_it_opens_again() {
    let s = Setup::new().await;
    s.put("k", b"kept").await;
    s.server.close().await;
    let refused = s.client.get_object().bucket("b2").key("k").send().await.unwrap_err();
    assert!(matches!(refused, SdkError::DispatchFailure(_)), "{refused:?}");
    s.server.open().await.unwrap();
    assert_eq!(s.get("k").await, b"kept");
}
