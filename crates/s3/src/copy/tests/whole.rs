//! Objects that go in one request.

use copyhold_sandbox::s3::{BucketOptions, Metadata, Op, Quirk, When};

use super::*;

#[tokio::test]
async fn an_object_is_read_once_and_written_to_all_targets() {
    let s = Setup::new().await;
    s.b2.put("a//b", "hello");
    s.b2.put("first//1", "hello");
    // The first one shows what its targets make of other spellings.
    let first = s.job("first//1").await;
    assert!(s.copy(&first).await.is_proven());
    let calls = |bucket: &BucketHandle| (bucket.calls(Op::GetObject), bucket.calls(Op::HeadObject));
    let before = [&s.b2, &s.wasabi, &s.scw].map(calls);
    let told = s.copy(&Job { key: ObjectKey::new("a//b").unwrap(), ..first }).await;
    assert_eq!((told.of("wasabi"), told.of("scw")), (Ok(Verified::Compared), Ok(Verified::Compared)));
    assert!(s.is_everywhere("a//b"));
    // No HEAD, no second GET, no reading back.
    assert_eq!(calls(&s.b2), (before[0].0 + 1, before[0].1));
    assert_eq!([&s.wasabi, &s.scw].map(calls), [before[1], before[2]]);
    assert_eq!((s.wasabi.writes("a//b"), s.scw.writes("a//b")), (1, 1));
}

#[tokio::test]
async fn what_was_read_is_told_before_any_target_is() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    let told = s.copy(&s.job("k").await).await;
    assert!(matches!(told.steps.first(), Some(CopyStep::Described { .. })), "{told:?}");
    let Some(CopyStep::Read { from, content, .. }) = told.steps.get(1) else { panic!("{told:?}") };
    assert_eq!((from.as_str(), *content), ("b2", s.b2.inspect("k").unwrap().content));
}

#[tokio::test]
async fn a_failed_target_does_not_stop_another() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    s.wasabi.order(Fault::access_denied(), When::op(Op::PutObject));
    let told = s.copy(&s.job("k").await).await;
    assert_eq!(told.class("wasabi"), FailureClass::Denied);
    assert!(told.of("wasabi").unwrap_err().message.starts_with("target wasabi: PutObject: 403 AccessDenied"));
    assert_eq!(told.of("scw"), Ok(Verified::Compared));
}

#[tokio::test]
async fn a_proven_target_is_told_while_another_still_runs() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    let stalled = s.wasabi.order(Fault::Stall, When::op(Op::PutObject).next(1));
    let job = s.job("k").await;
    let (steps, mut told) = mpsc::unbounded_channel();
    let copying = copy(&job, &s.memory, &s.stop, &steps);
    let listening = async {
        loop {
            if let CopyStep::Target { replica, result } = told.recv().await.unwrap() {
                break (replica, result);
            }
        }
    };
    tokio::pin!(copying);
    let first = tokio::select! {
        first = listening => first,
        ended = &mut copying => panic!("{ended:?} although a target stalls"),
    };
    assert_eq!((first.0.as_str(), first.1), ("scw", Ok(Verified::Compared)));
    stalled.clear();
    assert_eq!(copying.await, CopyEnd::Done);
    assert!(s.is_everywhere("k"));
}

#[tokio::test]
async fn empty_objects_are_objects() {
    let s = Setup::new().await;
    s.b2.put("empty", "");
    for stated_bytes in [None, Some(0)] {
        let job = Job { stated_bytes, ..s.job("empty").await };
        let told = s.copy(&job).await;
        assert!(told.is_proven(), "{told:?}");
        assert_eq!(told.read().unwrap().size_bytes, 0);
        assert!(s.is_everywhere("empty"));
    }
}

#[tokio::test]
async fn sizes_around_the_edge_of_one_request_arrive_whole() {
    let s = Setup::new().await;
    for size in [1, plan::WHOLE_UP_TO - 1, plan::WHOLE_UP_TO, plan::WHOLE_UP_TO + 1] {
        let key = format!("{size}");
        s.b2.put(&key, copyhold_sandbox::s3::synthetic::bytes(size, 0..size));
        for stated_bytes in [None, Some(size)] {
            let told = s.copy(&Job { stated_bytes, ..s.job(&key).await }).await;
            assert!(told.is_proven() && s.is_everywhere(&key), "{size} {stated_bytes:?}: {told:?}");
            // A stated size is not reported again.
            assert_eq!(told.opened, stated_bytes.map_or(vec![size], |_| vec![]), "{size} {stated_bytes:?}");
        }
    }
    assert!(s.leaves_no_upload());
}

#[tokio::test]
async fn keys_arrive_as_they_are_spelled() {
    let s = Setup::new().await;
    let long = "ü".repeat(512);
    let odd = [
        "a b",
        "a+b",
        "a%2Fb",
        "a%20b",
        "//a",
        "/a",
        "a/",
        "a//b",
        "a/b",
        ".",
        "..",
        "../a",
        "a/./b",
        "a/../b",
        "?a=b&c#d",
        "\u{1f600}",
        "u\u{308}",
        "ü",
        "\u{7f}\n\t",
        "a\\b",
        "'\"<>{}|^`~*!()",
        &long,
    ];
    for key in odd {
        s.b2.put(key, key.to_owned());
        let told = s.copy(&s.job(key).await).await;
        assert!(told.is_proven() && s.is_everywhere(key), "{key:?}: {told:?}");
    }
    assert_eq!(s.wasabi.keys(), s.b2.keys());
}

#[tokio::test]
async fn metadata_travels_with_the_object() {
    let s = Setup::new().await;
    let metadata = Metadata::none()
        .with("content-type", "text/html; charset=\"utf-8\"")
        .with("content-encoding", "gzip")
        .with("content-disposition", "attachment; filename=\"a b.html\"")
        .with("content-language", "de, en")
        .with("cache-control", "max-age=60, public")
        .with("expires", "Thu, 01 Dec 1994 16:00:00 GMT")
        .with("x-amz-meta-name", "=?UTF-8?B?w7w=?=")
        .with("x-amz-meta-two-words", "a  b,c")
        .with("x-amz-meta-empty", "");
    s.b2.put_with("small", "hello", metadata.clone());
    s.b2.put_with("big", vec![7; 17 << 20], metadata.clone());
    for key in ["small", "big"] {
        let told = s.copy(&s.job(key).await).await;
        assert!(told.is_proven(), "{told:?}");
        for target in [&s.wasabi, &s.scw] {
            assert_eq!(target.inspect(key).unwrap().metadata, metadata, "{key} at {}", target.name());
        }
    }
}

#[tokio::test]
async fn metadata_that_cannot_be_carried_is_refused_and_never_dropped() {
    let s = Setup::new().await;
    // As UTF-8, which the SDK reads and cannot send, and as Latin-1, which it cannot read.
    for value in [&b"Z\xc3\xbcrich"[..], &b"Z\xfcrich"[..]] {
        s.b2.put_with("k", "hello", Metadata::none().with("x-amz-meta-city", value));
        let told = s.copy(&s.job("k").await).await;
        for target in ["wasabi", "scw"] {
            let why = told.of(target).unwrap_err();
            assert_eq!(why.class, FailureClass::Refused, "{why:?}");
            assert!(why.message.contains("x-amz-meta-city"), "{why:?}");
        }
    }
    assert!(s.wasabi.keys().is_empty());
}

#[tokio::test]
async fn a_throttling_store_says_for_how_long() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    let wait = std::time::Duration::from_secs(7);
    s.wasabi.order(Fault::slow_down_for(wait), When::op(Op::PutObject));
    let why = s.copy(&s.job("k").await).await.of("wasabi").unwrap_err();
    assert_eq!((why.class, why.retry_after), (FailureClass::Throttled, Some(wait)));
}

#[tokio::test]
async fn one_hiccup_of_a_source_is_not_even_told() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    for fault in [Fault::internal_error(), Fault::Reset] {
        s.b2.order(fault, When::op(Op::GetObject).next(1));
        let told = s.copy(&s.job("k").await).await;
        assert!(told.is_proven() && told.sources_failed().is_empty(), "{told:?}");
    }
}

#[tokio::test]
async fn a_write_whose_end_was_not_seen_is_told_and_not_sent_again() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    for fault in [Fault::internal_error(), Fault::Reset, Fault::LoseAnswer] {
        let before = s.wasabi.calls(Op::PutObject);
        s.wasabi.order(fault, When::op(Op::PutObject).next(1));
        let told = s.copy(&s.job("k").await).await;
        assert_eq!((told.class("wasabi"), told.of("scw")), (FailureClass::Transient, Ok(Verified::Compared)));
        assert_eq!(s.wasabi.calls(Op::PutObject), before + 1);
        let ended = |of: &str| {
            told.steps.iter().any(|step| matches!(step, CopyStep::WriteEnded { replica } if replica.as_str() == of))
        };
        assert_eq!((ended("wasabi"), ended("scw")), (false, true), "{told:?}");
    }
}

#[tokio::test]
async fn a_website_redirect_is_copied_where_its_store_takes_it_and_missed_by_name_where_not() {
    for (habit, requests) in [(Quirk::RefusesRedirects, 2), (Quirk::DropsRedirects, 1)] {
        for bytes in [3, 20 << 20] {
            let s = Setup::new().await;
            s.server.create_bucket("wasabi", BucketOptions::default().with(habit));
            let wasabi = s.server.bucket("wasabi");
            let redirect = Metadata::none().with("x-amz-website-redirect-location", "/new/place");
            for key in ["k", "l"] {
                s.b2.put_with(key, vec![7; bytes], redirect.clone());
            }
            let job = s.job("k").await;
            let told = s.copy(&job).await;
            assert!(told.is_proven(), "{habit:?}, {bytes}: {told:?}");
            let lacks: Vec<_> = told.steps.iter().filter(|step| matches!(step, CopyStep::Lacks { .. })).collect();
            let property = copyhold_core::domain::NotCarried::Redirect;
            assert_eq!(
                lacks,
                [&CopyStep::Lacks { replica: ReplicaName::new("wasabi").unwrap(), property }],
                "{habit:?}, {bytes}"
            );
            let kept = |bucket: &BucketHandle| {
                let there = bucket.inspect("k").unwrap();
                there.metadata.get("x-amz-website-redirect-location").map(str::to_owned)
            };
            assert_eq!((kept(&s.scw).as_deref(), kept(&wasabi)), (Some("/new/place"), None), "{habit:?}, {bytes}");
            let op = if bytes == 3 { Op::PutObject } else { Op::CreateMultipartUpload };
            assert_eq!(wasabi.calls(op), requests, "{habit:?}, {bytes}");
            // What it refuses is not tried again.
            assert!(s.copy(&Job { key: ObjectKey::new("l").unwrap(), ..job }).await.is_proven());
            assert_eq!(wasabi.calls(op), requests + 1, "{habit:?}, {bytes}");
        }
    }
}
