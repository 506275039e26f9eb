//! Tests: calls are counted by operation and key.

use super::super::{BytesMoved, Op, OperationCounts};
use super::*;

#[tokio::test]
async fn calls_and_successes_are_counted_by_operation_and_key() {
    let s = Setup::new().await;
    s.put("a", b"x").await;
    s.put("a", b"y").await;
    s.get("a").await;
    let _ = s.client.get_object().bucket("b2").key("no").send().await;
    assert_eq!((s.b2.calls(Op::PutObject), s.b2.successes(Op::PutObject)), (2, 2));
    assert_eq!((s.b2.calls(Op::GetObject), s.b2.successes(Op::GetObject)), (2, 1));
    assert_eq!(s.b2.calls(Op::HeadObject), 0);
    s.b2.counts(|counts| {
        assert_eq!(counts.of_key(Op::GetObject, "no"), OperationCounts { calls: 1, successes: 0 });
        assert_eq!(counts.of_key(Op::GetObject, "a"), OperationCounts { calls: 1, successes: 1 });
        assert_eq!(counts.of(Op::PutObject), OperationCounts { calls: 2, successes: 2 });
    });
    s.b2.forget_counts();
    assert_eq!(s.b2.calls(Op::PutObject), 0);
}

#[tokio::test]
async fn a_write_is_what_puts_an_object_in_place() {
    let s = Setup::new().await;
    s.put("a", b"x").await;
    s.put("a", b"y").await;
    s.server.create_bucket("wasabi", BucketOptions::default()).put("a", "x");
    s.client.copy_object().copy_source("wasabi/a").bucket("b2").key("b").send().await.unwrap();
    let refused_put =
        s.client.put_object().bucket("b2").key("a").if_none_match("*").body(ByteStream::from_static(b"z"));
    assert!(refused_put.send().await.is_err());
    s.b2.put("c", "in process");
    let writes = s.b2.counts(super::super::Counts::writes_by_key);
    assert_eq!(writes.into_iter().collect::<Vec<_>>(), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
}

#[tokio::test]
async fn calls_to_a_bucket_that_is_not_there_count_too() {
    let s = Setup::new().await;
    let _ = s.client.head_bucket().bucket("nowhere").send().await;
    assert_eq!(
        (s.server.bucket("nowhere").calls(Op::HeadBucket), s.server.bucket("nowhere").successes(Op::HeadBucket)),
        (1, 0)
    );
}

#[tokio::test]
async fn a_dropped_bucket_keeps_its_counts() {
    let s = Setup::new().await;
    s.put("a", b"x").await;
    s.server.drop_bucket("b2");
    assert_eq!(refusal(s.client.get_object().bucket("b2").key("a").send().await), refused(404, "NoSuchBucket"));
    assert_eq!((s.b2.writes("a"), s.b2.calls(Op::GetObject)), (1, 1));
}

#[tokio::test]
async fn who_waits_for_a_call_wakes_when_it_has_come() {
    let s = Setup::new().await;
    let waiting = tokio::spawn({
        let b2 = s.b2.clone();
        async move {
            b2.arrived(Op::PutObject, 2).await;
            b2.arrived_for(Op::PutObject, "b", 1).await;
            b2.until(|counts| counts.writes("b") == 1).await;
        }
    });
    s.put("a", b"x").await;
    assert!(!waiting.is_finished());
    s.put("b", b"x").await;
    waiting.await.unwrap();
    s.b2.arrived(Op::PutObject, 2).await; // what has come already is not waited for
}

#[tokio::test]
async fn bytes_are_counted_as_they_pass_whatever_becomes_of_the_call() {
    let s = Setup::new().await;
    s.put("a", &[7; 1000]).await;
    s.get("a").await;
    let _ = s.client.get_object().bucket("b2").key("a").range("bytes=0-9").send().await.unwrap().body.collect().await;
    let _ = s
        .client
        .put_object()
        .bucket("b2")
        .key("b")
        .content_md5("AAAAAAAAAAAAAAAAAAAAAA==")
        .body(ByteStream::from_static(b"xyz"))
        .send()
        .await;
    assert_eq!(s.b2.moved(Op::PutObject).received, 1003);
    assert_eq!(s.b2.moved(Op::GetObject), BytesMoved { received: 0, sent: 1010 });
    let _ = s.client.get_object().bucket("b2").key("a").range("bytes=1000-").send().await.unwrap_err();
    assert_eq!(s.b2.moved(Op::GetObject).sent, 1010, "what an error says is no object");
    s.b2.forget_counts();
    assert_eq!(s.b2.moved(Op::GetObject), BytesMoved::default());
}
