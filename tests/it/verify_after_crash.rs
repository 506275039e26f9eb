//! A write whose end was not seen may arrive after another one has recorded the copy: what is recorded under it is read
//! again until nothing can arrive any more.

use std::time::{Duration, SystemTime};

use copyhold_core::domain::{Content, ContentHash, MetadataHash};
use copyhold_db::lease::{UnsettledCopy, UnsettledWrite};
use copyhold_sandbox::s3::{Fault, Metadata, Op, When};
use rustix::process::Signal;

use crate::harness::{DaemonProcess, Harness, key, printed, replica};

/// An object, copied everywhere, under which writes of another content may still arrive at the two secondaries.
async fn copied_and_unsettled(harness: &Harness) -> DaemonProcess {
    harness.upload("photo", "bytes").await;
    let daemon = harness.daemon().await;
    harness.until_copied("photo").await;
    harness.execute(&unsettled("photo", "'wasabi'), ('scw'")).await;
    daemon
}

/// Writes of unknown content to these replicas, not due yet.
fn unsettled(name: &str, replicas: &str) -> String {
    format!(
        "INSERT INTO copyhold.unsettled (object_key, replica, verify_at, settled_at)
         SELECT '{name}', r, copyhold.now_utc_micro_seconds() + 600000000, copyhold.now_utc_micro_seconds() + 600000000
           FROM (VALUES ({replicas})) AS v(r)"
    )
}

/// There is something to be read again, and not yet.
const LATER: &str = "SELECT bool_and(verify_at > copyhold.now_utc_micro_seconds() + 30000000) FROM copyhold.unsettled";

/// Time for a look, and nothing is settled yet.
async fn a_look_is_due(harness: &Harness) {
    harness
        .execute("UPDATE copyhold.unsettled SET verify_at = 1, noted_at = copyhold.now_utc_micro_seconds() - 60000000")
        .await;
}

/// Nothing can arrive any more.
async fn time_passes(harness: &Harness) {
    harness.execute("UPDATE copyhold.unsettled SET verify_at = 1, settled_at = 1").await;
}

const NOTHING_LEFT: &str = "SELECT count(*) = 0 FROM copyhold.unsettled";
const FREE: &str = "SELECT lock IS NULL FROM copyhold.object_copies";

#[tokio::test]
async fn what_a_late_write_overwrites_is_found_and_mended() {
    let harness = Harness::new().await;
    let daemon = copied_and_unsettled(&harness).await;
    harness.bucket("wasabi").put("photo", "older");
    harness.bucket("scw").delete("photo");
    time_passes(&harness).await;
    daemon.until_logged("What wasabi has of photo is not what was recorded").await;
    daemon.until_logged("What scw has of photo is not what was recorded").await;
    harness.until_copied("photo").await;
    for replica in ["wasabi", "scw"] {
        assert_eq!(harness.bucket(replica).get("photo").unwrap(), "bytes");
    }
    // And once more, until it is found to be right.
    time_passes(&harness).await;
    harness.until(NOTHING_LEFT).await;
    harness.until(FREE).await;
}

#[tokio::test]
async fn other_metadata_over_the_same_bytes_are_a_late_write_where_it_is_unknown_what_was_sent() {
    let harness = Harness::new().await;
    let daemon = copied_and_unsettled(&harness).await;
    harness.bucket("wasabi").put_with("photo", "bytes", Metadata::none().with("cache-control", "max-age=1"));
    time_passes(&harness).await;
    daemon.until_logged("What wasabi has of photo is not what was recorded").await;
    harness.until_copied("photo").await;
    assert_eq!(harness.bucket("wasabi").inspect("photo").unwrap().metadata.get("cache-control"), None);
    assert_eq!((harness.bucket("scw").writes("photo"), harness.bucket("b2").writes("photo")), (1, 0));
}

#[tokio::test]
async fn what_is_right_is_read_once_and_written_no_more() {
    let harness = Harness::new().await;
    let _daemon = copied_and_unsettled(&harness).await;
    let read = harness.bucket("b2").calls(Op::GetObject);
    let recorded = harness.value("SELECT (wasabi, scw) FROM copyhold.object_copies").await;
    time_passes(&harness).await;
    harness.until(NOTHING_LEFT).await;
    harness.until(FREE).await;
    assert_eq!(harness.value("SELECT (wasabi, scw) FROM copyhold.object_copies").await, recorded);
    for replica in ["wasabi", "scw"] {
        let bucket = harness.bucket(replica);
        assert_eq!((bucket.calls(Op::GetObject), bucket.writes("photo")), (1, 1), "{replica}");
    }
    assert_eq!(harness.bucket("b2").calls(Op::GetObject), read);
}

#[tokio::test]
async fn what_cannot_be_read_stays_recorded_and_is_read_later() {
    let harness = Harness::new().await;
    let daemon = copied_and_unsettled(&harness).await;
    let outage = harness.bucket("wasabi").order(Fault::internal_error(), When::op(Op::GetObject));
    time_passes(&harness).await;
    daemon.until_logged("photo at wasabi is to be read again and cannot be").await;
    harness.until(LATER).await;
    harness.until(FREE).await;
    assert_eq!(harness.value("SELECT wasabi IS NOT NULL FROM copyhold.object_copies").await.unwrap(), "true");
    outage.clear();
    time_passes(&harness).await;
    harness.until(NOTHING_LEFT).await;
}

#[tokio::test]
async fn an_early_look_finds_a_late_write_and_goes_on_looking() {
    let harness = Harness::new().await;
    let daemon = copied_and_unsettled(&harness).await;
    harness.bucket("wasabi").put("photo", "older");
    a_look_is_due(&harness).await;
    daemon.until_logged("What wasabi has of photo is not what was recorded").await;
    harness.until_copied("photo").await;
    assert_eq!(harness.bucket("wasabi").get("photo").unwrap(), "bytes");
    assert_eq!(
        harness.value("SELECT count(*) FROM copyhold.unsettled").await.unwrap(),
        "2",
        "a look is not the last one"
    );
}

#[tokio::test]
async fn a_write_of_what_the_object_still_is_costs_no_reading() {
    let harness = Harness::new().await;
    let _daemon = copied_and_unsettled(&harness).await;
    harness
        .execute(
            "UPDATE copyhold.unsettled u SET size_bytes = o.size_bytes, content_hash = o.content_hash, metadata_hash = o.metadata_hash
               FROM copyhold.object_copies o WHERE o.object_key = u.object_key",
        )
        .await;
    a_look_is_due(&harness).await;
    harness.until(LATER).await;
    time_passes(&harness).await;
    harness.until(NOTHING_LEFT).await;
    for replica in ["wasabi", "scw"] {
        assert_eq!(harness.bucket(replica).calls(Op::GetObject), 0, "{replica}");
    }
}

#[tokio::test]
async fn a_leased_object_is_read_when_it_is_free() {
    let harness = Harness::new().await;
    let _daemon = copied_and_unsettled(&harness).await;
    harness.upload("other", "bytes").await;
    harness.until_copied("other").await;
    harness
        .execute("UPDATE copyhold.object_copies SET lock = 8000000000000000000, lease = 7 WHERE object_key = 'photo'")
        .await;
    harness.execute(&unsettled("other", "'wasabi'")).await;
    time_passes(&harness).await;
    // The other one is not held up.
    harness.until("SELECT count(*) = 0 FROM copyhold.unsettled WHERE object_key = 'other'").await;
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.unsettled").await.unwrap(), "2");
    harness.execute("UPDATE copyhold.object_copies SET lock = NULL, lease = NULL WHERE object_key = 'photo'").await;
    time_passes(&harness).await;
    harness.until(NOTHING_LEFT).await;
}

#[tokio::test]
async fn a_reader_that_ends_or_dies_leaves_it_to_the_next() {
    let harness = Harness::new().await;
    let mut daemon = copied_and_unsettled(&harness).await;
    let silence = harness.bucket("wasabi").order(Fault::Stall, When::op(Op::GetObject));
    time_passes(&harness).await;
    let later = "SELECT bool_and(verify_at > copyhold.now_utc_micro_seconds() + 30000000) FROM copyhold.unsettled WHERE replica = 'wasabi'";
    let held = "SELECT lock IS NOT NULL FROM copyhold.object_copies";
    harness.until(held).await;
    // One that is asked to end gives the row back at once.
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
    harness.until(FREE).await;
    harness.until(later).await;
    let mut daemon = harness.daemon().await;
    time_passes(&harness).await;
    harness.until(held).await;
    daemon.kill().await;
    silence.clear();
    let _heir = harness.daemon().await;
    harness.until(FREE).await;
    time_passes(&harness).await;
    harness.until(NOTHING_LEFT).await;
}

/// A write to the primary whose end was not seen, of a content that is known.
async fn unsettled_at_the_primary(harness: &Harness) {
    let known = "UPDATE copyhold.unsettled SET size_bytes = 5, content_hash = 5 WHERE replica = 'b2'";
    harness.execute(&format!("{}; {known}", unsettled("photo", "'b2'"))).await;
}

#[tokio::test]
async fn metadata_that_the_application_has_written_since_is_found_where_the_primary_is_read_again() {
    let harness = Harness::new().await;
    let daemon = copied_and_unsettled(&harness).await;
    unsettled_at_the_primary(&harness).await;
    harness.execute("UPDATE copyhold.unsettled SET metadata_hash = 5 WHERE replica = 'b2'").await;
    let private = Metadata::none().with("cache-control", "private");
    harness.bucket("b2").put_with("photo", "bytes", private);
    let modified = harness.bucket("b2").inspect("photo").unwrap().modified;
    harness.bucket("b2").set_modified("photo", modified + Duration::from_secs(5));
    a_look_is_due(&harness).await;
    daemon.until_logged("photo was changed at b2 without being registered: a new generation begins").await;
    harness.until_copied("photo").await;
    for replica in ["wasabi", "scw"] {
        let there = harness.bucket(replica).inspect("photo").unwrap().metadata;
        assert_eq!(there.get("cache-control"), Some("private"), "{replica}");
    }
}

const PARKED_AT_THE_PRIMARY: &str = "SELECT b2 IS NULL AND due_b2 = 9000000000000000000 AND lock IS NULL
    AND wasabi IS NOT NULL AND scw IS NOT NULL FROM copyhold.object_copies WHERE object_key = 'photo'";

#[tokio::test]
async fn a_new_content_at_the_primary_that_is_not_what_was_sent_there_is_copied_everywhere() {
    let harness = Harness::new().await;
    let daemon = copied_and_unsettled(&harness).await;
    let generation = harness.value("SELECT generation FROM copyhold.object_copies").await.unwrap();
    unsettled_at_the_primary(&harness).await;
    harness.bucket("b2").put("photo", "the application's");
    time_passes(&harness).await;
    daemon.until_logged("photo was changed at b2 without being registered").await;
    harness.until(&format!("SELECT generation > {generation} FROM copyhold.object_copies")).await;
    harness.until_copied("photo").await;
    for replica in ["b2", "wasabi", "scw"] {
        assert_eq!(harness.bucket(replica).get("photo").unwrap(), "the application's", "{replica}");
    }
    time_passes(&harness).await;
    harness.until(NOTHING_LEFT).await;
}

#[tokio::test]
async fn an_earlier_state_or_rot_at_the_primary_is_called_so_by_a_recheck_and_copied_nowhere() {
    for (old, words) in [(true, "it is older than what was copied"), (false, "it is damaged")] {
        let harness = Harness::new().await;
        let _daemon = copied_and_unsettled(&harness).await;
        unsettled_at_the_primary(&harness).await;
        let b2 = harness.bucket("b2");
        if old {
            b2.put("photo", "what it was a year ago");
            b2.set_modified("photo", SystemTime::UNIX_EPOCH + Duration::from_hours(24));
        } else {
            b2.damage("photo", 3);
        }
        time_passes(&harness).await;
        harness.until(PARKED_AT_THE_PRIMARY).await;
        let explained = printed(&harness.run(&["explain", "photo"]).await);
        assert!(explained.contains(words) && explained.contains("register the key again"), "{explained}");
        for replica in ["wasabi", "scw"] {
            assert_eq!(harness.bucket(replica).get("photo").unwrap(), "bytes", "{words}: {replica}");
        }
    }
}

#[tokio::test]
async fn a_recheck_asks_the_guard_before_it_believes_a_new_content() {
    let mut harness = Harness::new().await;
    harness.rewrite(|text| text + "[guard]\nchanged = \"park\"\n");
    let _daemon = copied_and_unsettled(&harness).await;
    unsettled_at_the_primary(&harness).await;
    harness.bucket("b2").put("photo", "the application's");
    time_passes(&harness).await;
    harness.until(PARKED_AT_THE_PRIMARY).await;
    let why = "SELECT class || ': ' || message FROM copyhold.copy_failures WHERE replica = 'b2'";
    let why = harness.value(why).await.unwrap();
    assert!(why.starts_with("changed: ") && why.contains("[guard] changed = \"park\""), "{why}");
    assert_eq!(harness.bucket("wasabi").get("photo").unwrap(), "bytes");
}

#[tokio::test]
async fn what_may_be_a_late_write_of_ours_at_the_primary_is_cleared_and_not_written_over() {
    let harness = Harness::new().await;
    let daemon = copied_and_unsettled(&harness).await;
    harness.execute(&unsettled("photo", "'b2'")).await;
    harness.bucket("b2").put("photo", "an older one");
    time_passes(&harness).await;
    daemon.until_logged("What b2 has of photo is not what was recorded").await;
    harness.until("SELECT b2 IS NULL AND due_b2 = 9000000000000000000 FROM copyhold.object_copies").await;
    assert_eq!(harness.bucket("b2").get("photo").unwrap(), "an older one");
    assert_eq!(harness.bucket("wasabi").get("photo").unwrap(), "bytes");
}

#[tokio::test]
async fn a_copy_that_no_daemon_has_read_is_made_again_and_the_primary_is_taken_at_its_word() {
    let harness = Harness::new().await;
    harness.bucket("b2").put("listed", "bytes");
    harness.bucket("wasabi").put("listed", "older");
    harness.insert("listed").await;
    harness.insert("deleted").await;
    harness.execute("UPDATE copyhold.object_copies SET wasabi = 5, due_scw = NULL").await;
    for name in ["listed", "deleted"] {
        harness.execute(&unsettled(name, "'b2'), ('wasabi'), ('scw'")).await;
    }
    harness.execute("DELETE FROM copyhold.object_copies WHERE object_key = 'deleted'; UPDATE copyhold.replicas SET existing = 'overwrite', writable_at = 1").await;
    time_passes(&harness).await;
    let daemon = harness.daemon().await;
    daemon.until_logged("What wasabi has of listed is not what was recorded").await;
    harness.until("SELECT wasabi > 5 AND b2 IS NOT NULL FROM copyhold.object_copies").await;
    assert_eq!(harness.bucket("wasabi").get("listed").unwrap(), "bytes");
    time_passes(&harness).await;
    harness.until(NOTHING_LEFT).await;
}

#[tokio::test]
async fn each_daemon_takes_what_is_at_the_replicas_it_may_read() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    harness.execute("UPDATE copyhold.object_copies SET wasabi = 5, scw = 5, size_bytes = 5, content_hash = 5").await;
    harness.execute(&unsettled("photo", "'wasabi'), ('scw'), ('glacier'")).await;
    time_passes(&harness).await;
    let taken = async |name: &str| {
        let taken = harness.queue().claim_unsettled(&[replica(name)], 16, Duration::from_mins(1)).await.unwrap();
        taken.to_read.into_values().flatten().map(|copy| copy.replica).collect::<Vec<_>>()
    };
    assert_eq!(taken("scw").await, [replica("scw")]);
    assert_eq!(taken("scw").await, [], "its time was moved on");
    assert_eq!(taken("wasabi").await, [replica("wasabi")]);
}

/// A write to wasabi, of this content.
fn write(hash: u64) -> UnsettledWrite {
    UnsettledWrite {
        key: key("photo"),
        replica: replica("wasabi"),
        content: Content { size_bytes: 3, hash: ContentHash(hash) },
        metadata: Some(MetadataHash(1)),
        settle: Duration::from_mins(3),
    }
}

#[tokio::test]
async fn two_writes_of_different_contents_make_one_entry_of_unknown_content() {
    let harness = Harness::new().await;
    let queue = harness.queue();
    let noted = "SELECT (size_bytes, content_hash, metadata_hash, settled_at - noted_at, verify_at - noted_at) FROM copyhold.unsettled";
    queue.note_unsettled(&[write(7)]).await.unwrap();
    assert_eq!(harness.value(noted).await.unwrap(), "(3,7,1,180000000,10000000)");
    queue.note_unsettled(&[write(7), write(7)]).await.unwrap();
    assert_eq!(harness.value("SELECT content_hash FROM copyhold.unsettled").await.unwrap(), "7");
    queue.note_unsettled(&[UnsettledWrite { settle: Duration::from_mins(10), ..write(8) }]).await.unwrap();
    assert_eq!(harness.value("SELECT content_hash IS NULL FROM copyhold.unsettled").await.unwrap(), "true");
    assert_eq!(harness.value("SELECT settled_at - noted_at FROM copyhold.unsettled").await.unwrap(), "600000000");
    harness.execute("DELETE FROM copyhold.unsettled").await;
    queue.note_unsettled(&[write(7), write(8)]).await.unwrap();
    assert_eq!(harness.value("SELECT content_hash IS NULL FROM copyhold.unsettled").await.unwrap(), "true");
}

#[tokio::test]
async fn an_entry_that_was_noted_anew_while_its_copy_was_read_stays() {
    let harness = Harness::new().await;
    let queue = harness.queue();
    queue.note_unsettled(&[write(7)]).await.unwrap();
    let read =
        UnsettledCopy { replica: replica("wasabi"), noted_at: 1, sent: None, sent_metadata: None, settled: true };
    queue.settle(&key("photo"), &[&read]).await.unwrap();
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.unsettled").await.unwrap(), "1");
}

#[tokio::test]
async fn a_leased_row_that_is_deleted_leaves_its_writes_unsettled_everywhere() {
    let harness = Harness::new().await;
    harness.insert("free").await;
    harness.insert("leased").await;
    harness
        .execute(
            "UPDATE copyhold.object_copies SET lock = 8000000000000000000, lease = 7 WHERE object_key = 'leased';
             DELETE FROM copyhold.object_copies",
        )
        .await;
    let entries = "SELECT string_agg(DISTINCT object_key, ',') || count(*) FROM copyhold.unsettled WHERE settled_at - noted_at >= 600000000";
    assert_eq!(harness.value(entries).await.unwrap(), "leased3");
}

#[tokio::test]
async fn what_is_recorded_after_a_crash_of_postgresql_is_read_again() {
    let harness = Harness::new().await;
    // As crash recovery leaves it.
    harness.execute("TRUNCATE copyhold.claims_intact").await;
    harness.upload("photo", "bytes").await;
    let daemon = harness.daemon().await;
    daemon.until_logged("PostgreSQL has crashed, and claims may be lost with it").await;
    harness.until_copied("photo").await;
    harness.until("SELECT count(*) = 2 AND bool_and(content_hash IS NULL) FROM copyhold.unsettled").await;
    let story = crate::harness::printed(&harness.run(&["explain", "photo"]).await);
    assert!(story.contains("no write that is not over is known of") && !story.contains("a write was sent"), "{story}");
    harness.bucket("wasabi").put("photo", "older");
    time_passes(&harness).await;
    daemon.until_logged("What wasabi has of photo is not what was recorded").await;
    harness.until_copied("photo").await;
    assert_eq!(harness.bucket("wasabi").get("photo").unwrap(), "bytes");
}

#[tokio::test]
async fn what_is_recorded_after_a_truncation_is_read_again() {
    let harness = Harness::new().await;
    harness.execute("TRUNCATE copyhold.object_copies").await;
    harness.upload("photo", "bytes").await;
    let _daemon = harness.daemon().await;
    harness.until_copied("photo").await;
    harness.until("SELECT count(*) = 2 FROM copyhold.unsettled").await;
}

#[tokio::test]
async fn a_lease_that_could_not_be_given_back_after_a_reading_is_not_renewed_for_ever() {
    let harness = Harness::new().await;
    let daemon = copied_and_unsettled(&harness).await;
    // As a full disk does it: neither what was read can be written, nor can the row be freed.
    harness
        .execute(
            "CREATE FUNCTION copyhold.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.lock IS NULL AND OLD.lock IS NOT NULL THEN
                     RAISE EXCEPTION 'not now' USING ERRCODE = 'disk_full';
                 END IF;
                 RETURN NEW;
             END $$",
        )
        .await;
    harness
        .execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON copyhold.object_copies
             FOR EACH ROW EXECUTE FUNCTION copyhold.refuse()",
        )
        .await;
    time_passes(&harness).await;
    daemon.until_logged("Could not query copies to read again").await;
    harness.execute("DROP TRIGGER refuse ON copyhold.object_copies").await;
    harness.until(FREE).await;
    // The sweeper that freed the row has put the reading off by a minute.
    time_passes(&harness).await;
    harness.until(NOTHING_LEFT).await;
}
