//! The next attempt resumes an upload in parts.

use copyhold_sandbox::s3::{Op, Synthetic, When};

use super::*;

const PART: u64 = 16 * MIB;
const FIVE_PARTS: u64 = 4 * PART + 1;

/// After an attempt in which each target has got some parts, and the source broke off for good.
async fn half_done(etag_is_md5: bool) -> Setup {
    let s = Setup::new().await;
    let object = Synthetic::new(1, FIVE_PARTS);
    if etag_is_md5 {
        s.b2.put_synthetic("big", object);
    } else {
        s.b2.put_synthetic_in_parts("big", object, 8 * MIB);
    }
    s.b2.order(Fault::answer(404, "NoSuchKey"), When::op(Op::GetObject).skip(3));
    let told = s.copy(&s.job("big").await).await;
    assert_eq!((told.class("wasabi"), told.class("scw")), (FailureClass::Transient, FailureClass::Transient));
    s.b2.clear_faults();
    s
}

impl Setup {
    /// Parts that the stores have taken, of how many that they were to take.
    fn parts_taken(&self) -> (u64, u64) {
        (self.wasabi.successes(Op::UploadPart), self.scw.successes(Op::UploadPart))
    }
}

#[tokio::test]
async fn what_was_sent_is_not_sent_again_and_only_what_is_missing_is_read() {
    let s = half_done(false).await;
    let before = (s.notebook.parts("wasabi").len(), s.notebook.parts("scw").len());
    let reads = s.b2.calls(Op::GetObject);
    let told = s.copy(&s.job("big").await).await;
    assert!(told.is_proven(), "{told:?}");
    assert_eq!(told.of("wasabi"), Ok(Verified::Compared));
    assert!(s.is_everywhere("big") && s.leaves_no_upload());
    let missing = 5 - before.0.min(before.1) as u64;
    // One more asks how long it is.
    assert!(s.b2.calls(Op::GetObject) - reads <= missing + 1, "{before:?}");
    assert_eq!(s.wasabi.calls(Op::CreateMultipartUpload), 1);
}

#[tokio::test]
async fn where_the_sources_etag_is_an_md5_all_is_read_for_it_and_still_not_sent_again() {
    let s = half_done(true).await;
    let (taken, kept) = (s.parts_taken(), (s.notebook.parts("wasabi").len(), s.notebook.parts("scw").len()));
    let told = s.copy(&s.job("big").await).await;
    assert!(told.is_proven(), "{told:?}");
    assert!(s.is_everywhere("big") && s.leaves_no_upload());
    let after = s.parts_taken();
    let lacked = |kept: usize| 5 - kept as u64;
    assert_eq!((after.0 - taken.0, after.1 - taken.1), (lacked(kept.0), lacked(kept.1)));
    // A second reading would have been another way to know.
    assert!(s.b2.calls(Op::GetObject) <= 4 + 5 + 2, "{}", s.b2.calls(Op::GetObject));
}

#[tokio::test]
async fn a_target_that_has_all_parts_needs_only_to_be_completed() {
    let s = Setup::new().await;
    s.b2.put_synthetic_in_parts("big", Synthetic::new(1, FIVE_PARTS), 8 * MIB);
    for target in [&s.wasabi, &s.scw] {
        target.order(Fault::access_denied(), When::op(Op::CompleteMultipartUpload));
    }
    let told = s.copy(&s.job("big").await).await;
    assert_eq!((told.class("wasabi"), told.class("scw")), (FailureClass::Denied, FailureClass::Denied));
    s.wasabi.clear_faults();
    s.scw.clear_faults();
    let reads = s.b2.calls(Op::GetObject);
    assert!(s.copy(&s.job("big").await).await.is_proven());
    assert_eq!((s.parts_taken(), s.b2.calls(Op::GetObject) - reads), ((5, 5), 1));
    assert!(s.is_everywhere("big") && s.leaves_no_upload());
}

#[tokio::test]
async fn an_upload_of_which_nobody_heard_that_it_was_completed_is_found_to_be_the_object() {
    let s = Setup::new().await;
    s.b2.put_synthetic_in_parts("big", Synthetic::new(1, FIVE_PARTS), 8 * MIB);
    // It dies when the object has just appeared.
    s.wasabi.order(Fault::Stall, When::op(Op::HeadObject));
    s.wasabi.order(Fault::LoseAnswer, When::op(Op::CompleteMultipartUpload));
    let job = s.job("big").await;
    let killed = async {
        s.wasabi.arrived(Op::HeadObject, 1).await;
    };
    tokio::select! {
        told = s.copy(&job) => panic!("{told:?}"),
        () = killed => {}
    }
    s.wasabi.clear_faults();
    assert_eq!(s.notebook.parts("wasabi").len(), 5, "they were written down before");
    let told = s.copy(&s.job("big").await).await;
    assert!(told.is_proven(), "{told:?}");
    assert_eq!((s.wasabi.successes(Op::UploadPart), s.wasabi.writes("big")), (5, 1));
    assert!(s.leaves_no_upload());
}

#[tokio::test]
async fn an_upload_that_the_store_has_forgotten_is_begun_anew_at_once() {
    let s = half_done(false).await;
    s.wasabi.expire_uploads();
    let told = s.copy(&s.job("big").await).await;
    assert!(told.is_proven(), "{told:?}");
    assert_eq!(s.wasabi.calls(Op::CreateMultipartUpload), 2);
    assert!(s.is_everywhere("big") && s.leaves_no_upload());
}

#[tokio::test]
async fn what_was_sent_of_another_content_is_not_gone_on_with() {
    let s = half_done(false).await;
    s.b2.put_synthetic_in_parts("big", Synthetic::new(2, FIVE_PARTS), 8 * MIB);
    let told = s.copy(&s.job("big").await).await;
    assert!(told.is_proven(), "{told:?}");
    assert!(s.is_everywhere("big"));
    assert_eq!((s.wasabi.calls(Op::CreateMultipartUpload), s.scw.calls(Op::CreateMultipartUpload)), (2, 2));
}

#[tokio::test]
async fn parts_that_were_written_down_wrongly_are_found_out_and_the_upload_begins_anew() {
    for forged in [
        // The store has another part than it seems.
        |part: &mut UploadedPart| part.etag = crate::store::ETag::new("\"0f343b0931126a20f133d67c2b018a3b\""),
        // It is a part of something else.
        |part: &mut UploadedPart| part.crc ^= 1,
    ] {
        let s = half_done(true).await;
        s.notebook.forge(|page| page.parts.iter_mut().filter(|part| part.number == 1).for_each(forged));
        assert!(s.notebook.parts("wasabi").contains(&1) && s.notebook.parts("scw").contains(&1));
        let told = s.copy(&s.job("big").await).await;
        assert_eq!(
            (told.class("wasabi"), told.class("scw")),
            (FailureClass::Transient, FailureClass::Transient),
            "{told:?}"
        );
        assert!(s.wasabi.keys().is_empty() && s.scw.keys().is_empty() && s.leaves_no_upload());
        assert!(s.copy(&s.job("big").await).await.is_proven());
        assert!(s.is_everywhere("big"));
    }
}

#[tokio::test]
async fn nothing_is_begun_at_a_store_before_it_is_written_down() {
    let s = Setup::new().await;
    s.b2.put_synthetic("big", Synthetic::new(1, FIVE_PARTS));
    s.notebook.close();
    let job = s.job("big").await;
    let stop = async {
        s.b2.arrived(Op::GetObject, 1).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        s.stop.cancel();
    };
    let (told, ()) = tokio::join!(s.copy(&job), stop);
    assert_eq!(told.ended, CopyEnd::Cancelled);
    assert_eq!((s.wasabi.calls(Op::CreateMultipartUpload), s.scw.calls(Op::CreateMultipartUpload)), (0, 0));
}

#[tokio::test]
async fn where_versions_are_kept_a_second_attempt_looks_for_the_first_before_it_writes() {
    let s = Setup::with(BucketOptions { versioned: true, ..BucketOptions::default() }).await;
    s.b2.put("k", "hello");
    s.wasabi.order(Fault::LoseAnswer, When::op(Op::PutObject).next(1));
    let told = s.copy(&s.job("k").await).await;
    assert_eq!(told.class("wasabi"), FailureClass::Transient);
    let (left, mut job) = (s.wasabi.writes("k"), s.job("k").await);
    job.targets.iter_mut().for_each(|target| target.again = true);
    let told = s.copy(&job).await;
    assert_eq!((told.of("wasabi"), told.of("scw")), (Ok(Verified::ReadBack), Ok(Verified::ReadBack)), "{told:?}");
    assert_eq!((s.wasabi.writes("k"), s.scw.writes("k")), (left, 1));
    // Another content of the same size is not taken for it.
    s.b2.put("k", "world");
    assert!(s.copy(&job).await.is_proven());
    assert!(s.is_everywhere("k"));
}
