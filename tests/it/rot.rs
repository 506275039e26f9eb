//! Damage and earlier states at the primary: no good copy is overwritten, and missing objects come from other replicas.

use std::time::{Duration, SystemTime};

use crate::harness::{Harness, printed};

const GOOD: &str = "the good content of photo";
const PARKED: &str = "9000000000000000000";
const B2_IS_PARKED: &str =
    "SELECT b2 IS NULL AND due_b2 = 9000000000000000000 AND wasabi IS NOT NULL AND scw IS NOT NULL
       AND lock IS NULL FROM copyhold.object_copies WHERE object_key = 'photo'";

/// A harness in which `photo` is everywhere, but for scw, which has lost it; the primary's ETag is this one.
async fn lost_at_scw(etag: Option<&str>) -> (Harness, crate::harness::DaemonProcess) {
    let harness = Harness::new().await;
    harness.bucket("b2").put("photo", GOOD);
    if let Some(etag) = etag {
        harness.bucket("b2").set_etag("photo", etag);
    }
    harness.insert("photo").await;
    let daemon = harness.daemon().await;
    harness.until_copied("photo").await;
    harness.bucket("scw").delete("photo");
    (harness, daemon)
}

/// Takes back what scw has lost; a daemon then reads the primary.
async fn find_the_loss(harness: &Harness) {
    let said = harness.run(&["verify", "photo", "--replica", "scw"]).await;
    assert_eq!(said.status.code(), Some(1), "{}", printed(&said));
}

#[tokio::test]
async fn rot_at_the_primary_in_any_form_spoils_no_copy_and_the_missing_one_is_made_from_another() {
    for mode in ["multi", "md5", "old"] {
        let parts = "0123456789abcdef0123456789abcdef-2";
        let (harness, _daemon) = lost_at_scw((mode == "multi").then_some(parts)).await;
        let b2 = harness.bucket("b2");
        if mode == "old" {
            b2.put("photo", "what it was a year ago");
            b2.set_modified("photo", SystemTime::UNIX_EPOCH + Duration::from_hours(24));
        } else {
            b2.damage("photo", 3);
        }
        let there = b2.inspect("photo");
        let writes = harness.bucket("wasabi").writes("photo");
        find_the_loss(&harness).await;
        harness.until(B2_IS_PARKED).await;
        for replica in ["wasabi", "scw"] {
            assert_eq!(harness.bucket(replica).get("photo").unwrap(), GOOD, "{mode}: {replica}");
        }
        assert_eq!((b2.inspect("photo"), harness.bucket("wasabi").writes("photo")), (there, writes), "{mode}");
        let explained = printed(&harness.run(&["explain", "photo"]).await);
        let why = if mode == "old" { "it is older than what was copied" } else { "it is damaged" };
        assert!(explained.contains(why) && explained.contains("copyhold enqueue"), "{mode}: {explained}");
        if mode == "md5" {
            // Bytes that contradict their own MD5 are believed of no store.
            continue;
        }
        // It is wanted after all: then that is reported.
        assert!(harness.run(&["enqueue", "photo"]).await.status.success());
        harness.until_copied("photo").await;
        assert_eq!(harness.bucket("wasabi").get("photo"), b2.get("photo"), "{mode}");
    }
}

#[tokio::test]
async fn what_a_row_keeps_of_the_first_reading_is_what_the_primary_said() {
    let (harness, _daemon) = lost_at_scw(None).await;
    let kept = "SELECT source_replica = 'b2' AND source_tag IS NOT NULL
                   AND source_modified / 1000000 BETWEEN created_at / 1000000 - 5 AND created_at / 1000000
                  FROM copyhold.object_copies";
    assert_eq!(harness.value(kept).await.unwrap(), "true");
    // Copied back to the primary, it has another date there, which no daemon has read.
    harness.bucket("b2").delete("photo");
    assert_eq!(harness.run(&["verify", "photo"]).await.status.code(), Some(1));
    harness.until_copied("photo").await;
    let nothing =
        "SELECT source_replica = 'b2' AND source_tag IS NULL AND source_modified IS NULL FROM copyhold.object_copies";
    assert_eq!(harness.value(nothing).await.unwrap(), "true");
}

#[tokio::test]
async fn a_restored_bucket_is_taken_for_many_changes_and_its_objects_are_parked() {
    let harness = Harness::new().await;
    let keys: Vec<_> = (0..30).map(|i| format!("k{i:02}")).collect();
    for key in &keys {
        harness.upload(key, format!("good {key}")).await;
    }
    let daemon = harness.daemon().await;
    for key in &keys {
        harness.until_copied(key).await;
    }
    // Back from a backup: an hour later by its dates, as everything there.
    for key in &keys {
        harness.bucket("b2").put(key, format!("old {key}"));
        let modified = harness.bucket("b2").inspect(key).unwrap().modified;
        harness.bucket("b2").set_modified(key, modified + Duration::from_hours(1));
        harness.bucket("scw").delete(key);
    }
    harness.execute("UPDATE copyhold.object_copies SET scw = NULL").await;
    harness.execute("UPDATE copyhold.object_copies SET due_scw = 0").await;
    daemon.until_logged("Unregistered changes at b2 are parked from here on").await;
    let settled = "SELECT count(*) = 30 FROM copyhold.object_copies WHERE wasabi IS NOT NULL AND scw IS NOT NULL AND lock IS NULL";
    harness.until(settled).await;
    let parked = format!("SELECT count(*) FROM copyhold.object_copies WHERE b2 IS NULL AND due_b2 = {PARKED}");
    assert_eq!(harness.value(&parked).await.unwrap(), "10");
    for replica in ["wasabi", "scw"] {
        let good = keys.iter().filter(|key| harness.bucket(replica).get(key).unwrap() == format!("good {key}"));
        assert_eq!(good.count(), 10, "{replica}");
    }
    let told = "SELECT count(*) FROM copyhold.log WHERE event_data->>'kind' = 'replica.changes_parked'";
    assert_eq!(harness.value(told).await.unwrap(), "1");
    let status = printed(&harness.run(&["status"]).await);
    assert!(status.contains("unregistered changes at b2 are parked since"), "{status}");
    let why = "SELECT count(*) FROM copyhold.copy_failures WHERE replica = 'b2' AND class = 'changed' AND message LIKE '%restored from a backup%'";
    assert_eq!(harness.value(why).await.unwrap(), "10");
}

#[tokio::test]
async fn where_changes_are_to_be_parked_not_one_is_copied() {
    let mut harness = Harness::new().await;
    harness.rewrite(|text| text + "[guard]\nchanged = \"park\"\n");
    harness.upload("photo", GOOD).await;
    let _daemon = harness.daemon().await;
    harness.until_copied("photo").await;
    harness.bucket("b2").put("photo", "another one");
    harness.bucket("scw").delete("photo");
    find_the_loss(&harness).await;
    harness.until(B2_IS_PARKED).await;
    for replica in ["wasabi", "scw"] {
        assert_eq!(harness.bucket(replica).get("photo").unwrap(), GOOD, "{replica}");
    }
    assert_eq!(harness.bucket("b2").get("photo").unwrap(), "another one");
}
