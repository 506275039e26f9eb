//! Which source is read, and what its failures mean.

use copyhold_sandbox::s3::{Op, When};

use super::*;

/// From b2, else from scw, to wasabi.
async fn two_sources(s: &Setup, key: &str) -> Job {
    let source = async |bucket| Source { store: s.store(bucket).await, recorded: true, primary: bucket == "b2" };
    Job {
        sources: vec![source("b2").await, source("scw").await],
        targets: vec![s.target("wasabi").await],
        ..s.job(key).await
    }
}

#[tokio::test]
async fn a_source_that_lacks_the_object_is_named_and_the_next_one_read() {
    let s = Setup::new().await;
    s.scw.put("k", "hello");
    let told = s.copy(&two_sources(&s, "k").await).await;
    assert_eq!(told.sources_failed(), [("b2", FailureClass::Gone)]);
    assert_eq!(told.of("wasabi"), Ok(Verified::Compared));
    let read = told.steps.iter().find_map(|step| match step {
        CopyStep::Read { from, .. } => Some(from.as_str()),
        _ => None,
    });
    assert_eq!(read, Some("scw"), "{told:?}");
}

#[tokio::test]
async fn an_object_that_no_source_has_is_gone() {
    let s = Setup::new().await;
    let told = s.copy(&two_sources(&s, "k").await).await;
    assert_eq!(told.sources_failed(), [("b2", FailureClass::Gone), ("scw", FailureClass::Gone)]);
    let why = told.of("wasabi").unwrap_err();
    assert_eq!(why.class, FailureClass::Gone);
    assert!(why.message.starts_with("source b2: GetObject: 404 NoSuchKey"), "{why:?}");
}

#[tokio::test]
async fn an_object_is_not_gone_while_a_source_that_should_have_it_cannot_say() {
    let s = Setup::new().await;
    s.scw.order(Fault::slow_down(), When::op(Op::GetObject));
    let told = s.copy(&two_sources(&s, "k").await).await;
    assert_eq!(told.class("wasabi"), FailureClass::Throttled);
}

#[tokio::test]
async fn a_dropped_bucket_is_no_missing_object() {
    let s = Setup::new().await;
    s.server.drop_bucket("b2");
    let told = s.copy(&s.job("k").await).await;
    assert_eq!(told.sources_failed(), [("b2", FailureClass::Misconfigured)]);
    assert_eq!(told.class("wasabi"), FailureClass::Misconfigured);
}

#[tokio::test]
async fn an_archived_object_is_taken_from_another_source() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    s.scw.put("k", "hello");
    s.b2.order(Fault::forbidden("InvalidObjectState"), When::op(Op::GetObject));
    let told = s.copy(&two_sources(&s, "k").await).await;
    assert_eq!(told.sources_failed(), [("b2", FailureClass::Archived)]);
    assert!(told.of("wasabi").is_ok());
}

#[tokio::test]
async fn a_short_body_is_tried_at_the_next_source() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    s.scw.put("k", "hello");
    for fault in [Fault::CutBody { after: 3 }, Fault::ResetBody { after: 3 }] {
        s.b2.order(fault, When::op(Op::GetObject).next(1));
        let told = s.copy(&two_sources(&s, "k").await).await;
        assert_eq!(told.sources_failed(), [("b2", FailureClass::Transient)]);
        assert!(told.of("wasabi").is_ok(), "{told:?}");
    }
}

#[tokio::test]
async fn a_short_body_is_never_written() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    s.b2.order(Fault::CutBody { after: 3 }, When::op(Op::GetObject));
    let told = s.copy(&s.job("k").await).await;
    assert_eq!(told.class("wasabi"), FailureClass::Transient);
    assert_eq!((s.wasabi.calls(Op::PutObject), told.read()), (0, None));
}

#[tokio::test]
async fn an_object_of_another_size_than_was_registered_is_not_the_one_registered() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    for stated in [0, 4, 6, u64::MAX] {
        let told = s.copy(&Job { stated_bytes: Some(stated), ..s.job("k").await }).await;
        assert_eq!(told.sources_failed(), [("b2", FailureClass::Gone)]);
        let why = told.of("wasabi").unwrap_err();
        assert!(why.message.contains(&format!("5 bytes under this key and {stated} were registered")), "{why:?}");
        assert_eq!(told.read(), None);
    }
    assert_eq!(s.wasabi.calls(Op::PutObject), 0);
}

#[tokio::test]
async fn a_copy_without_targets_reads_to_the_end_which_proves_the_source() {
    let s = Setup::new().await;
    for (key, size) in [("small", 5), ("big", 17 << 20)] {
        s.b2.put(key, vec![7; size]);
        let told = s.copy(&Job { targets: Vec::new(), ..s.job(key).await }).await;
        assert_eq!((told.ended, told.steps.len()), (CopyEnd::Done, 2), "{told:?}");
        assert_eq!(told.read(), Some(s.b2.inspect(key).unwrap().content));
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_told_in_words() {
    let s = Setup::new().await;
    let job = s.job("k").await;
    s.server.close().await;
    let why = s.copy(&job).await.of("wasabi").unwrap_err();
    assert_eq!(why.class, FailureClass::Transient);
    let told = format!("source b2: GetObject: cannot reach {}: connection refused", s.server.endpoint());
    assert_eq!(why.message, told);
}
