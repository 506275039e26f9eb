//! What a target is known not to hold, and what its answers are known to prove.

use copyhold_sandbox::s3::{Metadata, Op, Synthetic, When};

use super::*;
use crate::settings::{Provider, StoreOverrides};

#[tokio::test]
async fn a_key_that_a_target_cannot_hold_is_refused_before_a_byte_is_read() {
    let s = Setup::new().await;
    s.b2.put("a\nb", "hello");
    let mut job = s.job_knowing("a\nb", Provider::B2, StoreOverrides::default()).await;
    let told = s.copy(&job).await;
    let why = told.of("wasabi").unwrap_err();
    assert_eq!(why.class, FailureClass::Refused);
    assert_eq!(why.message, "target wasabi: the key has a control character, which Backblaze B2 does not take");
    assert_eq!(told.of("scw"), Ok(Verified::Compared));
    assert_eq!((s.b2.calls(Op::GetObject), s.wasabi.calls(Op::PutObject)), (1, 0));
    // Alone, it costs no request at all.
    job.targets.truncate(1);
    s.b2.forget_counts();
    assert_eq!(s.copy(&job).await.class("wasabi"), FailureClass::Refused);
    assert_eq!(s.b2.calls(Op::GetObject), 0);
}

/// Garage would write `/a` over `a`, whose copy is on record.
#[tokio::test]
async fn a_key_that_a_target_takes_for_another_is_refused() {
    let s = Setup::new().await;
    for key in ["/", "/a"] {
        s.b2.put(key, "hello");
        let told = s.copy(&s.job_knowing(key, Provider::Garage, StoreOverrides::default()).await).await;
        let why = told.of("wasabi").unwrap_err();
        assert_eq!(why.class, FailureClass::Refused);
        assert_eq!(why.message, "target wasabi: the key begins with '/', and Garage takes it for the one without");
        assert!(told.of("scw").is_ok());
    }
    assert_eq!(s.wasabi.calls(Op::PutObject), 0);
}

#[tokio::test]
async fn an_upload_that_nobody_could_name_is_not_begun() {
    let s = Setup::new().await;
    for (key, size) in [("small\u{1}", 1_000), ("big\u{1}", 17 * MIB)] {
        s.b2.put_synthetic(key, Synthetic::new(1, size));
        let told = s.copy(&s.job_knowing(key, Provider::Garage, StoreOverrides::default()).await).await;
        assert!(told.of("scw").is_ok());
        assert_eq!(
            told.of("wasabi").map_err(|why| why.class),
            if size < MIB { Ok(Verified::Compared) } else { Err(FailureClass::Refused) }
        );
    }
    assert_eq!(s.wasabi.calls(Op::CreateMultipartUpload), 0);
    assert!(s.leaves_no_upload());
}

#[tokio::test]
async fn a_key_longer_than_the_operator_allows_is_refused() {
    let s = Setup::new().await;
    let key = "k".repeat(901);
    s.b2.put(&key, "hello");
    let facts = StoreOverrides { max_key_bytes: Some(900), ..StoreOverrides::default() };
    let told = s.copy(&s.job_knowing(&key, Provider::Garage, facts).await).await;
    let why = told.of("wasabi").unwrap_err();
    assert_eq!(why.message, "target wasabi: the key has 901 bytes, Garage takes 900 at most");
    assert!(told.of("scw").is_ok());
}

#[tokio::test]
async fn metadata_that_a_target_cannot_hold_is_refused_and_the_others_get_it() {
    let s = Setup::new().await;
    let metadata = Metadata::none().with("x-amz-meta-note", "n".repeat(2_045));
    s.b2.put_with("k", "hello", metadata);
    let told = s.copy(&s.job_knowing("k", Provider::Aws, StoreOverrides::default()).await).await;
    assert_eq!(told.class("wasabi"), FailureClass::Refused);
    assert!(told.of("scw").is_ok());
    assert_eq!(s.scw.inspect("k").unwrap().metadata.get("x-amz-meta-note").map(str::len), Some(2_045));
    assert_eq!(s.wasabi.calls(Op::PutObject), 0);
}

#[tokio::test]
async fn an_object_too_large_for_what_a_target_takes_in_its_parts_is_refused() {
    let s = Setup::new().await;
    s.b2.put_synthetic("big", Synthetic::new(1, 11 * MIB));
    let facts = StoreOverrides { max_parts: Some(2), max_put_bytes: Some(5 * MIB), ..StoreOverrides::default() };
    let told = s.copy(&s.job_knowing("big", Provider::Generic, facts).await).await;
    let why = told.of("wasabi").unwrap_err();
    assert_eq!(why.message, "target wasabi: the object has 11534336 bytes, this store takes 10485760 at most");
    assert!(told.of("scw").is_ok());
}

#[tokio::test]
async fn no_request_is_larger_than_the_operator_says_that_the_store_takes() {
    let s = Setup::new().await;
    s.b2.put_synthetic("big", Synthetic::new(1, 11 * MIB));
    let facts = StoreOverrides { max_put_bytes: Some(5 * MIB), ..StoreOverrides::default() };
    let told = s.copy(&s.job_knowing("big", Provider::Generic, facts).await).await;
    assert!(told.is_proven(), "{told:?}");
    assert_eq!((s.wasabi.calls(Op::UploadPart), s.wasabi.calls(Op::PutObject)), (3, 0));
    assert!(s.is_everywhere("big"));
}

#[tokio::test]
async fn a_store_that_was_measured_to_check_hashes_is_not_read_back() {
    let s = Setup::new().await;
    let facts = StoreOverrides { checks_md5: Some(true), ..StoreOverrides::default() };
    for (key, size, op) in [("small", 1_000, Op::PutObject), ("big", 17 * MIB, Op::CompleteMultipartUpload)] {
        s.b2.put_synthetic(key, Synthetic::new(1, size));
        s.wasabi.order(Fault::WrongEtag, When::op(op));
        let told = s.copy(&s.job_knowing(key, Provider::Aws, facts).await).await;
        assert_eq!(told.of("wasabi"), Ok(Verified::Checked), "{told:?}");
        assert_eq!(s.wasabi.calls(Op::GetObject), 0);
        assert!(s.is_everywhere(key));
    }
    // Where an ETag is known to be the MD5, another one is looked into.
    let told = s.copy(&s.job_knowing("small", Provider::Garage, facts).await).await;
    assert_eq!(told.of("wasabi"), Ok(Verified::ReadBack), "{told:?}");
}
