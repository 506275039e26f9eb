//! What is read is not what this generation's first read found.

use copyhold_sandbox::s3::{Op, Synthetic, When};

use super::*;

const SMALL: u64 = 1_000;
/// More than one part of 16 MiB.
const BIG: u64 = 17 * MIB;

/// What was known of an object of which `there` stands at `bucket` by now.
fn known_before(bucket: &BucketHandle, key: &str, there: u64, known: u64) -> Content {
    bucket.put_synthetic(key, Synthetic::new(2, there));
    Content { size_bytes: known, hash: Synthetic::new(1, known).hash() }
}

/// The first reading was long ago, and found another ETag.
pub(super) fn long_ago() -> RecordedSource {
    let replica = ReplicaName::new("b2").unwrap();
    let reading = SourceReading { replica, modified_us: Some(1), tag: Some(1) };
    RecordedSource { reading: Some(reading), recorded_us: None }
}

#[tokio::test]
async fn another_content_at_the_primary_is_told_whole_and_written_nowhere() {
    let s = Setup::new().await;
    // Of the same size, or of another one, which is no reason to believe it unread.
    for (key, known, there) in [
        ("small", SMALL, SMALL),
        ("grown", SMALL, SMALL + 1),
        ("big", BIG, BIG),
        ("outgrown", SMALL, BIG),
        ("shrunk", BIG, SMALL),
    ] {
        let content = known_before(&s.b2, key, there, known);
        let told = s.copy(&Job { content: Some(content), kept: long_ago(), ..s.job(key).await }).await;
        assert_eq!((told.class("wasabi"), told.class("scw")), (FailureClass::Changed, FailureClass::Changed), "{key}");
        assert_eq!(told.changed(), Some(s.b2.inspect(key).unwrap().content), "{key}");
        assert_eq!((told.read(), told.stale()), (None, vec![]), "{key}");
        // The request of the next attempt, which knows the object.
        assert!(s.copy(&Job { content: told.changed(), ..s.job(key).await }).await.is_proven(), "{key}");
    }
    for key in ["small", "grown", "big", "outgrown", "shrunk"] {
        assert_eq!((s.wasabi.writes(key), s.scw.writes(key)), (1, 1), "{key}");
    }
    assert!(s.leaves_no_upload());
}

#[tokio::test]
async fn another_content_is_not_believed_for_damage_on_the_way() {
    let s = Setup::new().await;
    for (key, size) in [("small", SMALL), ("big", BIG)] {
        s.b2.put_synthetic(key, Synthetic::new(1, size));
        let content = s.b2.inspect(key).unwrap().content;
        s.b2.order(Fault::FlipBody { at: 17 }, When::op(Op::GetObject).key(key).next(1));
        let told = s.copy(&Job { content: Some(content), ..s.job(key).await }).await;
        assert_eq!((told.class("wasabi"), told.changed()), (FailureClass::Corrupt, None), "{key}");
    }
    assert!(s.wasabi.keys().is_empty() && s.leaves_no_upload());
}

#[tokio::test]
async fn where_no_etag_says_so_another_content_is_read_twice_before_it_is_believed() {
    let s = Setup::new().await;
    for (key, etag) in
        [("of parts", "\"0f343b0931126a20f133d67c2b018a3b-2\""), ("of another hash", "\"an-opaque-one\"")]
    {
        s.b2.put_synthetic_as(key, Synthetic::new(2, SMALL), etag);
        let content = Content { size_bytes: SMALL, hash: Synthetic::new(1, SMALL).hash() };
        let before = s.b2.calls(Op::GetObject);
        let told = s.copy(&Job { content: Some(content), kept: long_ago(), ..s.job(key).await }).await;
        assert_eq!(told.changed(), Some(s.b2.inspect(key).unwrap().content), "{key}");
        assert_eq!(s.b2.calls(Op::GetObject) - before, 2, "{key}");
        // An answer that is damaged on the way is not accepted, although only the second reading shows the damage.
        s.b2.order(Fault::FlipBody { at: 17 }, When::op(Op::GetObject).key(key).next(1));
        let told = s.copy(&Job { content: Some(content), kept: long_ago(), ..s.job(key).await }).await;
        assert_eq!((told.class("wasabi"), told.changed()), (FailureClass::Corrupt, None), "{key}");
    }
    assert!(s.wasabi.keys().is_empty());
}

#[tokio::test]
async fn another_content_at_another_replica_is_a_bad_copy_and_the_next_source_is_read() {
    let s = Setup::new().await;
    for (key, known, there) in [("small", SMALL, SMALL), ("cut", SMALL, SMALL - 1), ("big", BIG, BIG)] {
        let content = known_before(&s.scw, key, there, known);
        s.wasabi.put_synthetic(key, Synthetic::new(1, known));
        let source = async |bucket| Source { store: s.store(bucket).await, recorded: true, primary: false };
        let job = async |sources| Job {
            content: Some(content),
            sources,
            targets: vec![s.target("b2").await],
            ..s.job(key).await
        };
        let told = s.copy(&job(vec![source("scw").await, source("wasabi").await]).await).await;
        assert_eq!(told.stale(), ["scw"], "{key}");
        assert_eq!((told.of("b2"), told.read()), (Ok(Verified::Compared), Some(content)), "{key}");
        assert_eq!(s.b2.inspect(key).unwrap().content, content, "{key}");
        // Without another source the targets are told why.
        let told = s.copy(&job(vec![source("scw").await]).await).await;
        assert_eq!((told.stale(), told.class("b2"), told.read()), (vec!["scw"], FailureClass::Corrupt, None), "{key}");
    }
    assert!(s.b2.uploads().is_empty());
}

#[tokio::test]
async fn a_target_that_failed_before_the_source_proved_bad_is_not_told_twice() {
    let s = Setup::new().await;
    let content = known_before(&s.scw, "big", BIG, BIG);
    s.b2.put_synthetic("big", Synthetic::new(1, BIG));
    s.wasabi.order(Fault::access_denied(), When::op(Op::CreateMultipartUpload));
    let source = async |bucket| Source { store: s.store(bucket).await, recorded: true, primary: false };
    let other = s.server.create_bucket("other", BucketOptions::default());
    let job = Job {
        content: Some(content),
        sources: vec![source("scw").await, source("b2").await],
        targets: vec![s.target("wasabi").await, s.target("other").await],
        ..s.job("big").await
    };
    let told = s.copy(&job).await;
    assert_eq!((told.class("wasabi"), told.of("other")), (FailureClass::Denied, Ok(Verified::Compared)), "{told:?}");
    assert_eq!(other.inspect("big").unwrap().content, content);
}
