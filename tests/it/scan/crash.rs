//! A scan that is killed, stopped, or done twice at once.

use std::{process::Stdio, time::Duration};

use copyhold_sandbox::s3::{BucketOptions, Fault, GeneratedListing, Op, PauseGate, When};
use rustix::process::{Pid, Signal, kill_process};

use super::{count, figures, scanned, told};
use crate::harness::{Harness, bucket, soon};

const OBJECTS: u64 = 40_000;

async fn listing() -> Harness {
    let harness = Harness::new().await;
    let generated = GeneratedListing { objects: OBJECTS, per_folder: 4_000 };
    harness.s3.create_bucket(&bucket("b2"), BucketOptions::generated(generated));
    harness
}

#[tokio::test]
async fn killed_ten_times_it_registers_everything_once() {
    let harness = listing().await;
    for _ in 0..10 {
        // Forty pages are too many for ten times these.
        let gate = PauseGate::new();
        let held = harness.bucket("b2").order(Fault::Hold(gate.clone()), When::op(Op::ListObjectsV2).skip(3));
        let mut scan = harness.program(&["scan"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        soon("a page is waited for", gate.holds(1)).await;
        // At any instant: while the pages before are written, or after that.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..120))).await;
        assert_eq!(scan.try_wait().unwrap(), None, "it ended though a page was held");
        scan.kill().await.unwrap();
        held.clear();
        gate.open();
        // A statement that it has sent is carried out after its death, and may say that it is at work.
        harness
            .until(
                "SELECT count(*) = 0 FROM pg_stat_activity
                  WHERE datname = current_database() AND application_name = 'copyhold'",
            )
            .await;
        // Or else the next waits until this one is taken for dead.
        harness.execute("UPDATE copyhold.scans SET held_until = NULL").await;
    }
    harness.bucket("b2").clear_faults();
    let (code, report) = scanned(&harness, &[]).await;
    assert_eq!((code, figures(&report)), (0, [OBJECTS, OBJECTS, 0, 0, 0]));
    assert!(report["resumed_since"].is_i64() && report["listed_now"].as_u64() < Some(OBJECTS), "{report}");
    assert_eq!(count(&harness, "object_copies").await.unsigned_abs(), OBJECTS);
    let generated = GeneratedListing { objects: OBJECTS, per_folder: 4_000 };
    let last = generated.key(OBJECTS - 1);
    harness.until(&format!("SELECT max(object_key) = '{last}' FROM copyhold.object_copies")).await;
    // A row that was registered twice would be of a later generation than its neighbours allow.
    assert_eq!(count(&harness, "object_copies WHERE b2 IS NULL OR content_hash IS NOT NULL").await, 0);
}

#[tokio::test]
async fn told_to_stop_it_ends_after_its_pages_and_says_how_to_go_on() {
    let harness = listing().await;
    let gate = PauseGate::new();
    let held = harness.bucket("b2").order(Fault::Hold(gate.clone()), When::op(Op::ListObjectsV2).skip(6));
    let scan = harness.program(&["scan"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(scan.id().unwrap()).unwrap()).unwrap();
    soon("all parts wait for a page", gate.holds(4)).await;
    kill_process(pid, Signal::INT).unwrap();
    let output = soon("it ends", scan.wait_with_output()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("told to stop; what was listed is registered") && text.contains("the same command goes on"),
        "{text}"
    );
    held.clear();
    // No holder has to expire.
    assert_eq!(count(&harness, "scans WHERE held_until IS NOT NULL").await, 0);
    let (code, report) = scanned(&harness, &[]).await;
    assert_eq!((code, figures(&report)), (0, [OBJECTS, OBJECTS, 0, 0, 0]));
    assert_eq!(report["listed_now"], OBJECTS - 4_000);
}

#[tokio::test]
async fn a_second_process_leaves_a_scan_to_the_first_and_goes_on_with_it_when_that_is_dead() {
    let harness = listing().await;
    let gate = PauseGate::new();
    let held = harness.bucket("b2").order(Fault::Hold(gate.clone()), When::op(Op::ListObjectsV2).skip(6));
    let mut first = harness.program(&["scan"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    soon("all parts wait for a page", gate.holds(4)).await;
    for arguments in [[].as_slice(), &["--from-start"]] {
        let (code, text) = soon("the second ends", told(&harness, arguments)).await;
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("another process is at this scan, and goes on with it"), "{text}");
    }
    // Another scan is none of its business, nor is a dry run.
    held.clear();
    assert_eq!(figures(&scanned(&harness, &["--prefix", "0000001/"]).await.1)[0], 4_000);
    soon("the first ends", first.wait()).await.unwrap();
    assert_eq!(count(&harness, "object_copies").await.unsigned_abs(), OBJECTS);

    let held = harness.bucket("b2").order(Fault::Hold(gate.clone()), When::op(Op::ListObjectsV2).skip(6));
    let mut first = harness.program(&["scan"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    harness.until("SELECT count(*) = 1 FROM copyhold.scans WHERE ended_at IS NULL").await;
    first.kill().await.unwrap();
    held.clear();
    let (code, report) = soon("it is taken over", scanned(&harness, &[])).await;
    assert_eq!((code, figures(&report)), (0, [OBJECTS, 0, OBJECTS, 0, 0]));
    assert!(report["resumed_since"].is_i64());
}

#[tokio::test]
async fn a_process_that_has_lost_its_scan_to_another_writes_nothing_more() {
    let harness = listing().await;
    let gate = PauseGate::new();
    let held = harness.bucket("b2").order(Fault::Hold(gate.clone()), When::op(Op::ListObjectsV2).skip(6));
    let first = harness.program(&["scan"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    soon("all parts wait for a page", gate.holds(4)).await;
    // As if it had been stopped for long and another had gone on: the parts are elsewhere.
    let before = harness.value("SELECT count(*) FROM copyhold.object_copies").await;
    harness
        .execute("UPDATE copyhold.scan_parts SET reached = '9', done = true; UPDATE copyhold.scans SET held_by = 0")
        .await;
    held.clear();
    let output = soon("it ends", first.wait_with_output()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("another process has taken this scan over"), "{text}");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies").await, before);
}

#[tokio::test]
async fn what_an_operator_deletes_meanwhile_is_no_gap_and_no_error() {
    let harness = listing().await;
    let gate = PauseGate::new();
    let held = harness.bucket("b2").order(Fault::Hold(gate.clone()), When::op(Op::ListObjectsV2).skip(6));
    let scan = harness.program(&["scan"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    soon("all parts wait for a page", gate.holds(4)).await;
    harness.execute("DELETE FROM copyhold.object_copies WHERE object_key LIKE '%5'").await;
    held.clear();
    let mut scan = scan;
    assert_eq!(soon("it ends", scan.wait()).await.unwrap().code(), Some(0));
    assert_eq!(count(&harness, "object_copies").await.unsigned_abs(), OBJECTS - 400);
    // The next scan brings them back, if they are still in the bucket.
    assert_eq!(figures(&scanned(&harness, &[]).await.1)[1], 400);
}
