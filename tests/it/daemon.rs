//! The whole way of the data: registered, copied, verified, recorded.

use std::time::Duration;

use copyhold_sandbox::s3::{Fault, Metadata, Op, PauseGate, When, synthetic};

use crate::harness::{Harness, at_least_once, soon};

#[tokio::test]
async fn a_registered_object_is_read_once_and_written_to_every_other_replica() {
    let harness = Harness::unhurried().await;
    let _daemon = harness.daemon().await;
    // The first one shows what the replicas make of other spellings of keys.
    harness.upload("first", "bytes").await;
    harness.until_copied("first").await;
    let looks = |replica: &str| harness.bucket(replica).calls(Op::HeadObject);
    let before = ["wasabi", "scw"].map(looks);
    harness.upload("photo", "bytes").await;
    harness.until_copied("photo").await;
    for replica in ["wasabi", "scw"] {
        assert_eq!(harness.bucket(replica).get("photo").unwrap(), "bytes");
        assert_eq!(harness.bucket(replica).writes("photo"), 1);
    }
    assert_eq!(["wasabi", "scw"].map(looks), before);
    assert_eq!(harness.bucket("b2").calls(Op::GetObject), 2);
    let row = "SELECT (size_bytes, content_hash IS NOT NULL) FROM copyhold.object_copies WHERE object_key = 'photo'";
    assert_eq!(harness.value(row).await.unwrap(), "(5,t)");
}

#[tokio::test]
async fn odd_keys_sizes_and_metadata_arrive_as_they_were() {
    let harness = Harness::new().await;
    let metadata = Metadata::default()
        .with("content-type", "image/jpeg")
        .with("content-encoding", "gzip")
        .with("content-disposition", "attachment; filename=\"a.jpg\"")
        .with("content-language", "de")
        .with("cache-control", "max-age=3600")
        .with("x-amz-meta-owner", "a person");
    let long = "k".repeat(1024);
    let objects: [(&str, u64); 8] = [
        ("empty", 0),
        ("a//b", 1),
        ("/lead", 2),
        (" ü%2F+\t", 3),
        ("dir/", 4),
        ("dir/x", 5),
        (&long, 6),
        ("large", 33 << 20),
    ];
    for (key, size) in objects {
        harness.bucket("b2").put_with(key, bytes(size), metadata.clone());
        harness.insert(key).await;
    }
    let _daemon = harness.daemon().await;
    for (key, size) in objects {
        harness.until_copied(key).await;
        for replica in ["wasabi", "scw"] {
            assert!(harness.bucket(replica).get(key).unwrap() == bytes(size), "{key} at {replica}");
            assert_eq!(harness.bucket(replica).inspect(key).unwrap().metadata, metadata, "{key} at {replica}");
        }
    }
    assert_eq!(harness.bucket("wasabi").uploads().len(), 0);
}

fn bytes(size: u64) -> Vec<u8> {
    synthetic::bytes(7, 0..size).to_vec()
}

#[tokio::test]
async fn a_failing_target_holds_up_no_other_and_catches_up_by_itself() {
    let harness = Harness::new().await;
    let outage = harness.bucket("scw").order(Fault::internal_error(), When::always());
    let _daemon = harness.daemon().await;
    // The gate could not list scw's bucket; the replica is admitted once the store is healthy.
    for i in 0..20 {
        harness.upload(&format!("photo {i}"), "bytes").await;
    }
    harness.until("SELECT count(wasabi) = 20 FROM copyhold.object_copies").await;
    assert_eq!(harness.value("SELECT count(scw) FROM copyhold.object_copies").await.unwrap(), "0");
    outage.clear();
    harness.until("SELECT count(scw) = 20 FROM copyhold.object_copies").await;
}

#[tokio::test]
async fn a_store_that_breaks_down_later_is_retried_by_the_databases_clock() {
    let harness = Harness::unhurried().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    let outage = harness.bucket("scw").order(Fault::internal_error(), When::op(Op::PutObject));
    harness.upload("photo", "bytes").await;
    let failure = "SELECT EXISTS (SELECT FROM copyhold.copy_failures WHERE replica = 'scw' AND class = 'transient'
                                  AND message LIKE '%InternalError%' AND attempts >= 2)";
    harness.until(failure).await;
    assert_eq!(
        harness.value("SELECT wasabi IS NOT NULL AND due_scw > created_at FROM copyhold.object_copies").await.unwrap(),
        "true"
    );
    outage.clear();
    harness.until_copied("photo").await;
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.copy_failures").await.unwrap(), "0");
    // The source was read anew for the retry, and the target that had its copy was left alone.
    assert_eq!(harness.bucket("wasabi").writes("photo"), 1);
}

#[tokio::test]
async fn a_retry_is_made_when_it_is_due_and_not_when_the_poll_comes_round() {
    // Four failures with pauses of about 1, 2 and 4 s between them. Found by the poll alone, each would have waited five.
    at_least_once("the fourth attempt comes within 13 s", async || {
        let harness = Harness::new().await;
        let daemon = harness.daemon().await;
        daemon.until_logged("Copying to scw").await;
        harness.bucket("scw").order(Fault::internal_error(), When::op(Op::PutObject).key("photo"));
        harness.upload("photo", "bytes").await;
        harness.until("SELECT attempts >= 4 FROM copyhold.copy_failures WHERE replica = 'scw'").await;
        let soon = "SELECT attempts = 4 AND last_at - first_at < 13000000 FROM copyhold.copy_failures";
        harness.value(soon).await.as_deref() == Some("true")
    })
    .await;
}

#[tokio::test]
async fn a_target_that_hangs_leaves_workers_to_the_others() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    let stall = harness.bucket("scw").order(Fault::Stall, When::op(Op::PutObject));
    // Ten times as many as there are workers, while not one copy to scw ends.
    for i in 0..160 {
        harness.bucket("b2").put(&format!("photo {i}"), "bytes");
    }
    let insert = "INSERT INTO copyhold.object_copies (object_key, b2)
                  SELECT 'photo ' || i, copyhold.now_utc_micro_seconds() FROM generate_series(0, 159) i";
    harness.execute(insert).await;
    harness.until("SELECT count(wasabi) = 160 AND count(scw) = 0 FROM copyhold.object_copies").await;
    stall.clear();
    harness.until("SELECT count(scw) = 160 FROM copyhold.object_copies").await;
}

#[tokio::test]
async fn a_target_that_alone_has_a_backlog_is_served_without_pauses() {
    let harness = Harness::new().await;
    // Long enough that all its permits are taken, while the other lane is asked and has nothing.
    harness.bucket("wasabi").order(Fault::Delay(Duration::from_millis(20)), When::op(Op::PutObject));
    for i in 0..300 {
        harness.bucket("b2").put(&format!("photo {i}"), "bytes");
    }
    let insert = "INSERT INTO copyhold.object_copies (object_key, b2, scw)
                  SELECT 'photo ' || i, copyhold.now_utc_micro_seconds(), copyhold.now_utc_micro_seconds()
                  FROM generate_series(0, 299) i";
    harness.execute(insert).await;
    let _daemon = harness.daemon().await;
    // Twelve at a time: if they were waited for until the next poll, it would take two minutes.
    harness.until("SELECT count(wasabi) = 300 FROM copyhold.object_copies").await;
}

#[tokio::test]
async fn an_upload_in_the_middle_of_a_backfill_does_not_wait_behind_it() {
    let harness = Harness::new().await;
    let gate = PauseGate::new();
    for target in ["wasabi", "scw"] {
        harness.bucket(target).order(Fault::Hold(gate.clone()), When::op(Op::PutObject).prefix("old"));
    }
    for i in 0..100 {
        harness.bucket("b2").put(&format!("old {i}"), "bytes");
    }
    let backfill = "INSERT INTO copyhold.object_copies (object_key, b2, created_at)
                    SELECT 'old ' || i, 1, copyhold.now_utc_micro_seconds() - 3600000000 FROM generate_series(0, 99) i";
    harness.execute(backfill).await;
    let _daemon = harness.daemon().await;
    // Of 16 workers two are kept for fresh objects, and of the others' copies three quarters may go to one target.
    soon("the backfill keeps all busy", gate.holds(11 * 2)).await;
    harness.upload("fresh", "bytes").await;
    harness.until_copied("fresh").await;
    gate.open();
    harness.until("SELECT count(wasabi) = 101 AND count(scw) = 101 FROM copyhold.object_copies").await;
}

#[tokio::test]
async fn an_insert_wakes_a_sleeping_daemon_before_it_would_have_looked() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    harness.until("SELECT sleeping FROM copyhold.daemons").await;
    daemon.until_logged("Listening").await;
    daemon.until_logged("Copying to wasabi").await;
    harness.copied_by_notice(&daemon, "photo", 20).await;
}

#[tokio::test]
async fn registering_an_object_again_while_it_is_copied_ends_with_the_new_content_everywhere() {
    let harness = Harness::new().await;
    let gate = PauseGate::new();
    harness.bucket("wasabi").order(Fault::Hold(gate.clone()), When::op(Op::PutObject).next(1));
    harness.upload("photo", "old").await;
    let _daemon = harness.daemon().await;
    soon("the old content is on its way", gate.holds(1)).await;
    harness.bucket("b2").put("photo", "new content");
    harness.value("SELECT copyhold.register('photo')").await;
    gate.open();
    harness.until_copied("photo").await;
    for replica in ["wasabi", "scw"] {
        assert_eq!(harness.bucket(replica).get("photo").unwrap(), "new content", "{replica}");
    }
}

#[tokio::test]
async fn several_daemons_write_each_object_exactly_once() {
    let harness = Harness::unhurried().await;
    harness
        .execute(
            "INSERT INTO copyhold.object_copies (object_key, b2)
             SELECT 'k' || i, copyhold.now_utc_micro_seconds() FROM generate_series(1, 1000) i",
        )
        .await;
    for i in 1..=1000 {
        harness.bucket("b2").put(&format!("k{i}"), format!("bytes {i}"));
    }
    let _daemons = futures::future::join_all((0..3).map(|_| harness.daemon())).await;
    harness.until("SELECT count(wasabi) = 1000 AND count(scw) = 1000 FROM copyhold.object_copies").await;
    for replica in ["wasabi", "scw"] {
        let bucket = harness.bucket(replica);
        assert_eq!(bucket.successes(Op::PutObject), 1000, "{replica}");
        for i in 1..=1000 {
            assert_eq!(bucket.writes(&format!("k{i}")), 1);
        }
    }
}
