//! Objects that go in parts.

use copyhold_sandbox::s3::{Metadata, Op, Synthetic, When, synthetic};

use super::*;

/// Three parts: 16 MiB, 16 MiB and a bit.
const THREE_PARTS: u64 = 32 * MIB + 1;
const TWO_PARTS: u64 = 16 * MIB + 1;

#[tokio::test]
async fn a_big_object_is_read_once_and_sent_in_parts_to_all_targets() {
    let s = Setup::new().await;
    s.b2.put_synthetic_in_parts("big", Synthetic::new(1, THREE_PARTS), 8 * MIB);
    let told = s.copy(&s.job("big").await).await;
    assert_eq!((told.of("wasabi"), told.of("scw")), (Ok(Verified::Compared), Ok(Verified::Compared)));
    assert!(s.is_everywhere("big") && s.leaves_no_upload());
    assert_eq!(told.read(), Some(s.b2.inspect("big").unwrap().content));
    // Its ETag proves nothing, so what is stored is asked for once.
    assert_eq!((s.b2.calls(Op::GetObject), s.b2.calls(Op::HeadObject)), (3, 1));
    for target in [&s.wasabi, &s.scw] {
        assert_eq!((target.calls(Op::UploadPart), target.writes("big")), (3, 1));
        assert!(target.inspect("big").unwrap().etag.ends_with("-3"));
    }
}

#[tokio::test]
async fn a_target_that_fails_half_way_keeps_what_it_has_and_does_not_stop_the_other() {
    let s = Setup::new().await;
    s.b2.put_synthetic("big", Synthetic::new(1, THREE_PARTS));
    s.wasabi.order(Fault::access_denied(), When::op(Op::UploadPart).skip(1));
    let told = s.copy(&s.job("big").await).await;
    assert_eq!(told.class("wasabi"), FailureClass::Denied);
    assert_eq!(told.of("scw"), Ok(Verified::Compared));
    assert_eq!((s.notebook.parts("wasabi").len(), s.wasabi.uploads().len(), s.scw.uploads().len()), (1, 1, 0));
}

#[tokio::test]
async fn a_target_that_takes_no_part_leaves_no_upload() {
    let s = Setup::new().await;
    s.b2.put_synthetic("big", Synthetic::new(1, THREE_PARTS));
    s.wasabi.order(Fault::access_denied(), When::op(Op::UploadPart));
    assert_eq!(s.copy(&s.job("big").await).await.class("wasabi"), FailureClass::Denied);
    assert!(s.leaves_no_upload());
}

#[tokio::test]
async fn when_no_target_is_left_nothing_more_is_read() {
    let s = Setup::new().await;
    s.b2.put_synthetic_in_parts("big", Synthetic::new(1, 20 * 16 * MIB), 8 * MIB);
    for target in [&s.wasabi, &s.scw] {
        target.order(Fault::access_denied(), When::op(Op::UploadPart));
    }
    let told = s.copy(&s.job("big").await).await;
    assert_eq!(
        (told.class("wasabi"), told.class("scw"), told.read()),
        (FailureClass::Denied, FailureClass::Denied, None)
    );
    // What had memory was on its way.
    assert!(s.b2.calls(Op::GetObject) <= 5, "{}", s.b2.calls(Op::GetObject));
    assert!(s.leaves_no_upload());
}

#[tokio::test]
async fn a_part_that_fails_in_passing_is_repeated_alone() {
    let s = Setup::new().await;
    s.b2.put_synthetic_in_parts("big", Synthetic::new(1, THREE_PARTS), 8 * MIB);
    s.b2.order(Fault::CutBody { after: 1_000_000 }, When::op(Op::GetObject).skip(1).next(1));
    // The SDK repeats once by itself.
    s.wasabi.order(Fault::internal_error(), When::op(Op::UploadPart).next(2));
    s.scw.order(Fault::FlipArriving { at: 17 }, When::op(Op::UploadPart).skip(1).next(1));
    let told = s.copy(&s.job("big").await).await;
    assert!(told.is_proven(), "{told:?}");
    assert!(s.is_everywhere("big") && s.leaves_no_upload());
    assert_eq!(s.b2.calls(Op::GetObject), 4);
    assert_eq!((s.wasabi.successes(Op::UploadPart), s.scw.successes(Op::UploadPart)), (3, 3));
}

#[tokio::test]
async fn parts_are_under_way_together_as_far_as_there_is_memory() {
    let s = Setup::new().await;
    s.b2.put_synthetic_in_parts("big", Synthetic::new(1, 8 * 16 * MIB), 8 * MIB);
    let gate = copyhold_sandbox::s3::PauseGate::new();
    for target in [&s.wasabi, &s.scw] {
        target.order(Fault::Hold(gate.clone()), When::op(Op::UploadPart));
    }
    let job = s.job("big").await;
    let watch = async {
        // Four parts of 16 MiB are all that 64 MiB hold, each on its way to both.
        gate.holds(8).await;
        assert_eq!((s.b2.calls(Op::GetObject), s.memory.held_bytes()), (4, 64 * MIB));
        gate.open();
    };
    let (told, ()) = tokio::join!(s.copy(&job), watch);
    assert!(told.is_proven(), "{told:?}");
    assert!(s.is_everywhere("big"));
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_read_is_not_recorded() {
    let s = Setup::new().await;
    let before = synthetic::bytes(1, 0..TWO_PARTS);
    let after = synthetic::bytes(2, 0..TWO_PARTS);
    let longer = synthetic::bytes(1, 0..TWO_PARTS + 1);
    for replacement in [after, longer] {
        s.b2.put("big", before.clone());
        let gate = copyhold_sandbox::s3::PauseGate::new();
        let held = s.b2.order(Fault::Hold(gate.clone()), When::op(Op::GetObject).skip(1).next(1));
        let job = s.job("big").await;
        let change = async {
            gate.holds(1).await;
            s.b2.put("big", replacement.clone());
            held.clear();
        };
        let (told, ()) = tokio::join!(s.copy(&job), change);
        assert_eq!(
            (told.class("wasabi"), told.class("scw")),
            (FailureClass::Changed, FailureClass::Changed),
            "{told:?}"
        );
        assert_eq!(told.read(), None);
        assert!(s.wasabi.keys().is_empty() && s.leaves_no_upload());
    }
}

#[tokio::test]
async fn a_change_is_seen_by_the_answers_whatever_the_store_makes_of_conditions() {
    let s = Setup::new().await;
    s.b2.put_synthetic_in_parts("big", Synthetic::new(1, THREE_PARTS), 8 * MIB);
    s.b2.order(Fault::WrongEtag, When::op(Op::GetObject).skip(2));
    let told = s.copy(&s.job("big").await).await;
    assert_eq!((told.class("wasabi"), told.read()), (FailureClass::Changed, None));
    assert!(s.leaves_no_upload());
}

#[tokio::test]
async fn a_source_that_fails_half_way_fails_this_attempt_and_what_was_sent_is_kept() {
    let s = Setup::new().await;
    s.b2.put_synthetic("big", Synthetic::new(1, TWO_PARTS));
    s.b2.order(Fault::CutBody { after: 0 }, When::op(Op::GetObject).skip(1));
    let told = s.copy(&s.job("big").await).await;
    assert_eq!(told.sources_failed(), [("b2", FailureClass::Transient)]);
    assert_eq!((told.class("wasabi"), told.class("scw")), (FailureClass::Transient, FailureClass::Transient));
    assert!(told.of("scw").unwrap_err().message.starts_with("source b2: "), "{told:?}");
    assert!(s.wasabi.keys().is_empty());
    s.b2.clear_faults();
    assert!(s.copy(&s.job("big").await).await.is_proven());
    // The second part was never read.
    assert_eq!((s.wasabi.successes(Op::UploadPart), s.scw.successes(Op::UploadPart)), (2, 2));
    assert!(s.is_everywhere("big") && s.leaves_no_upload());
}

#[tokio::test]
async fn an_object_removed_while_it_is_read_is_tried_again_from_all_sources() {
    let s = Setup::new().await;
    s.b2.put_synthetic("big", Synthetic::new(1, TWO_PARTS));
    s.b2.order(Fault::answer(404, "NoSuchKey"), When::op(Op::GetObject).skip(1));
    let told = s.copy(&s.job("big").await).await;
    assert_eq!(told.sources_failed(), [("b2", FailureClass::Gone)]);
    assert_eq!(told.class("wasabi"), FailureClass::Transient);
}

#[tokio::test]
async fn what_differs_from_this_generations_first_read_is_thrown_away() {
    let s = Setup::new().await;
    s.b2.put_synthetic("big", Synthetic::new(1, TWO_PARTS));
    let content = Content { size_bytes: TWO_PARTS, hash: Synthetic::new(2, TWO_PARTS).hash() };
    let kept = super::changed::long_ago();
    let told = s.copy(&Job { content: Some(content), kept, ..s.job("big").await }).await;
    assert_eq!((told.class("wasabi"), told.read()), (FailureClass::Changed, None));
    assert!(s.wasabi.keys().is_empty() && s.leaves_no_upload());
}

#[tokio::test]
async fn a_lost_answer_to_the_last_call_is_no_failure() {
    let s = Setup::new().await;
    s.b2.put_synthetic("big", Synthetic::new(1, TWO_PARTS));
    s.wasabi.order(Fault::LoseAnswer, When::op(Op::CompleteMultipartUpload).next(1));
    s.scw.order(Fault::LoseAnswer, When::op(Op::CompleteMultipartUpload));
    let told = s.copy(&s.job("big").await).await;
    assert_eq!((told.of("wasabi"), told.of("scw")), (Ok(Verified::Compared), Ok(Verified::Compared)), "{told:?}");
    assert_eq!(s.wasabi.writes("big"), 1);
}

#[tokio::test]
async fn a_lost_answer_is_made_up_for_by_the_bytes_where_the_etag_says_nothing() {
    let s = Setup::new().await;
    s.b2.put_synthetic("big", Synthetic::new(1, TWO_PARTS));
    s.wasabi.order(Fault::LoseAnswer, When::op(Op::CompleteMultipartUpload).next(1));
    s.wasabi.order(Fault::WrongEtag, When::op(Op::HeadObject));
    let told = s.copy(&s.job("big").await).await;
    assert_eq!((told.of("wasabi"), told.of("scw")), (Ok(Verified::ReadBack), Ok(Verified::Compared)), "{told:?}");
}

#[tokio::test]
async fn an_object_from_before_does_not_stand_in_for_an_upload_that_failed() {
    let s = Setup::new().await;
    s.b2.put_synthetic("big", Synthetic::new(1, TWO_PARTS));
    s.wasabi.put_synthetic("big", Synthetic::new(2, TWO_PARTS));
    s.wasabi.order(Fault::answer(404, "NoSuchUpload"), When::op(Op::CompleteMultipartUpload));
    let told = s.copy(&s.job("big").await).await;
    assert_eq!(told.class("wasabi"), FailureClass::Transient);
    assert!(s.notebook.is_settled());
}

#[tokio::test]
async fn the_same_bytes_with_earlier_metadata_do_not_stand_in_for_an_upload_that_failed() {
    let s = Setup::new().await;
    let is = |words: &str| Metadata::none().with("cache-control", words);
    let bytes = vec![7; usize::try_from(TWO_PARTS).unwrap()];
    s.b2.put_with("big", bytes.clone(), is("max-age=1"));
    assert!(s.copy(&s.job("big").await).await.is_proven());
    s.b2.put_with("big", bytes, is("max-age=2"));
    s.wasabi.order(Fault::internal_error(), When::op(Op::CompleteMultipartUpload));
    let told = s.copy(&s.job("big").await).await;
    assert_eq!((told.class("wasabi"), told.of("scw")), (FailureClass::Transient, Ok(Verified::Compared)), "{told:?}");
    assert_eq!(s.wasabi.inspect("big").unwrap().metadata.get("cache-control"), Some("max-age=1"));
}

#[tokio::test]
async fn an_upload_that_the_store_forgets_in_the_middle_is_begun_anew_next_time() {
    let s = Setup::new().await;
    s.b2.put_synthetic("big", Synthetic::new(1, TWO_PARTS));
    let gate = copyhold_sandbox::s3::PauseGate::new();
    let held = s.wasabi.order(Fault::Hold(gate.clone()), When::op(Op::UploadPart).skip(1).next(1));
    let job = s.job("big").await;
    let forget = async {
        gate.holds(1).await;
        s.wasabi.expire_uploads();
        held.clear();
    };
    let (told, ()) = tokio::join!(s.copy(&job), forget);
    assert_eq!((told.class("wasabi"), told.of("scw")), (FailureClass::Transient, Ok(Verified::Compared)));
    assert!(s.copy(&job).await.is_proven());
}
