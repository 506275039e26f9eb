//! Unfinished uploads that no daemon will resume are aborted, and no others.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use copyhold::sweeper::{AbortScope, OrphanedUploads};
use copyhold_s3::store::Store;
use copyhold_sandbox::s3::{Fault, Op, PauseGate, When};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::harness::{World, replica, soon};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// What a daemon has running for this, by itself; it ends when dropped.
struct Sweeper {
    drain: DropGuard,
    task: JoinHandle<()>,
}

impl Sweeper {
    async fn start(world: &World) -> Self {
        Self::reaching(world, AbortScope::All).await
    }

    async fn reaching(world: &World, reach: AbortScope) -> Self {
        let mut stores = Vec::new();
        for replica in &world.config.replicas {
            stores.push(Arc::new(Store::connect(&replica.into(), 4).await.unwrap()));
        }
        let sweeper = OrphanedUploads {
            duties: world.queue().duties(),
            stores,
            scope: Box::new(move |_| reach),
            every: Duration::from_millis(20),
            quiet: Duration::from_mins(4),
        };
        let drain = CancellationToken::new();
        let task = tokio::spawn(sweeper.run(drain.clone()));
        Self { drain: drain.drop_guard(), task }
    }

    async fn end(self) {
        drop(self.drain);
        soon("it ends when it is asked to", self.task).await.unwrap();
    }
}

fn ago(seconds: u64) -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "the store's clock is this machine's")]
    let now = SystemTime::now();
    now - Duration::from_secs(seconds)
}

/// Registers the object, as the primary's.
async fn registered(world: &World, name: &str) {
    world.insert(name).await;
}

/// An upload at wasabi of which PostgreSQL remembers that it was begun, and went on until then, so long ago; it is time to look.
async fn remembered(world: &World, name: &str, upload_id: Option<&str>, seconds: u64) {
    let upload_id = upload_id.map_or("NULL".to_owned(), |id| format!("'{id}'"));
    world
        .execute(&format!(
            "WITH t AS (SELECT copyhold.now_utc_micro_seconds() - {seconds}000000 AS past)
             INSERT INTO copyhold.multipart_uploads
                 (object_key, replica, generation, size_bytes, part_bytes, origin, upload_id, begun_at, last_at, look_at)
             SELECT '{name}', 'wasabi', coalesce((SELECT generation FROM copyhold.object_copies WHERE object_key = '{name}'), 0),
                    1, 1, 'b2', {upload_id}, past, past, 1 FROM t;
             INSERT INTO copyhold.multipart_parts
             SELECT max(id), 1, 'etag', '0123456789abcdef', 7 FROM copyhold.multipart_uploads"
        ))
        .await;
}

/// One that the store has as well.
async fn begun(world: &World, name: &str, seconds: u64) -> String {
    let id = world.bucket("wasabi").begin_upload(name, ago(seconds));
    remembered(world, name, Some(&id), seconds).await;
    id
}

fn keys_of_uploads(world: &World) -> BTreeSet<String> {
    world.bucket("wasabi").uploads().into_iter().map(|upload| upload.key).collect()
}

/// Everything was looked at.
const LOOKED: &str =
    "SELECT coalesce(bool_and(look_at > copyhold.now_utc_micro_seconds()), true) FROM copyhold.multipart_uploads";
const NOTHING_LEFT: &str =
    "SELECT NOT EXISTS (SELECT FROM copyhold.multipart_uploads) AND NOT EXISTS (SELECT FROM copyhold.multipart_parts)";

#[tokio::test]
async fn uploads_that_no_daemon_resumes_are_aborted_and_all_others_stay() {
    let world = World::new().await;
    let set = async |name: &str, change: &str| {
        world.execute(&format!("UPDATE copyhold.object_copies SET {change} WHERE object_key = '{name}'")).await;
    };
    // Orphans.
    begun(&world, "never registered", HOUR).await;
    for name in ["forgotten", "another content", "recorded", "not wanted", "parked long ago", "stands still"] {
        registered(&world, name).await;
        let days = if name == "stands still" { 3 } else { 1 };
        begun(&world, name, days * DAY + HOUR).await;
    }
    world.execute("DELETE FROM copyhold.object_copies WHERE object_key = 'forgotten'").await;
    world.value("SELECT copyhold.register('another content')").await;
    set("recorded", "wasabi = 1").await;
    set("not wanted", "due_wasabi = NULL").await;
    set("parked long ago", "due_wasabi = 9000000000000000000").await;
    // Others.
    let stay = ["due", "waits", "parked lately", "leased", "leased, another content", "recorded lately"];
    for name in stay {
        registered(&world, name).await;
    }
    begun(&world, "due", 2 * DAY).await;
    begun(&world, "waits", 2 * DAY).await;
    begun(&world, "parked lately", HOUR).await;
    begun(&world, "leased", 9 * DAY).await;
    begun(&world, "leased, another content", HOUR).await;
    begun(&world, "recorded lately", MINUTE).await;
    set("waits", "due_wasabi = 8000000000000000000").await;
    set("parked lately", "due_wasabi = 9000000000000000000").await;
    set("leased", "lock = 8000000000000000000, lease = 7").await;
    world.value("SELECT copyhold.register('leased, another content')").await;
    set("leased, another content", "lock = 8000000000000000000, lease = 7").await;
    set("recorded lately", "wasabi = 1").await;
    // In no journal: the application's.
    world.bucket("wasabi").begin_upload("recorded", ago(DAY + HOUR));
    world.bucket("wasabi").begin_upload("the application's", ago(9 * DAY));

    let sweeper = Sweeper::start(&world).await;
    world.until("SELECT count(*) = 6 FROM copyhold.multipart_uploads").await;
    world.until(LOOKED).await;
    let left = keys_of_uploads(&world);
    let expected = [
        "due",
        "leased",
        "leased, another content",
        "parked lately",
        "recorded",
        "recorded lately",
        "the application's",
        "waits",
    ];
    assert_eq!(left, expected.map(str::to_owned).into());
    assert_eq!(world.value("SELECT count(*) FROM copyhold.multipart_parts").await.unwrap(), "6");
    assert_eq!(world.bucket("wasabi").calls(Op::AbortMultipartUpload), 7);
    sweeper.end().await;
}

#[tokio::test]
async fn an_upload_that_a_later_one_has_replaced_is_aborted() {
    let world = World::new().await;
    registered(&world, "film").await;
    begun(&world, "film", 2 * HOUR).await;
    let later = begun(&world, "film", HOUR).await;
    let _sweeper = Sweeper::start(&world).await;
    world.until("SELECT count(*) = 1 FROM copyhold.multipart_uploads").await;
    let left: Vec<_> = world.bucket("wasabi").uploads().into_iter().map(|upload| upload.id).collect();
    assert_eq!(left, [later]);
}

#[tokio::test]
async fn one_whose_name_was_lost_is_found_by_key_and_time_and_no_other_is_touched() {
    let world = World::new().await;
    let bucket = world.bucket("wasabi");
    registered(&world, "film").await;
    remembered(&world, "film", None, HOUR).await;
    let lost = bucket.begin_upload("film", ago(HOUR - 2));
    // What another attempt knows.
    let known = begun(&world, "film", HOUR).await;
    let others = [
        bucket.begin_upload("film", ago(2 * HOUR)),
        bucket.begin_upload("film", ago(HOUR + 2 * MINUTE)),
        bucket.begin_upload("film", ago(HOUR - 6 * MINUTE)),
        bucket.begin_upload("film", ago(0)),
        bucket.begin_upload("film 2", ago(HOUR)),
        bucket.begin_upload("fil", ago(HOUR)),
        known,
    ];
    let _sweeper = Sweeper::start(&world).await;
    world.until("SELECT count(*) = 1 FROM copyhold.multipart_uploads").await;
    let left: BTreeSet<_> = bucket.uploads().into_iter().map(|upload| upload.id).collect();
    assert!(!left.contains(&lost));
    assert_eq!(left, others.into());
    // Once more, with nothing to be found: the store was never reached.
    remembered(&world, "film", None, HOUR).await;
    world.until("SELECT count(*) = 1 FROM copyhold.multipart_uploads").await;
    assert_eq!(bucket.calls(Op::AbortMultipartUpload), 1);
}

/// By so much the store's clock is behind; less than what would make it refuse a signature.
const BEHIND: u64 = 10 * MINUTE;

/// As such a store answers.
fn behind() -> Fault {
    let date = aws_sdk_s3::primitives::DateTime::from(ago(BEHIND));
    let date = date.fmt(aws_sdk_s3::primitives::DateTimeFormat::HttpDate).unwrap();
    Fault::Headers(vec![("date", date)])
}

#[tokio::test]
async fn one_whose_name_was_lost_is_found_by_the_stores_own_clock() {
    let world = World::new().await;
    let bucket = world.bucket("wasabi");
    bucket.order(behind(), When::op(Op::ListMultipartUploads));
    registered(&world, "film").await;
    remembered(&world, "film", None, HOUR).await;
    let lost = bucket.begin_upload("film", ago(HOUR + BEHIND - 2));
    // By the database's clock it would be the one.
    let others = bucket.begin_upload("film", ago(HOUR - 2));
    let _sweeper = Sweeper::start(&world).await;
    world.until("SELECT count(*) = 0 FROM copyhold.multipart_uploads").await;
    let left: Vec<_> = bucket.uploads().into_iter().map(|upload| upload.id).collect();
    assert_eq!(left, [others], "{lost} is the lost one");
}

#[tokio::test]
async fn a_name_that_may_still_be_heard_is_not_looked_for() {
    let world = World::new().await;
    for name in ["lately", "leased"] {
        registered(&world, name).await;
    }
    world
        .execute("UPDATE copyhold.object_copies SET lock = 8000000000000000000, lease = 7 WHERE object_key = 'leased'")
        .await;
    remembered(&world, "lately", None, 5 * MINUTE).await;
    remembered(&world, "leased", None, 9 * DAY).await;
    let _sweeper = Sweeper::start(&world).await;
    world.until(LOOKED).await;
    assert_eq!(
        world.value("SELECT count(*) FROM copyhold.multipart_uploads WHERE condemned_at IS NULL").await.unwrap(),
        "2"
    );
    assert_eq!(world.bucket("wasabi").calls(Op::ListMultipartUploads), 0);
}

#[tokio::test]
async fn where_the_application_uploads_nothing_is_aborted_by_its_time() {
    let world = World::new().await;
    registered(&world, "film").await;
    remembered(&world, "film", None, HOUR).await;
    let applications = world.bucket("wasabi").begin_upload("film", ago(HOUR));
    begun(&world, "gone", HOUR).await;
    let _sweeper = Sweeper::reaching(&world, AbortScope::Named).await;
    world.until(NOTHING_LEFT).await;
    let left: Vec<_> = world.bucket("wasabi").uploads().into_iter().map(|upload| upload.id).collect();
    assert_eq!(left, [applications]);
}

#[tokio::test]
async fn where_uploads_cannot_be_listed_a_lost_name_is_forgotten_after_three_days() {
    let world = World::new().await;
    for refusal in [Fault::access_denied(), Fault::answer(501, "NotImplemented")] {
        let order = world.bucket("wasabi").order(refusal, When::op(Op::ListMultipartUploads));
        registered(&world, "film").await;
        remembered(&world, "film", None, 2 * DAY).await;
        let sweeper = Sweeper::start(&world).await;
        soon("it is asked", order.struck(1)).await;
        // It is condemned, and stays.
        world.until(LOOKED).await;
        assert_eq!(
            world.value("SELECT condemned_at IS NOT NULL FROM copyhold.multipart_uploads").await.unwrap(),
            "true"
        );
        world.execute("UPDATE copyhold.multipart_uploads SET begun_at = begun_at - 90000000000, look_at = 1").await;
        world.until(NOTHING_LEFT).await;
        sweeper.end().await;
        order.clear();
        world.execute("DELETE FROM copyhold.object_copies").await;
    }
}

#[tokio::test]
async fn an_unavailable_store_is_asked_again_later_and_one_that_has_forgotten_the_upload_is_done() {
    let world = World::new().await;
    for i in 0..10 {
        begun(&world, &format!("film {i}"), HOUR).await;
    }
    let bucket = world.bucket("wasabi");
    let outage = bucket.order(Fault::internal_error(), When::op(Op::AbortMultipartUpload));
    let sweeper = Sweeper::start(&world).await;
    soon("it is asked", outage.struck(6)).await;
    begun(&world, "the next look", HOUR).await;
    soon("it looks again", bucket.arrived_for(Op::AbortMultipartUpload, "the next look", 1)).await;
    // It is left alone after three failures; each is two requests, for one is repeated at once.
    let calls = bucket.calls(Op::AbortMultipartUpload);
    assert_eq!(calls - bucket.counts(|c| c.of_key(Op::AbortMultipartUpload, "the next look").calls), 6);
    sweeper.end().await;
    let condemned = "SELECT count(*) FROM copyhold.multipart_uploads WHERE condemned_at IS NOT NULL";
    assert_eq!(world.value(condemned).await.unwrap(), "11");
    outage.clear();
    bucket.expire_uploads();
    world.execute("UPDATE copyhold.multipart_uploads SET look_at = 1").await;
    let _sweeper = Sweeper::start(&world).await;
    world.until(NOTHING_LEFT).await;
}

#[tokio::test]
async fn what_cannot_be_aborted_is_tried_more_and_more_rarely() {
    let world = World::new().await;
    begun(&world, "film", DAY).await;
    world.bucket("wasabi").order(Fault::access_denied(), When::op(Op::AbortMultipartUpload));
    let minutes = "SELECT round((look_at - copyhold.now_utc_micro_seconds()) / 6e7) FROM copyhold.multipart_uploads";
    let sweeper = Sweeper::start(&world).await;
    for (condemned_for, wait) in [(0, "10"), (HOUR, "60"), (20 * DAY, "360")] {
        world
            .execute(&format!(
                "UPDATE copyhold.multipart_uploads SET look_at = 1, condemned_at = copyhold.now_utc_micro_seconds() - {condemned_for}000000"
            ))
            .await;
        world.until(LOOKED).await;
        assert_eq!(world.value(minutes).await.unwrap(), wait);
    }
    // And no longer than a month.
    world.execute("UPDATE copyhold.multipart_uploads SET look_at = 1, condemned_at = 1").await;
    world.until(NOTHING_LEFT).await;
    assert_eq!(world.bucket("wasabi").uploads().len(), 1);
    sweeper.end().await;
}

#[tokio::test]
async fn two_daemons_abort_an_upload_once_and_one_that_dies_is_replaced() {
    let world = World::new().await;
    begun(&world, "film", HOUR).await;
    let gate = PauseGate::new();
    world.bucket("wasabi").order(Fault::Hold(gate.clone()), When::op(Op::AbortMultipartUpload));
    let sweepers = [Sweeper::start(&world).await, Sweeper::start(&world).await];
    soon("one aborts it", gate.holds(1)).await;
    // No lock is held meanwhile, and no transaction open.
    world.execute("UPDATE copyhold.multipart_uploads SET origin = 'touched'").await;
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL
                AND state <> 'active'";
    assert_eq!(world.value(open).await.unwrap(), "0");
    // Both have looked again since.
    begun(&world, "other", HOUR).await;
    soon("the second comes as well", gate.holds(2)).await;
    assert_eq!(world.bucket("wasabi").calls(Op::AbortMultipartUpload), 2);
    for sweeper in sweepers {
        sweeper.end().await;
    }
    gate.open();
    world.execute("UPDATE copyhold.multipart_uploads SET look_at = 1").await;
    let _heir = Sweeper::start(&world).await;
    world.until(NOTHING_LEFT).await;
    assert!(keys_of_uploads(&world).is_empty());
}

#[tokio::test]
async fn a_claim_of_the_object_resumes_no_upload_that_is_being_aborted() {
    let world = World::new().await;
    registered(&world, "film").await;
    begun(&world, "film", 4 * DAY).await;
    let daemon = world.enlist(60).await;
    // A row that another transaction has locked may just be claimed.
    let mut other = world.pool.begin().await.unwrap();
    sqlx::query("SELECT * FROM copyhold.object_copies FOR UPDATE").execute(&mut *other).await.unwrap();
    let look = async || world.queue().check_uploads(&replica("wasabi"), Duration::from_mins(4)).await.unwrap();
    assert_eq!(look().await.condemned, []);
    other.rollback().await.unwrap();
    world.execute("UPDATE copyhold.multipart_uploads SET look_at = 1").await;
    assert_eq!(look().await.condemned.len(), 1);
    let lease = world.claim(&daemon, "wasabi", 1).await.remove(0);
    assert_eq!(world.queue().unfinished_uploads(&lease.key, lease.generation).await.unwrap(), []);
    // It stays condemned though the object is held now.
    world.execute("UPDATE copyhold.multipart_uploads SET look_at = 1").await;
    assert_eq!(look().await.condemned.len(), 1);
}

#[tokio::test]
async fn uploads_at_a_replica_that_no_daemon_serves_are_forgotten_after_a_month() {
    let world = World::new().await;
    begun(&world, "film", HOUR).await;
    world
        .execute(
            "INSERT INTO copyhold.replicas (name) VALUES ('glacier');
             UPDATE copyhold.multipart_uploads SET look_at = look_at + copyhold.now_utc_micro_seconds() - 31 * 86400000000;
             INSERT INTO copyhold.multipart_uploads
                 (object_key, replica, generation, size_bytes, part_bytes, origin, upload_id, look_at)
             SELECT 'film', 'glacier', 1, 1, 1, 'b2', 'x',
                    copyhold.now_utc_micro_seconds() - days * 86400000000 FROM unnest(ARRAY[29, 31]) AS days",
        )
        .await;
    assert_eq!(world.queue().forget_unserved_uploads().await.unwrap(), ["glacier"]);
    // Ours are looked at first, however long no daemon ran.
    assert_eq!(
        world.value("SELECT string_agg(replica, ',' ORDER BY id) FROM copyhold.multipart_uploads").await.unwrap(),
        "wasabi,glacier"
    );
}

#[tokio::test]
async fn a_daemon_clears_up_after_keys_that_were_forgotten_or_registered_again() {
    let world = World::new().await;
    for name in ["forgotten", "again"] {
        registered(&world, name).await;
        begun(&world, name, HOUR).await;
    }
    begun(&world, "at a replica that is left alone", HOUR).await;
    world.execute("UPDATE copyhold.multipart_uploads SET replica = 'scw' WHERE object_key LIKE 'at a replica%'").await;
    assert!(world.run(&["forget", "forgotten"]).await.status.success());
    world.value("SELECT copyhold.register('again')").await;
    // Another bucket than the one that its uploads are in.
    world
        .execute("UPDATE copyhold.replicas SET endpoint = 'http://elsewhere', bucket = 'x', pinned_at = 1 WHERE name = 'scw'")
        .await;
    let daemon = world.daemon().await;
    daemon.until_logged("orphaned uploads at").await;
    world.until("SELECT count(*) = 1 FROM copyhold.multipart_uploads").await;
    assert_eq!(keys_of_uploads(&world).len(), 1);
    assert!(daemon.log().matches("unfinished uploads at wasabi").count() <= 2, "{}", daemon.log());
    assert_eq!(world.value("SELECT replica FROM copyhold.multipart_uploads").await.unwrap(), "scw");
}
