//! Parts that are too large to be held.

use copyhold_sandbox::s3::{Op, Synthetic, When};

use super::*;

/// Three parts of 16 MiB and a bit, each more than a quarter of the memory.
const OBJECT: u64 = 48 * MIB + 5;

async fn little_memory() -> Setup {
    let mut s = Setup::new().await;
    s.memory = Memory::new(32 * MIB);
    s.b2.put_synthetic_in_parts("big", Synthetic::new(1, OBJECT), 8 * MIB);
    s
}

#[tokio::test]
async fn a_part_that_does_not_fit_is_sent_as_it_is_read_and_read_once() {
    let s = little_memory().await;
    let told = s.copy(&s.job("big").await).await;
    assert_eq!((told.of("wasabi"), told.of("scw")), (Ok(Verified::Compared), Ok(Verified::Compared)), "{told:?}");
    assert!(s.is_everywhere("big") && s.leaves_no_upload());
    assert_eq!(told.read(), Some(s.b2.inspect("big").unwrap().content));
    assert!(s.memory.peak_bytes() <= 32 * MIB);
    // One more asks how long it is.
    assert_eq!((s.b2.calls(Op::GetObject), s.wasabi.calls(Op::UploadPart)), (5, 4));
}

#[tokio::test]
async fn a_part_that_breaks_is_sent_again_to_whoever_lacks_it() {
    let s = little_memory().await;
    s.b2.order(Fault::CutBody { after: 5_000_000 }, When::op(Op::GetObject).skip(2).next(1));
    s.wasabi.order(Fault::internal_error(), When::op(Op::UploadPart).skip(1).next(1));
    let told = s.copy(&s.job("big").await).await;
    assert!(told.is_proven(), "{told:?}");
    assert!(s.is_everywhere("big") && s.leaves_no_upload());
    assert_eq!((s.wasabi.successes(Op::UploadPart), s.scw.successes(Op::UploadPart)), (4, 4));
}

#[tokio::test]
async fn a_byte_flipped_on_the_way_is_seen_by_what_the_store_answers_and_the_part_sent_again() {
    let s = little_memory().await;
    s.wasabi.order(Fault::FlipArriving { at: 17 }, When::op(Op::UploadPart).skip(1).next(1));
    let told = s.copy(&s.job("big").await).await;
    assert_eq!(told.of("wasabi"), Ok(Verified::Compared));
    assert!(s.is_everywhere("big"));
    assert_eq!((s.wasabi.successes(Op::UploadPart), s.scw.successes(Op::UploadPart)), (5, 4));
}

#[tokio::test]
async fn damage_that_stays_is_not_recorded() {
    let s = little_memory().await;
    s.wasabi.order(Fault::FlipArriving { at: 17 }, When::op(Op::UploadPart));
    let told = s.copy(&s.job("big").await).await;
    assert_eq!((told.class("wasabi"), told.of("scw")), (FailureClass::Corrupt, Ok(Verified::Compared)), "{told:?}");
}

#[tokio::test]
async fn what_carried_no_hash_is_not_taken_for_checked() {
    let s = little_memory().await;
    s.wasabi.order(Fault::WrongEtag, When::op(Op::CompleteMultipartUpload));
    let facts = settings::StoreOverrides { checks_md5: Some(true), ..settings::StoreOverrides::default() };
    let told = s.copy(&s.job_knowing("big", settings::Provider::Generic, facts).await).await;
    assert_eq!(told.of("wasabi"), Ok(Verified::ReadBack), "{told:?}");
}

#[tokio::test]
async fn a_target_that_fails_or_hangs_in_a_part_does_not_stop_the_other() {
    for fault in [Fault::access_denied(), Fault::Stall, Fault::ResetUpload { after: 3_000_000 }] {
        let s = little_memory().await;
        s.wasabi.order(fault, When::op(Op::UploadPart).skip(1));
        let told = s.copy(&Job { lag: Duration::from_millis(200), ..s.job("big").await }).await;
        assert_eq!(told.of("scw"), Ok(Verified::Compared), "{told:?}");
        assert!(told.of("wasabi").is_err());
        s.wasabi.clear_faults();
        assert!(s.copy(&s.job("big").await).await.is_proven());
        assert!(s.is_everywhere("big"));
    }
}

#[tokio::test]
async fn a_source_that_breaks_for_good_fails_the_attempt_and_no_store_takes_the_half_for_the_whole() {
    let s = little_memory().await;
    s.b2.order(Fault::CutBody { after: 5_000_000 }, When::op(Op::GetObject).skip(1));
    let told = s.copy(&s.job("big").await).await;
    assert_eq!(told.sources_failed(), [("b2", FailureClass::Transient)]);
    // The last part is shorter than what comes before the end.
    let upload = s.wasabi.uploads().remove(0);
    assert_eq!(
        upload.parts.iter().map(|(number, content)| (*number, content.size_bytes)).collect::<Vec<_>>(),
        [(4, 5)]
    );
}

#[tokio::test]
async fn a_part_that_comes_with_other_bytes_when_it_is_read_again_is_not_recorded() {
    let s = little_memory().await;
    // wasabi needs the first part again, whose second reading is damaged. The SDK repeats nothing that is streamed.
    s.wasabi.order(Fault::internal_error(), When::op(Op::UploadPart).next(1));
    s.b2.order(Fault::FlipBody { at: 17 }, When::op(Op::GetObject).skip(5));
    let told = s.copy(&s.job("big").await).await;
    assert_eq!((told.class("wasabi"), told.of("scw")), (FailureClass::Corrupt, Ok(Verified::Compared)));
    let why = told.of("wasabi").unwrap_err().message;
    assert!(
        why.starts_with("source b2: part ") && why.ends_with(" came with other bytes when it was read again"),
        "{why}"
    );
    assert!(s.wasabi.keys().is_empty() && s.leaves_no_upload());
    s.b2.clear_faults();
    assert!(s.copy(&s.job("big").await).await.is_proven());
    assert!(s.is_everywhere("big"));
}

#[tokio::test]
async fn a_source_that_fails_when_a_part_is_read_again_is_told_as_the_reason() {
    let s = little_memory().await;
    s.wasabi.order(Fault::internal_error(), When::op(Op::UploadPart).next(1));
    s.b2.order(Fault::access_denied(), When::op(Op::GetObject).skip(5));
    let told = s.copy(&s.job("big").await).await;
    assert_eq!((told.class("wasabi"), told.of("scw")), (FailureClass::Denied, Ok(Verified::Compared)));
    let why = told.of("wasabi").unwrap_err();
    assert!(why.message.starts_with("source b2: ") && why.failed_source.is_some(), "{why:?}");
}
