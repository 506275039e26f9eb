//! A dead holder's last request may arrive after another one has recorded the copy: what was recorded since is read
//! once more, later.

use std::time::Duration;

use copyhold::{
    queue::Unverified,
    sandbox::s3::{Fault, Op, When},
};
use rustix::process::Signal;

use crate::world::{DaemonProcess, World, key};

/// An object, copied everywhere by a daemon after an earlier holder of it had died.
async fn copied_after_a_sweep(world: &World) -> DaemonProcess {
    world.upload("photo", "bytes").await;
    world
        .execute(
            "INSERT INTO copyhold.swept_leases (object_key, generation, times, last_at)
             SELECT object_key, generation, 1, copyhold.now_utc_micro_seconds() FROM copyhold.object_copies",
        )
        .await;
    let daemon = world.daemon().await;
    world.until_copied("photo").await;
    world.until(LATER).await;
    daemon
}

/// There is something to be read once more, and not yet.
const LATER: &str = "SELECT verify_at > copyhold.now_utc_micro_seconds() + 30000000 FROM copyhold.swept_leases";

/// The time has come.
async fn time_passes(world: &World) {
    world.execute("UPDATE copyhold.swept_leases SET verify_at = 1").await;
}

const NOTHING_LEFT: &str = "SELECT count(*) = 0 FROM copyhold.swept_leases";
const FREE: &str = "SELECT lock IS NULL FROM copyhold.object_copies";

#[tokio::test]
async fn what_a_dead_holder_overwrites_later_is_found_and_mended() {
    let world = World::new().await;
    let daemon = copied_after_a_sweep(&world).await;
    world.bucket("wasabi").put("photo", "older");
    world.bucket("scw").delete("photo");
    time_passes(&world).await;
    daemon.until_logged("What wasabi has of photo is not what was recorded").await;
    daemon.until_logged("What scw has of photo is not what was recorded").await;
    world.until_copied("photo").await;
    for replica in ["wasabi", "scw"] {
        assert_eq!(world.bucket(replica).get("photo").unwrap(), "bytes");
    }
    // And once more, until it is found to be right.
    world.until(LATER).await;
    time_passes(&world).await;
    world.until(NOTHING_LEFT).await;
    world.until(FREE).await;
}

#[tokio::test]
async fn what_is_right_is_read_once_and_written_no_more() {
    let world = World::new().await;
    let _daemon = copied_after_a_sweep(&world).await;
    let read = world.bucket("b2").calls(Op::GetObject);
    let recorded = world.value("SELECT (wasabi, scw) FROM copyhold.object_copies").await;
    time_passes(&world).await;
    world.until(NOTHING_LEFT).await;
    world.until(FREE).await;
    assert_eq!(world.value("SELECT (wasabi, scw) FROM copyhold.object_copies").await, recorded);
    for replica in ["wasabi", "scw"] {
        let bucket = world.bucket(replica);
        assert_eq!((bucket.calls(Op::GetObject), bucket.writes("photo")), (1, 1), "{replica}");
    }
    assert_eq!(world.bucket("b2").calls(Op::GetObject), read);
}

#[tokio::test]
async fn what_cannot_be_read_stays_recorded_and_is_read_later() {
    let world = World::new().await;
    let daemon = copied_after_a_sweep(&world).await;
    let outage = world.bucket("wasabi").order(Fault::internal_error(), When::op(Op::GetObject));
    time_passes(&world).await;
    daemon
        .until_logged("photo at wasabi is to be read once more, because a holder of it has died, and cannot be")
        .await;
    world.until(LATER).await;
    world.until(FREE).await;
    assert_eq!(world.value("SELECT wasabi IS NOT NULL FROM copyhold.object_copies").await.unwrap(), "true");
    outage.clear();
    time_passes(&world).await;
    world.until(NOTHING_LEFT).await;
}

#[tokio::test]
async fn an_object_in_somebodys_hands_is_read_when_it_is_free() {
    let world = World::new().await;
    let _daemon = copied_after_a_sweep(&world).await;
    world.upload("other", "bytes").await;
    world.until_copied("other").await;
    world
        .execute(
            "UPDATE copyhold.object_copies SET lock = 8000000000000000000, lease = 7 WHERE object_key = 'photo';
             INSERT INTO copyhold.swept_leases (object_key, generation, times, last_at, verify_at)
             SELECT object_key, generation, 0, 1, 2 FROM copyhold.object_copies WHERE object_key = 'other'",
        )
        .await;
    time_passes(&world).await;
    // The other one comes after it, and is not held up.
    world.until("SELECT count(*) = 1 AND bool_and(verify_at = 1) FROM copyhold.swept_leases").await;
    world.execute("UPDATE copyhold.object_copies SET lock = NULL, lease = NULL WHERE object_key = 'photo'").await;
    world.until(NOTHING_LEFT).await;
}

#[tokio::test]
async fn a_reader_that_ends_or_dies_leaves_it_to_the_next() {
    let world = World::new().await;
    let mut daemon = copied_after_a_sweep(&world).await;
    let silence = world.bucket("wasabi").order(Fault::Stall, When::op(Op::GetObject));
    time_passes(&world).await;
    let held = "SELECT lock IS NOT NULL FROM copyhold.object_copies";
    world.until(held).await;
    // One that is asked to end gives the row back at once.
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
    world.until(FREE).await;
    world.until(LATER).await;
    let mut daemon = world.daemon().await;
    time_passes(&world).await;
    world.until(held).await;
    daemon.kill().await;
    silence.clear();
    let _heir = world.daemon().await;
    world.until(FREE).await;
    world.until(LATER).await;
    time_passes(&world).await;
    world.until(NOTHING_LEFT).await;
}

#[tokio::test]
async fn a_change_at_the_primary_is_no_damage() {
    let world = World::new().await;
    let _daemon = copied_after_a_sweep(&world).await;
    world.bucket("b2").put("photo", "the application's");
    time_passes(&world).await;
    world.until(NOTHING_LEFT).await;
    assert_eq!(world.value("SELECT b2 IS NOT NULL FROM copyhold.object_copies").await.unwrap(), "true");
    assert_eq!(world.bucket("b2").get("photo").unwrap(), "the application's");
}

#[tokio::test]
async fn what_no_daemon_has_recorded_cannot_be_compared_and_is_left_as_it_is() {
    let world = World::new().await;
    world.insert("by hand").await;
    world.insert("deleted").await;
    world
        .execute(
            "UPDATE copyhold.object_copies SET wasabi = 5, scw = 5;
             INSERT INTO copyhold.swept_leases (object_key, generation, times, last_at, verify_at)
             SELECT object_key, generation, 0, 1, CASE WHEN object_key = 'by hand' THEN 2 END FROM copyhold.object_copies;
             DELETE FROM copyhold.object_copies WHERE object_key = 'deleted'",
        )
        .await;
    let _daemon = world.daemon().await;
    world.until(NOTHING_LEFT).await;
    assert_eq!(world.value("SELECT (wasabi, scw) FROM copyhold.object_copies").await.unwrap(), "(5,5)");
    assert_eq!(world.bucket("wasabi").calls(Op::GetObject), 0);
}

#[tokio::test]
async fn an_object_that_lacks_a_copy_stays_suspected_after_the_others_are_found_right() {
    let world = World::new().await;
    let _daemon = copied_after_a_sweep(&world).await;
    world
        .execute("UPDATE copyhold.object_copies SET scw = NULL, due_scw = 8000000000000000000; UPDATE copyhold.swept_leases SET times = 2")
        .await;
    time_passes(&world).await;
    world.until("SELECT times = 2 AND verify_at IS NULL FROM copyhold.swept_leases").await;
}

#[tokio::test]
async fn whoever_knows_fewer_replicas_leaves_it_to_those_who_read_them_all() {
    let world = World::new().await;
    world.upload("photo", "bytes").await;
    world
        .execute(
            "INSERT INTO copyhold.swept_leases (object_key, generation, times, last_at, verify_at)
             SELECT object_key, generation, 0, 1, 1 FROM copyhold.object_copies;
             INSERT INTO copyhold.daemons (id, host, process_id, version, alive_until, lease_timeout_us, config)
             VALUES (9, 'other', 1, '0', 9000000000000000000, 1, '{\"replicas\": {\"b2\": {}, \"glacier\": {}}}')",
        )
        .await;
    let take = async || world.queue().take_unverified(16, Duration::from_mins(1)).await.unwrap();
    assert!(take().await.is_empty());
    world.execute("UPDATE copyhold.daemons SET alive_until = 1").await;
    assert_eq!(take().await, [Unverified { key: key("photo"), primary_too: false }]);
}
