//! Tests: conditional requests.

use aws_sdk_s3::primitives::DateTime;
use std::time::SystemTime;

use super::*;

const HELLO: &str = "\"5d41402abc4b2a76b9719d911017c592\"";
const OTHER: &str = "\"00000000000000000000000000000000\"";

#[tokio::test]
async fn if_match_lets_through_the_same_object_only() {
    let s = Setup::new().await;
    s.put("k", b"hello").await;
    let get = |etag: &str| s.client.get_object().bucket("b2").key("k").if_match(etag).send();
    assert_eq!(get(HELLO).await.unwrap().e_tag(), Some(HELLO));
    get("*").await.unwrap();
    assert_eq!(refusal(get(OTHER).await), refused(412, "PreconditionFailed"));
    let head = s.client.head_object().bucket("b2").key("k").if_match(OTHER).send().await;
    assert_eq!(head.unwrap_err().raw_response().unwrap().status().as_u16(), 412);
}

#[tokio::test]
async fn if_none_match_spares_the_transfer_of_what_is_known() {
    let s = Setup::new().await;
    s.put("k", b"hello").await;
    let heard = s.send(&s.presigned_get("k").await, &format!("if-none-match: {HELLO}\r\n"), b"").await;
    assert_eq!((heard.status, heard.body.len()), (304, 0));
    assert!(heard.head.contains(&format!("etag: {HELLO}")), "{}", heard.head);
    let heard = s.send(&s.presigned_get("k").await, &format!("if-none-match: {OTHER}\r\n"), b"").await;
    assert_eq!((heard.status, heard.body_text().as_str()), (200, "hello"));
    let asked = s.client.head_object().bucket("b2").key("k").if_none_match(HELLO).send().await;
    assert_eq!(asked.unwrap_err().raw_response().unwrap().status().as_u16(), 304);
}

#[tokio::test]
async fn dates_are_compared_in_whole_seconds() {
    let s = Setup::new().await;
    s.put("k", b"hello").await;
    let modified = *s.client.head_object().bucket("b2").key("k").send().await.unwrap().last_modified().unwrap();
    let before = DateTime::from_secs(modified.secs() - 1);
    let status = |result: Result<_, SdkError<aws_sdk_s3::operation::get_object::GetObjectError>>| match result {
        Ok(_) => 200,
        Err(error) => error.raw_response().unwrap().status().as_u16(),
    };
    let get = || s.client.get_object().bucket("b2").key("k");
    assert_eq!(status(get().if_modified_since(modified).send().await), 304);
    assert_eq!(status(get().if_modified_since(before).send().await), 200);
    assert_eq!(status(get().if_unmodified_since(modified).send().await), 200);
    assert_eq!(status(get().if_unmodified_since(before).send().await), 412);
    // The ETag knows better than the date.
    assert_eq!(status(get().if_match(HELLO).if_unmodified_since(before).send().await), 200);
    assert_eq!(
        status(get().if_none_match(OTHER).if_modified_since(DateTime::from(SystemTime::now())).send().await),
        200
    );
}

#[tokio::test]
async fn a_put_if_absent_is_won_by_exactly_one_of_many() {
    let s = Setup::new().await;
    let put =
        |n: u8| s.client.put_object().bucket("b2").key("k").if_none_match("*").body(vec![n; 100_000].into()).send();
    let results = futures::future::join_all((0..16).map(put)).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    for lost in results.into_iter().filter(Result::is_err) {
        assert_eq!(refusal(lost), refused(412, "PreconditionFailed"));
    }
    assert_eq!(s.b2.writes("k"), 1);
}

#[tokio::test]
async fn a_put_if_match_replaces_what_it_names() {
    let s = Setup::new().await;
    let put = |etag: &str| {
        s.client.put_object().bucket("b2").key("k").if_match(etag).body(ByteStream::from_static(b"new")).send()
    };
    assert_eq!(refusal(put(HELLO).await), refused(404, "NoSuchKey"));
    s.put("k", b"hello").await;
    assert_eq!(refusal(put(OTHER).await), refused(412, "PreconditionFailed"));
    assert_eq!(s.get("k").await, b"hello");
    put(HELLO).await.unwrap();
    assert_eq!(s.get("k").await, b"new");
}

#[tokio::test]
async fn a_copy_can_be_bound_to_its_source() {
    let s = Setup::new().await;
    s.server.create_bucket("wasabi", BucketOptions::default()).put("k", "hello");
    let copy = |etag: &str| {
        s.client.copy_object().copy_source("wasabi/k").copy_source_if_match(etag).bucket("b2").key("l").send()
    };
    assert_eq!(refusal(copy(OTHER).await), refused(412, "PreconditionFailed"));
    copy(HELLO).await.unwrap();
}
