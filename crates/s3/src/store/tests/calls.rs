//! The calls against a server that keeps what it is given.

use bytes::Bytes;
use copyhold_core::domain::FailureClass;
use copyhold_sandbox::s3::{BucketHandle, BucketOptions, Fault, Op, S3Server, When};

use super::*;

async fn setup() -> (S3Server, BucketHandle, Store) {
    let server = S3Server::start().await.unwrap();
    let bucket = server.create_bucket("photos", BucketOptions::default());
    let store = store(&server.endpoint()).await;
    (server, bucket, store)
}

#[tokio::test]
async fn a_head_tells_a_missing_object_from_a_missing_bucket() {
    let (server, bucket, store) = setup().await;
    let error = store.head(&key("k")).await.unwrap_err();
    assert_eq!((error.reason(), error.class()), (Reason::NoSuchKey, FailureClass::Gone));
    assert_eq!(bucket.calls(Op::HeadBucket), 1);
    server.drop_bucket("photos");
    let error = store.head(&key("k")).await.unwrap_err();
    assert_eq!((error.reason(), error.class()), (Reason::NoSuchBucket, FailureClass::Misconfigured));
    assert!(error.to_string().contains("check this replica's bucket"), "{error}");
}

#[tokio::test]
async fn a_bucket_that_may_not_be_looked_at_leaves_the_question_open() {
    let (_server, bucket, store) = setup().await;
    bucket.order(Fault::access_denied(), When::op(Op::HeadBucket));
    assert_eq!(store.head(&key("k")).await.unwrap_err().class(), FailureClass::Denied);
}

#[tokio::test]
async fn wrong_keys_are_told_as_such() {
    let (server, _, _) = setup().await;
    for (id, secret, code) in [("sandbox", "wrong", "SignatureDoesNotMatch"), ("nobody", "x", "InvalidAccessKeyId")] {
        let credentials = settings::Credentials::Keys { access_key_id: id.into(), secret_access_key: secret.into() };
        let replica = settings::StoreSettings { credentials, ..replica(&server.endpoint()) };
        let error = Store::connect(&replica, 1).await.unwrap().get(&key("k"), None, None).await.unwrap_err();
        assert_eq!(error.class(), FailureClass::Misconfigured);
        assert!(error.to_string().contains(code) && error.to_string().contains("check this replica's"), "{error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
}

#[tokio::test]
async fn a_bucket_is_empty_until_it_holds_a_key_however_odd() {
    let (_server, bucket, store) = setup().await;
    assert_eq!(store.first_key().await.unwrap(), None);
    for odd in ["a b+c%2F\u{7f}é", "\n", "!"] {
        bucket.put(odd, "x");
        assert_eq!(store.first_key().await.unwrap().as_deref(), Some(odd));
        bucket.delete(odd);
    }
}

#[tokio::test]
async fn a_check_for_write_access_leaves_nothing_behind() {
    let (_server, bucket, store) = setup().await;
    store.check_write().await.unwrap();
    assert!(bucket.uploads().is_empty() && bucket.keys().is_empty());
    assert_eq!(bucket.successes(Op::CreateMultipartUpload), 1);
    bucket.order(Fault::access_denied(), When::op(Op::CreateMultipartUpload));
    assert_eq!(store.check_write().await.unwrap_err().class(), FailureClass::Denied);
}

#[tokio::test]
async fn an_abort_of_what_is_gone_is_done() {
    let (_server, bucket, store) = setup().await;
    let upload = store.create_multipart(&key("k"), &Metadata::default()).await.unwrap();
    bucket.expire_uploads();
    store.abort_multipart(&key("k"), &upload).await.unwrap();
}

#[tokio::test]
async fn unfinished_uploads_are_listed_to_the_last_whatever_their_keys() {
    let (_server, bucket, store) = setup().await;
    let initiated = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_795_291_391);
    let mut begun = Vec::new();
    for odd in ["a", "a b+c%2F\u{7f}é\n", "a/"] {
        for _ in 0..700 {
            begun.push((odd.to_owned(), bucket.begin_upload(odd, initiated), Some(1_795_291_391_000_000)));
        }
    }
    bucket.begin_upload("b", initiated);
    let listed = store.list_uploads("a").await.unwrap().into_iter();
    let mut listed: Vec<_> = listed.map(|u| (u.key, u.id.as_str().to_owned(), u.initiated)).collect();
    listed.sort();
    begun.sort();
    assert!(listed == begun, "{} of {}", listed.len(), begun.len());
    assert_eq!(bucket.calls(Op::ListMultipartUploads), 3);
    assert_eq!(store.list_uploads("a b+").await.unwrap().len(), 700);
}

#[tokio::test]
async fn a_body_is_passed_on_as_it_comes_and_ends_where_announced() {
    let (_server, bucket, store) = setup().await;
    bucket.put("k", vec![7; 1_000_000]);
    let mut body = store.get(&key("k"), None, None).await.unwrap().body;
    let mut read = 0;
    while let Some(frame) = body.next().await.unwrap() {
        read += frame.len() as u64;
    }
    assert_eq!((read, body.announced()), (1_000_000, 1_000_000));
}

/// Lets the time pass that a stalled call is given, once it stalls: with nothing else to
/// do, paused time jumps from timer to timer.
async fn stalled<T>(order: &copyhold_sandbox::s3::InjectedFault, call: impl Future<Output = T>) -> T {
    let skip = async {
        order.struck(1).await;
        tokio::time::pause();
    };
    let (answer, ()) = tokio::join!(call, skip);
    tokio::time::resume();
    answer
}

#[tokio::test]
async fn a_store_that_stands_still_is_given_up() {
    let (_server, bucket, store) = setup().await;
    bucket.put("k", "hello");
    let order = bucket.order(Fault::Stall, When::op(Op::GetObject));
    let error = stalled(&order, store.get(&key("k"), None, None)).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Transient);
    assert!(error.to_string().contains("for 60 s"), "{error}");
    // It takes what fits in its buffers, and then nothing.
    let order = bucket.order(Fault::Stall, When::op(Op::PutObject));
    let bytes = Bytes::from(vec![7; 32 << 20]);
    let (key, md5, metadata) = (key("k"), md5(&bytes), Metadata::default());
    assert_eq!(stalled(&order, store.put(&key, &bytes, &md5, &metadata)).await.unwrap_err().reason(), Reason::Stalled);
}

#[tokio::test]
async fn a_body_that_stands_still_is_given_up() {
    let (_server, bucket, store) = setup().await;
    bucket.put("k", vec![7; 1_000]);
    let order = bucket.order(Fault::StallBody { after: 10 }, When::op(Op::GetObject));
    let mut get = store.get(&key("k"), None, None).await.unwrap();
    let read = async {
        loop {
            if let Err(error) = get.body.next().await {
                break error;
            }
        }
    };
    let error = stalled(&order, read).await;
    assert_eq!((error.reason(), error.class()), (Reason::Stalled, FailureClass::Transient));
}

#[tokio::test]
async fn a_request_that_was_refused_as_too_much_is_not_sent_again_at_once() {
    let (_server, bucket, store) = setup().await;
    for refusal in [Fault::slow_down(), Fault::answer(429, "TooManyRequests"), Fault::answer(503, "ServiceUnavailable")]
    {
        let before = bucket.calls(Op::HeadObject);
        let order = bucket.order(refusal, When::op(Op::HeadObject));
        assert_eq!(store.head(&key("k")).await.unwrap_err().class(), FailureClass::Throttled);
        assert_eq!(bucket.calls(Op::HeadObject), before + 1);
        order.clear();
    }
    // A connection that breaks is.
    let reset = bucket.order(Fault::Reset, When::op(Op::GetObject).next(1));
    bucket.put("k", "x");
    store.get(&key("k"), None, None).await.unwrap();
    assert_eq!(reset.strikes(), 1);
}

#[tokio::test]
async fn a_throttling_store_is_asked_for_less_at_once_and_a_probe_waits_for_nobody() {
    let (_server, bucket, store) = setup().await;
    bucket.put("k", "x");
    bucket.order(Fault::slow_down_for(std::time::Duration::from_secs(20)), When::op(Op::HeadObject).next(2));
    // One answer may be meant for one object.
    for _ in 0..2 {
        assert_eq!(store.head(&key("k")).await.unwrap_err().class(), FailureClass::Throttled);
    }
    let key = key("k");
    let mut waits = Box::pin(store.head(&key));
    assert!(futures::poll!(&mut waits).is_pending());
    assert_eq!(store.first_key().await.unwrap().as_deref(), Some("k"));
    assert_eq!(bucket.calls(Op::HeadObject), 2, "it asked to be spared");
}

#[tokio::test]
async fn what_has_no_connection_waits_for_one_and_is_not_taken_for_hanging() {
    let server = S3Server::start().await.unwrap();
    let bucket = server.create_bucket("photos", BucketOptions::default());
    bucket.put("k", "hello");
    let mut replica = replica(&server.endpoint());
    replica.facts.max_connections = Some(2);
    let store = Store::connect(&replica, 8).await.unwrap();
    let k = key("k");
    let first = store.get(&k, None, None).await.unwrap();
    let second = store.get(&k, None, None);
    let mut second = std::pin::pin!(second);
    assert!(futures::poll!(&mut second).is_pending(), "there is one connection to read with");
    // What is written has its own.
    store
        .put(&key("l"), &"x".into(), &Md5(<md5::Md5 as md5::Digest>::digest("x").into()), &Metadata::default())
        .await
        .unwrap();
    assert_eq!(bucket.calls(Op::GetObject), 1);
    drop(first);
    assert!(second.await.is_ok());
}
