//! A store may carry out a write long after its connection is gone: what is recorded meanwhile becomes true again by
//! itself, and what cannot be hurt by it costs no reading.

use copyhold_sandbox::s3::{Fault, Op, PauseGate, When, synthetic};

use crate::harness::{Harness, eventually, printed, soon};

/// Nothing can arrive any more.
const TIME_PASSES: &str = "UPDATE copyhold.unsettled SET verify_at = 1, settled_at = 1";
const NOTHING_LEFT: &str = "SELECT count(*) = 0 FROM copyhold.unsettled";
/// A write of a known content to wasabi is not settled.
const NOTED: &str =
    "SELECT count(*) = 1 AND bool_and(replica = 'wasabi' AND content_hash IS NOT NULL) FROM copyhold.unsettled";

/// The gate opens, the old content lands at wasabi over the new one, and that is found and mended.
async fn lands_and_is_mended(harness: &Harness, gate: &PauseGate, old: &[u8], new: &[u8]) {
    gate.open();
    eventually("the old content lands", async || harness.bucket("wasabi").get("photo").unwrap() == old).await;
    assert_eq!(harness.value("SELECT wasabi IS NOT NULL FROM copyhold.object_copies").await.unwrap(), "true");
    harness.execute(TIME_PASSES).await;
    eventually("it is mended", async || harness.bucket("wasabi").get("photo").unwrap() == new).await;
    harness.until_copied("photo").await;
    harness.execute(TIME_PASSES).await;
    harness.until(NOTHING_LEFT).await;
    assert!(harness.bucket("wasabi").get("photo").unwrap() == new);
}

#[tokio::test]
async fn a_put_that_was_not_answered_and_lands_over_a_newer_content_is_found() {
    let harness = Harness::new().await;
    let gate = PauseGate::new();
    harness.bucket("wasabi").order(Fault::CarryOutLate(gate.clone()), When::op(Op::PutObject).next(1));
    let _daemon = harness.daemon().await;
    harness.upload("photo", "older").await;
    soon("its PUT is taken", gate.holds(1)).await;
    harness.until(NOTED).await;
    harness.bucket("b2").put("photo", "newer");
    harness.value("SELECT copyhold.register('photo')").await;
    eventually("the newer one is there", async || {
        harness.bucket("wasabi").get("photo").is_some_and(|bytes| bytes == "newer")
    })
    .await;
    harness.until_copied("photo").await;
    lands_and_is_mended(&harness, &gate, b"older", b"newer").await;
}

#[tokio::test]
async fn a_completion_that_was_not_answered_and_lands_over_a_newer_content_is_found() {
    let harness = Harness::new().await;
    let gate = PauseGate::new();
    let older = synthetic::bytes(11, 0..40 << 20).to_vec();
    harness.bucket("wasabi").order(Fault::CarryOutLate(gate.clone()), When::op(Op::CompleteMultipartUpload).next(1));
    let _daemon = harness.daemon().await;
    harness.upload("photo", older.clone()).await;
    soon("its completion is taken", gate.holds(1)).await;
    harness.bucket("b2").put("photo", "newer");
    harness.value("SELECT copyhold.register('photo')").await;
    eventually("the newer one is there", async || {
        harness.bucket("wasabi").get("photo").is_some_and(|bytes| bytes == "newer")
    })
    .await;
    harness.until_copied("photo").await;
    let settle = "SELECT bool_and(settled_at - noted_at >= 600000000) FROM copyhold.unsettled WHERE replica = 'wasabi'";
    assert_eq!(harness.value(settle).await.unwrap(), "true", "a store may put terabytes together before it answers");
    lands_and_is_mended(&harness, &gate, &older, b"newer").await;
}

#[tokio::test]
async fn an_upload_of_an_older_content_is_gone_before_a_newer_is_sent() {
    let harness = Harness::new().await;
    let gate = PauseGate::new();
    let wasabi = harness.bucket("wasabi");
    let [older, newer] = [11, 12].map(|seed| synthetic::bytes(seed, 0..40 << 20).to_vec());
    wasabi.order(Fault::CarryOutLate(gate.clone()), When::op(Op::CompleteMultipartUpload).next(1));
    // No daemon resumes the older one in the meantime.
    wasabi.order(Fault::internal_error(), When::op(Op::CompleteMultipartUpload).skip(1).next(2));
    let _daemon = harness.daemon().await;
    harness.upload("photo", older).await;
    soon("its completion is taken", gate.holds(1)).await;
    harness.bucket("b2").put("photo", newer.clone());
    harness.value("SELECT copyhold.register('photo')").await;
    eventually("the newer one is there", async || wasabi.get("photo").is_some_and(|bytes| bytes == newer)).await;
    harness.until_copied("photo").await;
    assert_eq!(wasabi.calls(Op::AbortMultipartUpload), 1);
    assert!(wasabi.uploads().is_empty(), "{:?}", wasabi.uploads());
    // What was sent before lands on nothing.
    gate.open();
    harness.execute(TIME_PASSES).await;
    harness.until(NOTHING_LEFT).await;
    assert!(wasabi.get("photo").unwrap() == newer);
}

#[tokio::test]
async fn a_put_of_a_row_that_was_deleted_and_inserted_again_is_found() {
    let harness = Harness::new().await;
    let (gate, hold) = (PauseGate::new(), PauseGate::new());
    let stores = harness.bucket("wasabi");
    stores.order(Fault::CarryOutLate(gate.clone()), When::op(Op::PutObject).next(1));
    // Nothing is reported before the row is deleted.
    harness.bucket("scw").order(Fault::Hold(hold.clone()), When::op(Op::PutObject).next(1));
    let _daemon = harness.daemon().await;
    harness.upload("photo", "older").await;
    soon("its PUT is taken", gate.holds(1)).await;
    soon("the other is held", hold.holds(1)).await;
    harness.bucket("b2").put("photo", "newer");
    harness
        .execute(
            "BEGIN; DELETE FROM copyhold.object_copies;
             INSERT INTO copyhold.object_copies (object_key, b2) VALUES ('photo', copyhold.now_utc_micro_seconds()); COMMIT",
        )
        .await;
    hold.open();
    eventually("the newer one is there", async || {
        harness.bucket("wasabi").get("photo").is_some_and(|bytes| bytes == "newer")
    })
    .await;
    harness.until_copied("photo").await;
    harness.until("SELECT count(*) = 3 FROM copyhold.unsettled").await;
    lands_and_is_mended(&harness, &gate, b"older", b"newer").await;
}

#[tokio::test]
async fn a_put_whose_lease_was_lost_is_noted_though_it_was_answered() {
    let harness = Harness::new().await;
    let gate = PauseGate::new();
    harness.bucket("wasabi").order(Fault::HoldAnswer(gate.clone()), When::op(Op::PutObject).next(1));
    let daemon = harness.daemon().await;
    harness.upload("photo", "older").await;
    soon("it is there, and no answer has come", gate.holds(1)).await;
    harness.until("SELECT scw IS NOT NULL FROM copyhold.object_copies").await;
    // Another daemon's.
    harness.execute("UPDATE copyhold.object_copies SET lease = 7, lock = 8000000000000000000").await;
    gate.open();
    daemon.until_logged("Discarded result for photo: lease lost or object re-registered").await;
    harness
        .until("SELECT count(*) = 1 FROM copyhold.unsettled WHERE replica = 'wasabi' AND content_hash IS NOT NULL")
        .await;
}

#[tokio::test]
async fn an_outage_of_objects_that_do_not_change_costs_no_reading() {
    const OBJECTS: usize = 100;
    let harness = Harness::new().await;
    let gate = PauseGate::new();
    let outage = harness.bucket("wasabi").order(Fault::CarryOutLate(gate.clone()), When::op(Op::PutObject));
    for i in 0..OBJECTS {
        harness.upload(&format!("photo {i}"), format!("bytes {i}")).await;
    }
    let _daemon = harness.daemon().await;
    harness.until("SELECT count(*) > 10 FROM copyhold.unsettled").await;
    outage.clear();
    gate.open();
    harness.execute("UPDATE copyhold.object_copies SET due_wasabi = 0; UPDATE copyhold.replicas SET probe_at = 0 WHERE probe_at IS NOT NULL").await;
    harness.until("SELECT count(*) = 0 FROM copyhold.object_copies WHERE wasabi IS NULL").await;
    harness.execute(TIME_PASSES).await;
    harness.until(NOTHING_LEFT).await;
    assert_eq!(harness.bucket("wasabi").calls(Op::GetObject), 0);
}

#[tokio::test]
async fn no_replica_is_promoted_while_a_write_to_it_may_still_arrive() {
    let harness = Harness::new().await;
    let _daemon = harness.daemon().await;
    harness.upload("photo", "bytes").await;
    harness.until_copied("photo").await;
    let noted = "INSERT INTO copyhold.unsettled (object_key, replica, verify_at, settled_at)
        VALUES ('photo', 'wasabi', 8000000000000000000, copyhold.now_utc_micro_seconds() + 170000000)";
    harness.execute(noted).await;
    let output = harness.run(&["promote", "wasabi", "--check"]).await;
    let said = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("  unsettled   1 copy, under which a write may still arrive"), "{said}");
    let output = harness.run(&["promote", "wasabi"]).await;
    let said = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("1 copy is there not settled") && said.contains("--wait 4m "), "{said}");
    // It does not matter to another one.
    assert_eq!(harness.run(&["promote", "scw"]).await.status.code(), Some(0));
    assert_eq!(harness.run(&["promote", "wasabi", "--accept-missing"]).await.status.code(), Some(0));
}
