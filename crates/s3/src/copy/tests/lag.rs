use std::time::Duration;

use copyhold_sandbox::s3::{Op, Synthetic, When};

use super::*;

const LAG: Duration = Duration::from_millis(200);

impl Told {
    fn was_left_behind(&self, replica: &str) -> bool {
        self.of(replica)
            .is_err_and(|why| why.class == FailureClass::Transient && why.message.contains("behind the others"))
    }
}

#[tokio::test]
async fn a_target_that_hangs_is_let_go_when_another_has_the_object() {
    let s = Setup::new().await;
    s.b2.put("k", "bytes");
    s.scw.order(Fault::Stall, When::op(Op::PutObject));
    let told = s.copy(&Job { lag: LAG, ..s.job("k").await }).await;
    assert!(told.of("wasabi").is_ok());
    assert!(told.was_left_behind("scw"), "{told:?}");
}

#[tokio::test]
async fn a_target_that_hangs_is_waited_for_while_no_other_has_the_object() {
    let s = Setup::new().await;
    s.b2.put("k", "bytes");
    s.scw.order(Fault::Delay(3 * LAG), When::op(Op::PutObject));
    s.wasabi.order(Fault::internal_error(), When::op(Op::PutObject));
    let told = s.copy(&Job { lag: LAG, ..s.job("k").await }).await;
    assert_eq!(told.class("wasabi"), FailureClass::Transient);
    assert!(told.of("scw").is_ok(), "{told:?}");
}

#[tokio::test]
async fn a_target_that_hangs_in_the_middle_of_a_large_object_is_let_go_and_goes_on_alone_another_time() {
    let s = Setup::new().await;
    s.b2.put_synthetic_in_parts("big", Synthetic::new(1, 40 * MIB), 8 * MIB);
    let hangs = s.scw.order(Fault::Stall, When::op(Op::UploadPart).skip(1));
    let told = s.copy(&Job { lag: LAG, ..s.job("big").await }).await;
    assert!(told.of("wasabi").is_ok(), "{told:?}");
    assert!(told.was_left_behind("scw"), "{told:?}");
    assert!(told.of("scw").unwrap_err().message.ends_with("1 of its 3 parts are there, and it goes on from them"));
    assert_eq!(told.kept, [("scw".to_owned(), 1)]);
    hangs.clear();
    let (reads, mut job) = (s.b2.calls(Op::GetObject), s.job("big").await);
    job.targets.remove(0);
    let told = s.copy(&job).await;
    assert_eq!(told.of("scw"), Ok(Verified::Compared));
    assert!(s.is_everywhere("big") && s.leaves_no_upload());
    // The first asks how long it is.
    assert!(s.b2.calls(Op::GetObject) - reads <= 3, "only what it lacked was read");
}

#[tokio::test]
async fn a_target_that_holds_half_of_the_memory_is_let_go_before_it_delays_the_other() {
    let s = Setup::new().await;
    s.b2.put_synthetic_in_parts("big", Synthetic::new(1, 160 * MIB), 8 * MIB);
    s.scw.order(Fault::Stall, When::op(Op::UploadPart).skip(1));
    // Only its memory can be the reason: there are ten parts, and room for four.
    let told = s.copy(&Job { lag: Duration::from_secs(1), ..s.job("big").await }).await;
    assert!(told.of("wasabi").is_ok(), "{told:?}");
    assert!(told.was_left_behind("scw"), "{told:?}");
    assert!(s.scw.calls(Op::UploadPart) < 10, "it got no more parts");
}

#[tokio::test]
async fn a_target_that_does_not_even_begin_is_let_go() {
    let s = Setup::new().await;
    s.b2.put_synthetic("big", Synthetic::new(1, 20 * MIB));
    s.scw.order(Fault::Stall, When::op(Op::CreateMultipartUpload));
    let told = s.copy(&Job { lag: LAG, ..s.job("big").await }).await;
    assert!(told.of("wasabi").is_ok(), "{told:?}");
    assert!(told.was_left_behind("scw"), "{told:?}");
}
