//! An object that was changed without being registered: the copy that reads it begins a new generation.

use std::time::Duration;

use copyhold_core::domain::{Content, ContentHash, Lease, Outcome, SourceReading, Verified};
use copyhold_db::lease::{FencedWrite, Report, UnregisteredChange};
use copyhold_sandbox::s3::{Fault, Metadata, Op, When};

use crate::harness::{Harness, replica};

/// An object of which wasabi has its copy and scw, which refuses, not yet. Returns the refusal.
async fn half_copied(harness: &Harness, key: &str) -> copyhold_sandbox::s3::InjectedFault {
    let refusal = harness.bucket("scw").order(Fault::internal_error(), When::op(Op::PutObject));
    harness.upload(key, "first").await;
    // The attempt that read the first content is over, and can write no more.
    harness
        .until("SELECT wasabi IS NOT NULL AND lock IS NULL AND due_scw > created_at FROM copyhold.object_copies")
        .await;
    refusal
}

#[tokio::test]
async fn an_unregistered_change_is_found_by_reading_and_copied_everywhere() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    let refusal = half_copied(&harness, "photo").await;
    let first = harness.value("SELECT generation FROM copyhold.object_copies").await;
    harness.bucket("b2").put("photo", "another one");
    refusal.clear();
    daemon.until_logged("photo was changed at b2 without being registered: a new generation begins").await;
    harness.until_copied("photo").await;
    for replica in ["wasabi", "scw"] {
        assert_eq!(harness.bucket(replica).get("photo").unwrap(), "another one", "{replica}");
    }
    assert_eq!(harness.value("SELECT size_bytes FROM copyhold.object_copies").await.unwrap(), "11");
    assert_ne!(harness.value("SELECT generation FROM copyhold.object_copies").await, first);
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.copy_failures").await.unwrap(), "0");
}

#[tokio::test]
async fn other_metadata_that_was_written_later_with_the_same_bytes_is_copied_everywhere() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    let refusal = half_copied(&harness, "photo").await;
    let private = Metadata::none().with("cache-control", "private");
    harness.bucket("b2").put_with("photo", "first", private);
    let modified = harness.bucket("b2").inspect("photo").unwrap().modified;
    harness.bucket("b2").set_modified("photo", modified + Duration::from_secs(5));
    refusal.clear();
    daemon.until_logged("photo was changed at b2 without being registered: a new generation begins").await;
    harness.until_copied("photo").await;
    for replica in ["wasabi", "scw"] {
        let there = harness.bucket(replica).inspect("photo").unwrap().metadata;
        assert_eq!(there.get("cache-control"), Some("private"), "{replica}");
    }
    // What is on record fits all of them.
    assert!(harness.run(&["verify", "photo", "--metadata"]).await.status.success());
    assert_eq!(daemon.logged("a new generation begins"), 1);
}

#[tokio::test]
async fn an_object_that_changes_all_the_time_is_parked_and_does_not_turn_for_ever() {
    let harness = Harness::new().await;
    let _daemon = harness.daemon().await;
    let refusal = half_copied(&harness, "photo").await;
    let first: i64 = harness.value("SELECT generation FROM copyhold.object_copies").await.unwrap().parse().unwrap();
    let changes = async {
        for i in 0_u64.. {
            harness.bucket("b2").put("photo", i.to_string());
            tokio::task::yield_now().await;
        }
    };
    let parked = async {
        refusal.clear();
        harness
            .until(
                "SELECT due_wasabi = 9000000000000000000 AND due_scw = 9000000000000000000 AND lock IS NULL
                 FROM copyhold.object_copies",
            )
            .await;
    };
    tokio::select! {
        () = changes => {}
        () = parked => {}
    }
    // Where a reading fell between two changes the count begins anew, but no object turns so for long.
    let generations: i64 =
        harness.value("SELECT generation FROM copyhold.object_copies").await.unwrap().parse().unwrap();
    assert!(generations - first >= 3, "{generations}");
    let failures = "SELECT string_agg(DISTINCT class || ' ' || attempts, ',') FROM copyhold.copy_failures";
    assert_eq!(harness.value(failures).await.unwrap(), "changed 3");
    assert_eq!(harness.value("SELECT b2 IS NOT NULL FROM copyhold.object_copies").await.unwrap(), "true");
    // It is read and does not change meanwhile.
    assert!(harness.run(&["retry", "photo"]).await.status.success());
    harness.until_copied("photo").await;
    assert_eq!(harness.bucket("scw").get("photo"), harness.bucket("b2").get("photo"));
}

#[tokio::test]
async fn a_replica_whose_copy_was_damaged_loses_its_record_and_is_mended_from_another() {
    let harness = Harness::new().await;
    let mut daemon = harness.daemon().await;
    harness.upload("photo", "bytes").await;
    harness.until_copied("photo").await;
    daemon.kill().await;
    // The primary has lost it, scw, which is asked next, has damaged it, wasabi has it.
    harness.bucket("scw").damage("photo", 2);
    harness.bucket("b2").delete("photo");
    harness
        .execute(
            "UPDATE copyhold.object_copies SET b2 = NULL, due_b2 = 0;
             UPDATE copyhold.replicas SET existing = 'overwrite', writable_at = 1 WHERE name = 'b2'",
        )
        .await;
    let daemon = harness.daemon().await;
    daemon.until_logged("its copy is not what this generation's first read found").await;
    harness.until_copied("photo").await;
    for replica in ["b2", "wasabi", "scw"] {
        assert_eq!(harness.bucket(replica).get("photo").unwrap(), "bytes", "{replica}");
    }
}

async fn leased(harness: &Harness) -> Lease {
    harness.insert("photo").await;
    harness
        .execute(
            "UPDATE copyhold.object_copies SET wasabi = 5, due_scw = NULL, due_b2 = 7, size_bytes = 3, content_hash = 1",
        )
        .await;
    harness.execute("UPDATE copyhold.object_copies SET wasabi = NULL").await;
    let daemon = harness.enlist(60).await;
    harness.claim(&daemon, "wasabi", 1).await.remove(0)
}

fn changed() -> UnregisteredChange {
    UnregisteredChange {
        from: replica("b2"),
        content: Content { size_bytes: 4, hash: ContentHash(2) },
        said: SourceReading { replica: replica("b2"), modified_us: Some(6), tag: Some(8) },
        in_a_row: 1,
        park: false,
        message: "it was changed".into(),
    }
}

const ROW: &str =
    "SELECT (b2 IS NOT NULL, wasabi IS NULL, due_wasabi <= copyhold.now_utc_micro_seconds(), due_scw IS NULL,
                           size_bytes, content_hash, lock IS NULL)
                   FROM copyhold.object_copies";

#[tokio::test]
async fn a_generation_begun_by_reading_is_as_one_that_was_registered() {
    let harness = Harness::new().await;
    let lease = leased(&harness).await;
    harness.execute("UPDATE copyhold.object_copies SET wasabi = 5, created_at = 5").await;
    assert_eq!(harness.queue().begin_generation(&lease, &changed()).await.unwrap(), FencedWrite::Applied);
    // What was not wanted stays so.
    assert_eq!(harness.value(ROW).await.unwrap(), "(t,t,t,t,4,2,t)");
    assert_eq!(harness.value("SELECT created_at > 5 FROM copyhold.object_copies").await.unwrap(), "true");
    let failures = "SELECT string_agg(replica || ' ' || class || ' ' || attempts, ',') FROM copyhold.copy_failures";
    assert_eq!(harness.value(failures).await.unwrap(), "wasabi changed 1");
    // The count continues with the next claim, although that is of another generation.
    let daemon = harness.enlist(60).await;
    let again = harness.claim(&daemon, "wasabi", 1).await.remove(0);
    assert_ne!(again.generation, lease.generation);
    assert_eq!(again.replicas.iter().filter_map(|r| r.prior).map(|p| p.attempts).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_holder_that_has_lost_the_lease_or_the_generation_begins_none() {
    let harness = Harness::new().await;
    let lease = leased(&harness).await;
    harness.value("SELECT copyhold.register('photo', 9)").await;
    let registered = harness.value("SELECT (generation, size_bytes) FROM copyhold.object_copies").await;
    assert_eq!(harness.queue().begin_generation(&lease, &changed()).await.unwrap(), FencedWrite::Superseded);
    harness.execute("UPDATE copyhold.object_copies SET lock = NULL, lease = NULL").await;
    assert_eq!(harness.queue().begin_generation(&lease, &changed()).await.unwrap(), FencedWrite::Superseded);
    assert_eq!(harness.value("SELECT (generation, size_bytes) FROM copyhold.object_copies").await, registered);
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.copy_failures").await.unwrap(), "0");
}

#[tokio::test]
async fn what_was_proven_of_the_content_before_is_not_recorded_of_the_one_that_was_read() {
    let harness = Harness::new().await;
    let lease = leased(&harness).await;
    assert_eq!(harness.queue().begin_generation(&lease, &changed()).await.unwrap(), FencedWrite::Applied);
    let row = harness.value("SELECT o FROM copyhold.object_copies o").await;
    // Late words of the same holder: a proof, a failure, a heartbeat.
    let late = Report {
        key: lease.key.clone(),
        generation: lease.generation,
        fence: lease.fence,
        content: lease.content,
        outcomes: vec![(replica("wasabi"), Outcome::recorded(Verified::Compared))],
        release: true,
        metadata: None,
        source: None,
        not_carried: None,
        survived: false,
        unsettled: Vec::new(),
    };
    assert_eq!(harness.queue().complete(std::slice::from_ref(&late)).await.unwrap()[0].2, FencedWrite::Superseded);
    // And if the next claim had drawn the same number.
    harness.execute(&format!("UPDATE copyhold.object_copies SET lock = 1, lease = {}", lease.fence.0)).await;
    assert_eq!(harness.queue().complete(&[late]).await.unwrap()[0].2, FencedWrite::Superseded);
    let held = [(lease.key.clone(), lease.fence, lease.generation)];
    assert_eq!(harness.queue().renew(&held, Duration::from_mins(1)).await.unwrap()[0].2, FencedWrite::Superseded);
    harness.execute("UPDATE copyhold.object_copies SET lock = NULL, lease = NULL").await;
    assert_eq!(harness.value("SELECT o FROM copyhold.object_copies o").await, row);
}
