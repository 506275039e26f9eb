//! Buckets that held data before Copyhold came.

use std::time::{Duration, SystemTime};

use copyhold_sandbox::s3::{BucketOptions, Metadata, Op, Quirk, Synthetic, synthetic};

use super::*;

const BIG: u64 = 17 * MIB;

/// Both targets adopt what is there, however new it is.
async fn adopting(s: &Setup, key: &str) -> Job {
    let mut job = s.job(key).await;
    for target in &mut job.targets {
        target.existing = OnExisting::Adopt { older_than: None };
    }
    job
}

#[tokio::test]
async fn an_equal_object_from_before_counts_as_the_copy() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    s.wasabi.put("k", "hello");
    let told = s.copy(&adopting(&s, "k").await).await;
    assert!(told.is_proven(), "{told:?}");
    assert_eq!((s.wasabi.calls(Op::PutObject), s.wasabi.calls(Op::GetObject)), (0, 0));
    assert_eq!(s.scw.writes("k"), 1);
}

#[tokio::test]
async fn an_equal_object_with_other_metadata_is_left_alone_and_the_header_named() {
    let s = Setup::new().await;
    let with = |name: &str, value: &str| Metadata::none().with(name, value);
    s.b2.put_with("k", "hello", with("x-amz-meta-colour", "red"));
    s.wasabi.put_with("k", "hello", with("x-amz-meta-colour", "blue"));
    s.scw.put_with("k", "hello", with("x-amz-meta-colour", "red"));
    let told = s.copy(&adopting(&s, "k").await).await;
    let why = told.of("wasabi").unwrap_err();
    assert_eq!(why.class, FailureClass::Refused);
    assert!(
        why.message.contains("other metadata is already there") && why.message.contains("x-amz-meta-colour"),
        "{why:?}"
    );
    assert_eq!(told.of("scw"), Ok(Verified::Compared));
    assert_eq!((s.wasabi.calls(Op::PutObject), s.scw.calls(Op::PutObject)), (0, 0));
}

#[tokio::test]
async fn a_copy_whose_metadata_the_store_alters_is_refused_and_ordinary_names_cost_one_look() {
    let s = Setup::with(BucketOptions::default().with(Quirk::AltersMetadataNames)).await;
    s.b2.put_with("odd", "hello", Metadata::none().with("x-amz-meta-a_b", "1"));
    s.b2.put_with("plain", "hello", Metadata::none().with("x-amz-meta-a-b", "1"));
    let why = s.copy(&s.job("odd").await).await.of("wasabi").unwrap_err();
    assert_eq!(why.class, FailureClass::Refused);
    assert!(why.message.contains("it keeps other metadata than was sent: x-amz-meta-a_b differs"), "{why:?}");
    s.b2.put_with("first", "hello", Metadata::none().with("x-amz-meta-b", "2"));
    // Which shows that user metadata is kept, and what its targets make of other spellings of keys.
    let first = s.job("first").await;
    assert!(s.copy(&first).await.is_proven());
    let looks = s.wasabi.calls(Op::HeadObject);
    assert!(s.copy(&Job { key: ObjectKey::new("plain").unwrap(), ..first }).await.is_proven());
    assert_eq!(s.wasabi.calls(Op::HeadObject), looks);
}

#[tokio::test]
async fn an_object_in_parts_whose_metadata_the_store_alters_or_drops_is_refused_and_what_it_lower_cases_is_not() {
    for quirk in [Quirk::AltersMetadataNames, Quirk::DropsOddMetadata] {
        let s = Setup::with(BucketOptions::default().with(quirk)).await;
        let with = |name: &str| Metadata::none().with(name, "1");
        s.b2.put_with("odd", synthetic::bytes(1, 0..BIG), with("x-amz-meta-a_b"));
        s.b2.put_with("plain", synthetic::bytes(1, 0..BIG), with("x-amz-meta-A-B"));
        let why = s.copy(&s.job("odd").await).await.of("wasabi").unwrap_err();
        assert_eq!(why.class, FailureClass::Refused, "{quirk:?}");
        assert!(why.message.contains("it keeps other metadata than was sent: x-amz-meta-a"), "{why:?}");
        assert!(s.leaves_no_upload(), "{quirk:?}: the upload itself is over");
        let told = s.copy(&s.job("plain").await).await;
        assert!(told.is_proven(), "{quirk:?} {told:?}");
        // The operator says that copies may differ in that.
        let facts =
            settings::StoreOverrides { accepts_altered_metadata: Some(true), ..settings::StoreOverrides::default() };
        let told = s.copy(&s.job_knowing("odd", settings::Provider::Generic, facts).await).await;
        assert!(told.of("wasabi").is_ok(), "{quirk:?} {told:?}");
    }
}

#[tokio::test]
async fn the_first_copy_shows_whether_the_stores_clock_allows_adoption_however_it_was_sent() {
    for bytes in [MIB, BIG] {
        let s = Setup::new().await;
        s.b2.put_synthetic("k", Synthetic::new(1, bytes));
        let mut job = s.job("k").await;
        // By its own clock the bucket was opened later than what was just written to it.
        let later = s.b2.inspect("k").unwrap().modified + Duration::from_hours(1);
        job.targets[0].existing = OnExisting::Adopt { older_than: Some(later) };
        job.targets[1].existing = OnExisting::Adopt { older_than: Some(SystemTime::UNIX_EPOCH) };
        let told = s.copy(&job).await;
        let why = told.of("wasabi").unwrap_err();
        assert_eq!(why.class, FailureClass::Misconfigured, "{bytes}");
        assert!(why.message.contains("this store's clock does not allow existing"), "{why:?}");
        assert_eq!(told.of("scw"), Ok(Verified::Compared), "{bytes}");
    }
}

#[tokio::test]
async fn another_object_from_before_is_never_written_over() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    for other in ["hullo", "hello, world"] {
        s.wasabi.put("k", other);
        let told = s.copy(&adopting(&s, "k").await).await;
        let why = told.of("wasabi").unwrap_err();
        assert_eq!(why.class, FailureClass::Refused);
        assert!(why.message.contains("another object is already there"), "{why:?}");
        assert_eq!(s.wasabi.get("k").unwrap(), other);
    }
    assert_eq!(s.wasabi.calls(Op::PutObject), 0);
}

#[tokio::test]
async fn an_equal_big_object_is_known_by_its_bytes() {
    let s = Setup::new().await;
    s.b2.put_synthetic("big", Synthetic::new(1, BIG));
    // Uploaded by another program, in parts of another size: the ETag says nothing.
    s.wasabi.put_synthetic_in_parts("big", Synthetic::new(1, BIG), 8 * MIB);
    s.scw.put_synthetic("big", Synthetic::new(1, BIG));
    let told = s.copy(&adopting(&s, "big").await).await;
    assert_eq!((told.of("wasabi"), told.of("scw")), (Ok(Verified::ReadBack), Ok(Verified::Compared)), "{told:?}");
    for target in [&s.wasabi, &s.scw] {
        assert_eq!(target.calls(Op::CreateMultipartUpload), 0);
    }
}

#[tokio::test]
async fn an_equal_object_in_parts_with_other_metadata_is_left_alone_and_the_header_named() {
    let s = Setup::new().await;
    let with = |value: &str| Metadata::none().with("x-amz-meta-colour", value);
    s.b2.put_with("big", synthetic::bytes(1, 0..BIG), with("red"));
    s.wasabi.put_with("big", synthetic::bytes(1, 0..BIG), with("blue"));
    s.scw.put_with("big", synthetic::bytes(1, 0..BIG), with("red"));
    let told = s.copy(&adopting(&s, "big").await).await;
    let why = told.of("wasabi").unwrap_err();
    assert_eq!(why.class, FailureClass::Refused);
    assert!(why.message.contains("x-amz-meta-colour differs"), "{why:?}");
    assert!(told.of("scw").is_ok(), "{told:?}");
    assert_eq!((s.wasabi.calls(Op::CreateMultipartUpload), s.scw.calls(Op::CreateMultipartUpload)), (0, 0));
}

#[tokio::test]
async fn another_big_object_is_never_written_over() {
    let s = Setup::new().await;
    s.b2.put_synthetic("big", Synthetic::new(1, BIG));
    s.wasabi.put("big", synthetic::bytes(2, 0..BIG));
    s.scw.put("big", "short");
    let told = s.copy(&adopting(&s, "big").await).await;
    assert_eq!((told.class("wasabi"), told.class("scw")), (FailureClass::Refused, FailureClass::Refused), "{told:?}");
    assert_eq!(s.wasabi.calls(Op::CreateMultipartUpload) + s.scw.calls(Op::CreateMultipartUpload), 0);
}

#[tokio::test]
async fn what_an_earlier_attempt_left_is_written_over() {
    let s = Setup::new().await;
    s.b2.put("k", "hello");
    s.wasabi.put("k", "half of an earlier attempt");
    let mut job = s.job("k").await;
    for target in &mut job.targets {
        target.existing = OnExisting::Adopt { older_than: Some(SystemTime::UNIX_EPOCH) };
    }
    assert!(s.copy(&job).await.is_proven());
    assert!(s.is_everywhere("k"));
}

#[tokio::test]
async fn a_first_copy_that_the_stores_clock_does_not_tell_from_older_objects_ends_adopting() {
    let s = Setup::new().await;
    for key in ["a", "b"] {
        s.b2.put(key, "hello");
    }
    s.wasabi.put("b", "theirs");
    let mut job = s.job("a").await;
    let of_later = Some(SystemTime::UNIX_EPOCH + Duration::from_hours(1_000_000));
    for target in &mut job.targets {
        target.existing = OnExisting::Adopt { older_than: of_later };
    }
    let told = s.copy(&job).await;
    let why = told.of("wasabi").unwrap_err();
    assert_eq!(why.class, FailureClass::Misconfigured);
    assert!(why.message.contains("this store's clock does not allow existing = \"adopt\""), "{why:?}");
    // From then on nothing is looked at there, and nothing written.
    let again = Job { key: ObjectKey::new("b").unwrap(), ..job };
    assert_eq!(s.copy(&again).await.class("wasabi"), FailureClass::Misconfigured);
    assert_eq!((s.wasabi.calls(Op::PutObject), s.wasabi.get("b").unwrap()), (1, "theirs".into()));
}
