//! Objects whose holders died are counted, deferred and copied alone; what the dead may have written is unsettled.

use std::time::Duration;

use copyhold_core::domain::{Content, ContentHash, Lease, Outcome, Verified};
use copyhold_db::lease::{FencedWrite, Report};
use copyhold_sandbox::s3::{Fault, Op, PauseGate, When};

use crate::harness::{Harness, eventually, replica, soon};

const SETTLE: Duration = Duration::from_mins(3);

/// Claims the one row for a daemon that dies, and has it reclaimed. Returns how often in a row that was.
async fn dies_with(harness: &Harness) -> u32 {
    harness.execute("UPDATE copyhold.object_copies SET due_wasabi = 0, due_scw = 0").await;
    let daemon = harness.enlist(60).await;
    assert_eq!(harness.claim(&daemon, "wasabi", 1).await.len(), 1);
    harness.execute("UPDATE copyhold.object_copies SET lock = 1").await;
    let freed = harness.queue().reclaim(SETTLE).await.unwrap();
    assert_eq!(freed.len(), 1);
    freed[0].times
}

async fn claimed_again(harness: &Harness) -> Lease {
    harness.execute("UPDATE copyhold.object_copies SET due_wasabi = 0, due_scw = 0").await;
    let daemon = harness.enlist(60).await;
    harness.claim(&daemon, "wasabi", 1).await.remove(0)
}

#[tokio::test]
async fn an_object_keeps_its_place_the_first_time_its_holder_dies() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    assert_eq!(dies_with(&harness).await, 1);
    assert_eq!(harness.value("SELECT (due_wasabi, due_scw) FROM copyhold.object_copies").await.unwrap(), "(0,0)");
}

#[tokio::test]
async fn from_the_second_time_on_an_object_waits_twice_as_long_each_time() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    let wait = "SELECT (o.due_wasabi - s.last_at) / 1e6
                FROM copyhold.object_copies o JOIN copyhold.swept_leases s USING (object_key)";
    for (times, seconds) in [(1, 0.0), (2, 10.0), (3, 20.0), (4, 40.0)] {
        assert_eq!(dies_with(&harness).await, times);
        let waits: f64 = harness.value(wait).await.unwrap().parse().unwrap();
        assert!(times == 1 || (seconds * 0.8..=seconds * 1.2).contains(&waits), "{times}: {waits}");
    }
    for times in 5..40 {
        assert_eq!(dies_with(&harness).await, times);
    }
    let waits: f64 = harness.value(wait).await.unwrap().parse().unwrap();
    assert!((900.0 * 0.8..=900.0 * 1.2).contains(&waits), "{waits}");
}

#[tokio::test]
async fn a_sweep_puts_off_what_is_missing_wanted_and_not_parked() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    dies_with(&harness).await;
    harness
        .execute("UPDATE copyhold.object_copies SET due_b2 = 5, due_wasabi = 0, due_scw = 9000000000000000000")
        .await;
    let dues = "SELECT (due_b2, due_wasabi > copyhold.now_utc_micro_seconds(), due_scw) FROM copyhold.object_copies";
    let daemon = harness.enlist(60).await;
    assert_eq!(harness.claim(&daemon, "wasabi", 1).await.len(), 1);
    harness.execute("UPDATE copyhold.object_copies SET lock = 1").await;
    assert_eq!(harness.queue().reclaim(SETTLE).await.unwrap()[0].times, 2);
    assert_eq!(harness.value(dues).await.unwrap(), "(5,t,9000000000000000000)");
    // What waits for a later time keeps it; what is not wanted stays so.
    harness
        .execute(
            "UPDATE copyhold.object_copies
             SET lock = 1, lease = 7, due_wasabi = 8000000000000000000, due_scw = NULL",
        )
        .await;
    assert_eq!(harness.queue().reclaim(SETTLE).await.unwrap()[0].times, 3);
    assert_eq!(
        harness.value("SELECT (due_wasabi, due_scw) FROM copyhold.object_copies").await.unwrap(),
        "(8000000000000000000,)"
    );
}

#[tokio::test]
async fn a_new_content_is_not_suspected_of_what_the_old_one_did() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    dies_with(&harness).await;
    assert_eq!(dies_with(&harness).await, 2);
    harness.value("SELECT copyhold.register('photo')").await;
    let lease = claimed_again(&harness).await;
    // But a request for the old content may still be on its way.
    assert_eq!(lease.swept, Some(0));
    harness.queue().release(&[(lease.key, lease.fence)]).await.unwrap();
    assert_eq!(dies_with(&harness).await, 1);
}

#[tokio::test]
async fn the_claim_tells_how_often_an_object_was_abandoned() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    let lease = claimed_again(&harness).await;
    assert_eq!(lease.swept, None);
    harness.queue().release(&[(lease.key, lease.fence)]).await.unwrap();
    dies_with(&harness).await;
    dies_with(&harness).await;
    assert_eq!(claimed_again(&harness).await.swept, Some(2));
}

#[tokio::test]
async fn a_lease_that_is_given_back_leaves_no_trace() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    let lease = claimed_again(&harness).await;
    harness.queue().release(&[(lease.key, lease.fence)]).await.unwrap();
    assert!(harness.queue().reclaim(SETTLE).await.unwrap().is_empty());
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.swept_leases").await.unwrap(), "0");
}

/// Writes of each replica named that its copy is proven, as the holder of a swept object would.
async fn records(harness: &Harness, lease: &Lease, names: &[&str], release: bool) {
    let report = Report {
        key: lease.key.clone(),
        generation: lease.generation,
        fence: lease.fence,
        content: Some(Content { size_bytes: 3, hash: ContentHash(1) }),
        outcomes: names.iter().map(|r| (replica(r), Outcome::recorded(Verified::Compared))).collect(),
        release,
        metadata: None,
        source: None,
        not_carried: None,
        survived: lease.swept.is_some(),
        unsettled: Vec::new(),
    };
    assert_eq!(harness.queue().complete(&[report]).await.unwrap()[0].2, FencedWrite::Applied);
}

const TIMES: &str = "SELECT times FROM copyhold.swept_leases";

/// Of each replica: whether what was written is known, and after how long it is looked at and settled, in s.
const UNSETTLED: &str = "SELECT string_agg(replica || ' ' || (content_hash IS NOT NULL) || ' ' || (verify_at - noted_at) / 1000000
                                || ' ' || (settled_at - noted_at) / 1000000, ', ' ORDER BY replica) FROM copyhold.unsettled";

#[tokio::test]
async fn what_a_dead_holder_may_have_written_is_not_settled_anywhere() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    dies_with(&harness).await;
    // It is unknown which content it was, and whether it was a multipart upload.
    assert_eq!(harness.value(UNSETTLED).await.unwrap(), "b2 false 10 600, scw false 10 600, wasabi false 10 600");
    harness
        .execute("DELETE FROM copyhold.unsettled; UPDATE copyhold.object_copies SET size_bytes = 3, content_hash = 1")
        .await;
    harness.execute("DELETE FROM copyhold.swept_leases").await;
    dies_with(&harness).await;
    assert_eq!(harness.value(UNSETTLED).await.unwrap(), "b2 true 10 180, scw true 10 180, wasabi true 10 180");
}

#[tokio::test]
async fn a_holder_that_lives_to_give_the_lease_back_clears_the_count() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    dies_with(&harness).await;
    assert_eq!(dies_with(&harness).await, 2);
    let lease = claimed_again(&harness).await;
    records(&harness, &lease, &["wasabi"], false).await;
    // It may still die.
    assert_eq!(harness.value(TIMES).await.unwrap(), "2");
    records(&harness, &lease, &["scw"], true).await;
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.swept_leases").await.unwrap(), "0");
    assert_eq!(dies_again(&harness).await, 1);
}

/// As [`dies_with`], of a row that lacks no copy and is only read again.
async fn dies_again(harness: &Harness) -> u32 {
    harness.execute("UPDATE copyhold.object_copies SET lock = 1, lease = 7").await;
    harness.queue().reclaim(SETTLE).await.unwrap()[0].times
}

#[tokio::test]
async fn a_copy_whose_readers_die_is_read_later_each_time() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    let lease = claimed_again(&harness).await;
    records(&harness, &lease, &["wasabi", "scw"], true).await;
    assert_eq!(dies_again(&harness).await, 1);
    harness.execute("UPDATE copyhold.unsettled SET verify_at = 9000000000000000000").await;
    assert_eq!(dies_again(&harness).await, 2);
    let put_off = "SELECT bool_and((verify_at - noted_at) / 1000000 = 360 AND (settled_at - noted_at) / 1000000 = 360)
                   FROM copyhold.unsettled";
    assert_eq!(harness.value(put_off).await.unwrap(), "true");
}

#[tokio::test]
async fn a_sweep_of_an_object_that_lacks_nothing_and_is_settled_is_forgotten() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    dies_with(&harness).await;
    harness.queue().tidy_swept(None).await.unwrap();
    assert_eq!(harness.value(TIMES).await.unwrap(), "1", "it lacks copies");
    harness.execute("UPDATE copyhold.object_copies SET wasabi = 5, scw = 5").await;
    harness.queue().tidy_swept(None).await.unwrap();
    assert_eq!(harness.value(TIMES).await.unwrap(), "1", "a write may arrive");
    harness.execute("DELETE FROM copyhold.unsettled").await;
    harness.queue().tidy_swept(None).await.unwrap();
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.swept_leases").await.unwrap(), "0");
}

#[tokio::test]
async fn a_report_of_an_object_that_was_never_swept_leaves_no_trace() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    let lease = claimed_again(&harness).await;
    records(&harness, &lease, &["wasabi", "scw"], true).await;
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.swept_leases").await.unwrap(), "0");
}

/// Says that the holders of these objects have died `times` in a row.
async fn suspect(harness: &Harness, names: &str, times: u32) {
    harness
        .execute(&format!(
            "INSERT INTO copyhold.swept_leases (object_key, generation, times, last_at)
             SELECT object_key, generation, {times}, 1 FROM copyhold.object_copies WHERE object_key LIKE '{names}'"
        ))
        .await;
}

#[tokio::test]
async fn a_process_works_on_one_suspect_at_a_time() {
    let harness = Harness::new().await;
    let gate = PauseGate::new();
    let hold = harness.bucket("b2").order(Fault::Hold(gate.clone()), When::op(Op::GetObject).prefix("suspect"));
    for i in 0..4 {
        harness.upload(&format!("suspect {i}"), "bytes").await;
    }
    suspect(&harness, "suspect%", 2).await;
    harness.upload("innocent", "bytes").await;
    let _daemon = harness.daemon().await;
    soon("one is read", gate.holds(1)).await;
    // The others rest, and none is counted as tried.
    let rest = "SELECT count(*) = 3 FROM copyhold.object_copies
                WHERE object_key LIKE 'suspect%' AND lock IS NULL AND due_wasabi > copyhold.now_utc_micro_seconds()
                  AND due_scw > copyhold.now_utc_micro_seconds()";
    harness.until(rest).await;
    harness.until_copied("innocent").await;
    assert_eq!(gate.held(), 1);
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.copy_failures").await.unwrap(), "0");
    hold.clear();
    gate.open();
    for i in 0..4 {
        harness.until_copied(&format!("suspect {i}")).await;
    }
    // None is suspected any more.
    harness.until("SELECT count(*) = 0 FROM copyhold.swept_leases").await;
}

#[tokio::test]
async fn an_object_that_kills_its_reader_is_found_out_and_the_others_are_copied() {
    let harness = Harness::new().await;
    let gate = PauseGate::new();
    // The four objects that are under way at once die together, again and again.
    let hold = harness.bucket("b2").order(Fault::Hold(gate.clone()), When::op(Op::GetObject));
    for name in ["poison", "innocent 1", "innocent 2", "innocent 3"] {
        harness.upload(name, "bytes").await;
    }
    suspect(&harness, "%", 1).await;
    let mut doomed = harness.daemon().await;
    soon("all four are read", gate.holds(4)).await;
    doomed.kill().await;
    hold.clear();
    gate.open();
    let gate = PauseGate::new();
    harness.bucket("b2").order(Fault::Hold(gate.clone()), When::op(Op::GetObject).key("poison"));
    // From now on a daemon that reads the poison dies, and no other.
    let mut doomed = harness.daemon().await;
    doomed.until_logged("has lost its holder 2 times in a row").await;
    harness.execute("UPDATE copyhold.object_copies SET due_wasabi = 0, due_scw = 0").await;
    soon("the poison is read", gate.holds(1)).await;
    let alone = async || {
        harness.value("SELECT count(*) FROM copyhold.object_copies WHERE lock IS NOT NULL").await.as_deref()
            == Some("1")
    };
    eventually("it is read alone", alone).await;
    doomed.kill().await;
    let _heir = harness.daemon().await;
    harness.until("SELECT times = 3 FROM copyhold.swept_leases WHERE object_key = 'poison'").await;
    for name in ["innocent 1", "innocent 2", "innocent 3"] {
        harness
            .execute("UPDATE copyhold.object_copies SET due_wasabi = 0, due_scw = 0 WHERE object_key <> 'poison'")
            .await;
        harness.until_copied(name).await;
    }
}
