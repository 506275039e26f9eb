//! Stores that answer writes with no ETag, or with one that proves nothing, and show an object late.

use copyhold_sandbox::s3::{Op, PauseGate, Quirk, When};

use super::*;
use crate::store::{ETag, Md5};

async fn opaque() -> Setup {
    Setup::with(BucketOptions::default().with(Quirk::OpaqueEtags)).await
}

/// From a source of which it is known that its ETags are no MD5s.
async fn job(s: &Setup, key: &str) -> Job {
    let mut job = s.job(key).await;
    let facts = settings::StoreOverrides { md5_etags: Some(false), ..settings::StoreOverrides::default() };
    job.sources[0].store = s.store_of("b2", settings::Provider::Generic, facts).await;
    job
}

#[tokio::test]
async fn a_write_that_is_answered_without_an_etag_is_proven_by_reading_it_back() {
    let s = Setup::new().await;
    for (key, size, ops) in
        [("small", 1_000, &[Op::PutObject][..]), ("big", 17 << 20, &[Op::UploadPart, Op::CompleteMultipartUpload])]
    {
        s.b2.put(key, vec![7; size]);
        for op in ops {
            s.wasabi.order(Fault::NoEtag, When::op(*op));
        }
        let told = s.copy(&job(&s, key).await).await;
        assert_eq!((told.of("wasabi"), told.of("scw")), (Ok(Verified::ReadBack), Ok(Verified::Compared)), "{told:?}");
        assert_eq!(s.wasabi.writes(key), 1);
        assert!(s.is_everywhere(key) && s.leaves_no_upload());
    }
}

#[tokio::test]
async fn an_object_that_is_shown_late_is_waited_for_and_not_sent_again() {
    let s = opaque().await;
    s.b2.put("k", "hello");
    let late = s.wasabi.order(Fault::answer(404, "NoSuchKey"), When::op(Op::GetObject).next(2));
    let told = s.copy(&job(&s, "k").await).await;
    assert_eq!(told.of("wasabi"), Ok(Verified::ReadBack), "{told:?}");
    assert_eq!((late.strikes(), s.wasabi.calls(Op::PutObject)), (2, 1));
}

#[tokio::test]
async fn an_older_object_that_is_still_shown_is_not_taken_for_damage() {
    let s = opaque().await;
    s.wasabi.put("k", "older");
    let (content, gate) = (content_of_bytes(b"newer"), PauseGate::new());
    let held = s.wasabi.order(Fault::HoldAnswer(gate.clone()), When::op(Op::GetObject).next(1));
    let (store, key) = (s.store("wasabi").await, ObjectKey::new("k").unwrap());
    let (md5, answered) = (md5_of(b"newer"), ETag::new("\"of the newer\""));
    let proving = verify::prove(&store, &key, &content, std::slice::from_ref(&md5), Some(&answered), true);
    let showing = async {
        gate.holds(1).await;
        s.wasabi.put("k", "newer");
        gate.open();
    };
    let (proof, ()) = tokio::join!(proving, showing);
    assert_eq!(proof, Ok(Verified::ReadBack));
    assert_eq!((held.strikes(), s.wasabi.calls(Op::GetObject)), (1, 2));
}

#[tokio::test]
async fn what_is_ours_by_its_etag_and_has_other_bytes_is_not_waited_for() {
    let s = opaque().await;
    s.b2.put("k", "hello");
    s.wasabi.order(Fault::FlipBody { at: 2 }, When::op(Op::GetObject));
    let told = s.copy(&job(&s, "k").await).await;
    assert_eq!(told.class("wasabi"), FailureClass::Corrupt);
    assert_eq!(s.wasabi.calls(Op::GetObject), 1);
}

#[tokio::test]
async fn a_later_attempt_looks_before_it_sends_again_where_etags_prove_nothing() {
    let s = opaque().await;
    s.b2.put("k", "hello");
    let mut job = job(&s, "k").await;
    job.targets.truncate(1);
    // The reading back fails, which leaves a good copy that is not proven.
    let denied = s.wasabi.order(Fault::access_denied(), When::op(Op::GetObject));
    assert_eq!(s.copy(&job).await.class("wasabi"), FailureClass::Denied);
    denied.clear();
    job.targets[0].again = true;
    assert_eq!(s.copy(&job).await.of("wasabi"), Ok(Verified::ReadBack));
    assert_eq!(s.wasabi.calls(Op::PutObject), 1);
    // Another content does not stand in for it.
    s.b2.put("k", "world");
    assert_eq!(s.copy(&job).await.of("wasabi"), Ok(Verified::ReadBack));
    assert_eq!(s.wasabi.calls(Op::PutObject), 2);
}

#[tokio::test]
async fn a_source_that_makes_up_etags_is_told_as_such() {
    let s = Setup::new().await;
    s.b2.put_synthetic_in_parts("big", copyhold_sandbox::s3::Synthetic::new(1, 17 * MIB), 8 * MIB);
    s.b2.order(Fault::WrongEtag, When::op(Op::GetObject).skip(1));
    let told = s.copy(&job(&s, "big").await).await;
    let why = told.of("wasabi").unwrap_err();
    assert_eq!(why.class, FailureClass::Changed);
    assert!(why.message.contains("makes up ETags, and cannot be read in pieces"), "{why:?}");
}

fn content_of_bytes(bytes: &[u8]) -> Content {
    let mut hash = hash::Crc64::new();
    hash.update(bytes);
    hash.content()
}

fn md5_of(bytes: &[u8]) -> Md5 {
    let mut hash = hash::Crc64AndMd5::new();
    hash.update(bytes);
    hash.finish().1
}
