//! A daemon may die at any instant. One test per instant: a daemon dies there, and another one finishes the work.

use copyhold_sandbox::s3::{Fault, Op, PauseGate, When, synthetic};
use rustix::process::Signal;

use crate::harness::{DaemonProcess, Harness, printed, soon};

/// Has a daemon die while the store holds `call` to wasabi, `fault` deciding on which side of it, and another one
/// take over. Returns the heir when `key` is copied everywhere.
async fn dies_at(harness: &Harness, key: &str, fault: impl FnOnce(PauseGate) -> Fault, call: Op) -> DaemonProcess {
    let gate = PauseGate::new();
    let hold = harness.bucket("wasabi").order(fault(gate.clone()), When::op(call).next(1));
    let mut doomed = harness.daemon().await;
    soon("the daemon comes to where it dies", gate.holds(1)).await;
    doomed.kill().await;
    gate.open();
    hold.clear();
    let heir = heir(harness);
    harness.until_copied(key).await;
    heir
}

/// One that loses no lease, however slow its machine is.
fn heir(harness: &Harness) -> DaemonProcess {
    harness.daemon_with(&[("COPYHOLD_LEASE__TIMEOUT", "1h")])
}

fn large() -> Vec<u8> {
    synthetic::bytes(11, 0..40 << 20).to_vec()
}

fn assert_equal_everywhere(harness: &Harness, key: &str, bytes: &[u8]) {
    for replica in ["wasabi", "scw"] {
        assert!(harness.bucket(replica).get(key).unwrap() == bytes, "{key} differs at {replica}");
    }
}

#[tokio::test]
async fn it_may_die_before_a_small_object_has_arrived() {
    let harness = Harness::new().await;
    harness.upload("photo", "bytes").await;
    let _heir = dies_at(&harness, "photo", Fault::Hold, Op::PutObject).await;
    assert_equal_everywhere(&harness, "photo", b"bytes");
}

#[tokio::test]
async fn it_may_die_after_a_small_object_has_arrived_and_before_that_is_recorded() {
    let harness = Harness::new().await;
    harness.upload("photo", "bytes").await;
    let _heir = dies_at(&harness, "photo", Fault::HoldAnswer, Op::PutObject).await;
    assert_equal_everywhere(&harness, "photo", b"bytes");
    assert_eq!(harness.bucket("wasabi").writes("photo"), 2);
}

#[tokio::test]
async fn it_may_die_before_it_knows_the_name_of_its_upload() {
    let harness = Harness::new().await;
    let bytes = large();
    harness.upload("large", bytes.clone()).await;
    let _heir = dies_at(&harness, "large", Fault::HoldAnswer, Op::CreateMultipartUpload).await;
    assert_equal_everywhere(&harness, "large", &bytes);
}

/// One target has the object, the other all parts but the one that is held.
const IN_THE_MIDDLE: &str = "SELECT scw IS NOT NULL AND (SELECT count(*) = 2 FROM copyhold.multipart_parts)
    FROM copyhold.object_copies";

/// No upload is in the journal any more once the clean-up has looked.
async fn until_uploads_are_over(harness: &Harness) {
    // What the dead one had completed and could not write down any more is looked at after ten minutes.
    harness.execute("UPDATE copyhold.multipart_uploads SET look_at = 0, last_at = 0").await;
    harness.until("SELECT NOT EXISTS (SELECT FROM copyhold.multipart_uploads)").await;
    for replica in ["wasabi", "scw"] {
        assert!(harness.bucket(replica).uploads().is_empty(), "{replica}");
    }
}

#[tokio::test]
async fn it_may_die_in_the_middle_of_an_upload_and_what_was_sent_is_not_sent_again() {
    let harness = Harness::new().await;
    let (bytes, gate) = (large(), PauseGate::new());
    harness.upload("large", bytes.clone()).await;
    let hold = harness.bucket("wasabi").order(Fault::Hold(gate.clone()), When::op(Op::UploadPart).next(1));
    let mut doomed = harness.daemon().await;
    soon("the daemon comes to where it dies", gate.holds(1)).await;
    harness.until(IN_THE_MIDDLE).await;
    doomed.kill().await;
    let explained = printed(&harness.run(&["explain", "large"]).await);
    assert!(explained.contains("    2 of its 3 parts are there, the last was sent "), "{explained}");
    gate.open();
    hold.clear();
    let _heir = heir(&harness);
    harness.until_copied("large").await;
    assert_equal_everywhere(&harness, "large", &bytes);
    for (replica, most) in [("wasabi", 4), ("scw", 3)] {
        let bucket = harness.bucket(replica);
        assert_eq!(bucket.calls(Op::CreateMultipartUpload), 1, "{replica}");
        assert!(bucket.successes(Op::UploadPart) <= most, "{replica}");
    }
    until_uploads_are_over(&harness).await;
}

#[tokio::test]
async fn it_may_die_after_an_upload_was_completed_and_before_that_is_recorded() {
    let harness = Harness::new().await;
    let bytes = large();
    harness.upload("large", bytes.clone()).await;
    let _heir = dies_at(&harness, "large", Fault::HoldAnswer, Op::CompleteMultipartUpload).await;
    assert_equal_everywhere(&harness, "large", &bytes);
    assert_eq!(harness.bucket("wasabi").successes(Op::UploadPart), 3, "its parts tell that it is the object");
    until_uploads_are_over(&harness).await;
}

#[tokio::test]
async fn asked_to_end_in_the_middle_of_an_upload_it_leaves_its_parts_to_the_next() {
    let harness = Harness::new().await;
    let (bytes, gate) = (large(), PauseGate::new());
    harness.upload("large", bytes.clone()).await;
    let hold = harness.bucket("wasabi").order(Fault::Hold(gate.clone()), When::op(Op::UploadPart).next(1));
    let mut ending = harness.daemon().await;
    soon("the daemon is in the middle", gate.holds(1)).await;
    harness.until(IN_THE_MIDDLE).await;
    ending.signal(Signal::TERM);
    ending.until_logged("claiming no more").await;
    ending.signal(Signal::TERM);
    ending.exit_code().await;
    harness.until("SELECT array_agg(replica) = '{wasabi}' FROM copyhold.multipart_uploads").await;
    gate.open();
    hold.clear();
    let _next = heir(&harness);
    harness.until_copied("large").await;
    assert_equal_everywhere(&harness, "large", &bytes);
    assert_eq!(harness.bucket("scw").successes(Op::UploadPart), 3);
    until_uploads_are_over(&harness).await;
}

#[tokio::test]
async fn it_may_die_while_it_reads() {
    let harness = Harness::new().await;
    let gate = PauseGate::new();
    harness.upload("photo", "bytes").await;
    let hold = harness.bucket("b2").order(Fault::Hold(gate.clone()), When::op(Op::GetObject).next(1));
    let mut doomed = harness.daemon().await;
    soon("it reads", gate.holds(1)).await;
    doomed.kill().await;
    gate.open();
    hold.clear();
    let _heir = heir(&harness);
    harness.until_copied("photo").await;
    assert_equal_everywhere(&harness, "photo", b"bytes");
}

#[tokio::test]
async fn it_may_die_between_the_record_of_one_copy_and_of_the_other() {
    let harness = Harness::new().await;
    let gate = PauseGate::new();
    let hold = harness.bucket("scw").order(Fault::Hold(gate.clone()), When::op(Op::PutObject).next(1));
    harness.upload("photo", "bytes").await;
    let mut doomed = harness.daemon().await;
    soon("scw holds it", gate.holds(1)).await;
    harness.until("SELECT wasabi IS NOT NULL AND scw IS NULL FROM copyhold.object_copies").await;
    doomed.kill().await;
    gate.open();
    hold.clear();
    let _heir = heir(&harness);
    harness.until_copied("photo").await;
    assert_eq!(harness.bucket("wasabi").writes("photo"), 1);
}
