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

use crate::harness::{Harness, replica, soon};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The daemon's task that aborts orphaned uploads, without the rest of the daemon. It ends when this value is dropped.
struct Sweeper {
    drain: DropGuard,
    task: JoinHandle<()>,
}

impl Sweeper {
    async fn start(harness: &Harness) -> Self {
        Self::reaching(harness, AbortScope::All).await
    }

    async fn reaching(harness: &Harness, reach: AbortScope) -> Self {
        let mut stores = Vec::new();
        for replica in &harness.config.replicas {
            stores.push(Arc::new(Store::connect(&replica.into(), 4).await.unwrap()));
        }
        let sweeper = OrphanedUploads {
            duties: harness.queue().duties(),
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
async fn registered(harness: &Harness, name: &str) {
    harness.insert(name).await;
}

/// An upload at wasabi of which PostgreSQL remembers that it was begun, and went on until then, so long ago; it is time to look.
async fn remembered(harness: &Harness, name: &str, upload_id: Option<&str>, seconds: u64) {
    let upload_id = upload_id.map_or("NULL".to_owned(), |id| format!("'{id}'"));
    harness
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
async fn begun(harness: &Harness, name: &str, seconds: u64) -> String {
    let id = harness.bucket("wasabi").begin_upload(name, ago(seconds));
    remembered(harness, name, Some(&id), seconds).await;
    id
}

fn keys_of_uploads(harness: &Harness) -> BTreeSet<String> {
    harness.bucket("wasabi").uploads().into_iter().map(|upload| upload.key).collect()
}

/// Everything was looked at.
const LOOKED: &str =
    "SELECT coalesce(bool_and(look_at > copyhold.now_utc_micro_seconds()), true) FROM copyhold.multipart_uploads";
const NOTHING_LEFT: &str =
    "SELECT NOT EXISTS (SELECT FROM copyhold.multipart_uploads) AND NOT EXISTS (SELECT FROM copyhold.multipart_parts)";

#[tokio::test]
async fn uploads_that_no_daemon_resumes_are_aborted_and_all_others_stay() {
    let harness = Harness::new().await;
    let set = async |name: &str, change: &str| {
        harness.execute(&format!("UPDATE copyhold.object_copies SET {change} WHERE object_key = '{name}'")).await;
    };
    // Uploads that no daemon will continue.
    begun(&harness, "never registered", HOUR).await;
    for name in ["forgotten", "another content", "recorded", "not wanted", "parked long ago", "stands still"] {
        registered(&harness, name).await;
        let days = if name == "stands still" { 3 } else { 1 };
        begun(&harness, name, days * DAY + HOUR).await;
    }
    harness.execute("DELETE FROM copyhold.object_copies WHERE object_key = 'forgotten'").await;
    harness.value("SELECT copyhold.register('another content')").await;
    set("recorded", "wasabi = 1").await;
    set("not wanted", "due_wasabi = NULL").await;
    set("parked long ago", "due_wasabi = 9000000000000000000").await;
    // Others.
    let stay = ["due", "waits", "parked lately", "leased", "leased, another content", "recorded lately"];
    for name in stay {
        registered(&harness, name).await;
    }
    begun(&harness, "due", 2 * DAY).await;
    begun(&harness, "waits", 2 * DAY).await;
    begun(&harness, "parked lately", HOUR).await;
    begun(&harness, "leased", 9 * DAY).await;
    begun(&harness, "leased, another content", HOUR).await;
    begun(&harness, "recorded lately", MINUTE).await;
    set("waits", "due_wasabi = 8000000000000000000").await;
    set("parked lately", "due_wasabi = 9000000000000000000").await;
    set("leased", "lock = 8000000000000000000, lease = 7").await;
    harness.value("SELECT copyhold.register('leased, another content')").await;
    set("leased, another content", "lock = 8000000000000000000, lease = 7").await;
    set("recorded lately", "wasabi = 1").await;
    // In no journal: the application's.
    harness.bucket("wasabi").begin_upload("recorded", ago(DAY + HOUR));
    harness.bucket("wasabi").begin_upload("the application's", ago(9 * DAY));

    let sweeper = Sweeper::start(&harness).await;
    harness.until("SELECT count(*) = 6 FROM copyhold.multipart_uploads").await;
    harness.until(LOOKED).await;
    let left = keys_of_uploads(&harness);
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
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.multipart_parts").await.unwrap(), "6");
    assert_eq!(harness.bucket("wasabi").calls(Op::AbortMultipartUpload), 7);
    sweeper.end().await;
}

#[tokio::test]
async fn an_upload_that_a_later_one_has_replaced_is_aborted() {
    let harness = Harness::new().await;
    registered(&harness, "film").await;
    begun(&harness, "film", 2 * HOUR).await;
    let later = begun(&harness, "film", HOUR).await;
    let _sweeper = Sweeper::start(&harness).await;
    harness.until("SELECT count(*) = 1 FROM copyhold.multipart_uploads").await;
    let left: Vec<_> = harness.bucket("wasabi").uploads().into_iter().map(|upload| upload.id).collect();
    assert_eq!(left, [later]);
}

#[tokio::test]
async fn one_whose_name_was_lost_is_found_by_key_and_time_and_no_other_is_touched() {
    let harness = Harness::new().await;
    let bucket = harness.bucket("wasabi");
    registered(&harness, "film").await;
    remembered(&harness, "film", None, HOUR).await;
    let lost = bucket.begin_upload("film", ago(HOUR - 2));
    // What another attempt knows.
    let known = begun(&harness, "film", HOUR).await;
    let others = [
        bucket.begin_upload("film", ago(2 * HOUR)),
        bucket.begin_upload("film", ago(HOUR + 2 * MINUTE)),
        bucket.begin_upload("film", ago(HOUR - 6 * MINUTE)),
        bucket.begin_upload("film", ago(0)),
        bucket.begin_upload("film 2", ago(HOUR)),
        bucket.begin_upload("fil", ago(HOUR)),
        known,
    ];
    let _sweeper = Sweeper::start(&harness).await;
    harness.until("SELECT count(*) = 1 FROM copyhold.multipart_uploads").await;
    let left: BTreeSet<_> = bucket.uploads().into_iter().map(|upload| upload.id).collect();
    assert!(!left.contains(&lost));
    assert_eq!(left, others.into());
    // Once more, with nothing to be found: the store was never reached.
    remembered(&harness, "film", None, HOUR).await;
    harness.until("SELECT count(*) = 1 FROM copyhold.multipart_uploads").await;
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
    let harness = Harness::new().await;
    let bucket = harness.bucket("wasabi");
    bucket.order(behind(), When::op(Op::ListMultipartUploads));
    registered(&harness, "film").await;
    remembered(&harness, "film", None, HOUR).await;
    let lost = bucket.begin_upload("film", ago(HOUR + BEHIND - 2));
    // By the database's clock it would be the one.
    let others = bucket.begin_upload("film", ago(HOUR - 2));
    let _sweeper = Sweeper::start(&harness).await;
    harness.until("SELECT count(*) = 0 FROM copyhold.multipart_uploads").await;
    let left: Vec<_> = bucket.uploads().into_iter().map(|upload| upload.id).collect();
    assert_eq!(left, [others], "{lost} is the lost one");
}

#[tokio::test]
async fn a_name_that_may_still_be_heard_is_not_looked_for() {
    let harness = Harness::new().await;
    for name in ["lately", "leased"] {
        registered(&harness, name).await;
    }
    harness
        .execute("UPDATE copyhold.object_copies SET lock = 8000000000000000000, lease = 7 WHERE object_key = 'leased'")
        .await;
    remembered(&harness, "lately", None, 5 * MINUTE).await;
    remembered(&harness, "leased", None, 9 * DAY).await;
    let _sweeper = Sweeper::start(&harness).await;
    harness.until(LOOKED).await;
    assert_eq!(
        harness.value("SELECT count(*) FROM copyhold.multipart_uploads WHERE condemned_at IS NULL").await.unwrap(),
        "2"
    );
    assert_eq!(harness.bucket("wasabi").calls(Op::ListMultipartUploads), 0);
}

#[tokio::test]
async fn where_the_application_uploads_nothing_is_aborted_by_its_time() {
    let harness = Harness::new().await;
    registered(&harness, "film").await;
    remembered(&harness, "film", None, HOUR).await;
    let applications = harness.bucket("wasabi").begin_upload("film", ago(HOUR));
    begun(&harness, "gone", HOUR).await;
    let _sweeper = Sweeper::reaching(&harness, AbortScope::Named).await;
    harness.until(NOTHING_LEFT).await;
    let left: Vec<_> = harness.bucket("wasabi").uploads().into_iter().map(|upload| upload.id).collect();
    assert_eq!(left, [applications]);
}

#[tokio::test]
async fn where_uploads_cannot_be_listed_a_lost_name_is_forgotten_after_three_days() {
    let harness = Harness::new().await;
    for refusal in [Fault::access_denied(), Fault::answer(501, "NotImplemented")] {
        let order = harness.bucket("wasabi").order(refusal, When::op(Op::ListMultipartUploads));
        registered(&harness, "film").await;
        remembered(&harness, "film", None, 2 * DAY).await;
        let sweeper = Sweeper::start(&harness).await;
        soon("it is asked", order.struck(1)).await;
        // It is condemned, and stays.
        harness.until(LOOKED).await;
        assert_eq!(
            harness.value("SELECT condemned_at IS NOT NULL FROM copyhold.multipart_uploads").await.unwrap(),
            "true"
        );
        harness.execute("UPDATE copyhold.multipart_uploads SET begun_at = begun_at - 90000000000, look_at = 1").await;
        harness.until(NOTHING_LEFT).await;
        sweeper.end().await;
        order.clear();
        harness.execute("DELETE FROM copyhold.object_copies").await;
    }
}

#[tokio::test]
async fn an_unavailable_store_is_asked_again_later_and_one_that_has_forgotten_the_upload_is_done() {
    let harness = Harness::new().await;
    for i in 0..10 {
        begun(&harness, &format!("film {i}"), HOUR).await;
    }
    let bucket = harness.bucket("wasabi");
    let outage = bucket.order(Fault::internal_error(), When::op(Op::AbortMultipartUpload));
    let sweeper = Sweeper::start(&harness).await;
    soon("it is asked", outage.struck(6)).await;
    begun(&harness, "the next look", HOUR).await;
    soon("it looks again", bucket.arrived_for(Op::AbortMultipartUpload, "the next look", 1)).await;
    // It is left alone after three failures; each is two requests, for one is repeated at once.
    let calls = bucket.calls(Op::AbortMultipartUpload);
    assert_eq!(calls - bucket.counts(|c| c.of_key(Op::AbortMultipartUpload, "the next look").calls), 6);
    sweeper.end().await;
    let condemned = "SELECT count(*) FROM copyhold.multipart_uploads WHERE condemned_at IS NOT NULL";
    assert_eq!(harness.value(condemned).await.unwrap(), "11");
    outage.clear();
    bucket.expire_uploads();
    harness.execute("UPDATE copyhold.multipart_uploads SET look_at = 1").await;
    let _sweeper = Sweeper::start(&harness).await;
    harness.until(NOTHING_LEFT).await;
}

#[tokio::test]
async fn what_cannot_be_aborted_is_tried_more_and_more_rarely() {
    let harness = Harness::new().await;
    begun(&harness, "film", DAY).await;
    harness.bucket("wasabi").order(Fault::access_denied(), When::op(Op::AbortMultipartUpload));
    let minutes = "SELECT round((look_at - copyhold.now_utc_micro_seconds()) / 6e7) FROM copyhold.multipart_uploads";
    let sweeper = Sweeper::start(&harness).await;
    for (condemned_for, wait) in [(0, "10"), (HOUR, "60"), (20 * DAY, "360")] {
        harness
            .execute(&format!(
                "UPDATE copyhold.multipart_uploads SET look_at = 1, condemned_at = copyhold.now_utc_micro_seconds() - {condemned_for}000000"
            ))
            .await;
        harness.until(LOOKED).await;
        assert_eq!(harness.value(minutes).await.unwrap(), wait);
    }
    // And no longer than a month.
    harness.execute("UPDATE copyhold.multipart_uploads SET look_at = 1, condemned_at = 1").await;
    harness.until(NOTHING_LEFT).await;
    assert_eq!(harness.bucket("wasabi").uploads().len(), 1);
    sweeper.end().await;
}

#[tokio::test]
async fn two_daemons_abort_an_upload_once_and_one_that_dies_is_replaced() {
    let harness = Harness::new().await;
    begun(&harness, "film", HOUR).await;
    let gate = PauseGate::new();
    harness.bucket("wasabi").order(Fault::Hold(gate.clone()), When::op(Op::AbortMultipartUpload));
    let sweepers = [Sweeper::start(&harness).await, Sweeper::start(&harness).await];
    soon("one aborts it", gate.holds(1)).await;
    // No lock is held meanwhile, and no transaction open.
    harness.execute("UPDATE copyhold.multipart_uploads SET origin = 'touched'").await;
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL
                AND state <> 'active'";
    assert_eq!(harness.value(open).await.unwrap(), "0");
    // Both have looked again since.
    begun(&harness, "other", HOUR).await;
    soon("the second comes as well", gate.holds(2)).await;
    assert_eq!(harness.bucket("wasabi").calls(Op::AbortMultipartUpload), 2);
    for sweeper in sweepers {
        sweeper.end().await;
    }
    gate.open();
    harness.execute("UPDATE copyhold.multipart_uploads SET look_at = 1").await;
    let _heir = Sweeper::start(&harness).await;
    harness.until(NOTHING_LEFT).await;
    assert!(keys_of_uploads(&harness).is_empty());
}

#[tokio::test]
async fn a_claim_of_the_object_resumes_no_upload_that_is_being_aborted() {
    let harness = Harness::new().await;
    registered(&harness, "film").await;
    begun(&harness, "film", 4 * DAY).await;
    let daemon = harness.enlist(60).await;
    // A row that another transaction has locked may just be claimed.
    let mut other = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT * FROM copyhold.object_copies FOR UPDATE").execute(&mut *other).await.unwrap();
    let look = async || harness.queue().check_uploads(&replica("wasabi"), Duration::from_mins(4)).await.unwrap();
    assert_eq!(look().await.condemned, []);
    other.rollback().await.unwrap();
    harness.execute("UPDATE copyhold.multipart_uploads SET look_at = 1").await;
    assert_eq!(look().await.condemned.len(), 1);
    let lease = harness.claim(&daemon, "wasabi", 1).await.remove(0);
    assert_eq!(harness.queue().unfinished_uploads(&lease.key, lease.generation).await.unwrap(), []);
    // It stays condemned though the object is held now.
    harness.execute("UPDATE copyhold.multipart_uploads SET look_at = 1").await;
    assert_eq!(look().await.condemned.len(), 1);
}

#[tokio::test]
async fn uploads_at_a_replica_that_no_daemon_serves_are_forgotten_after_a_month() {
    let harness = Harness::new().await;
    begun(&harness, "film", HOUR).await;
    harness
        .execute(
            "INSERT INTO copyhold.replicas (name) VALUES ('glacier');
             UPDATE copyhold.multipart_uploads SET look_at = look_at + copyhold.now_utc_micro_seconds() - 31 * 86400000000;
             INSERT INTO copyhold.multipart_uploads
                 (object_key, replica, generation, size_bytes, part_bytes, origin, upload_id, look_at)
             SELECT 'film', 'glacier', 1, 1, 1, 'b2', 'x',
                    copyhold.now_utc_micro_seconds() - days * 86400000000 FROM unnest(ARRAY[29, 31]) AS days",
        )
        .await;
    assert_eq!(harness.queue().forget_unserved_uploads().await.unwrap(), ["glacier"]);
    // Ours are looked at first, however long no daemon ran.
    assert_eq!(
        harness.value("SELECT string_agg(replica, ',' ORDER BY id) FROM copyhold.multipart_uploads").await.unwrap(),
        "wasabi,glacier"
    );
}

#[tokio::test]
async fn a_daemon_clears_up_after_keys_that_were_forgotten_or_registered_again() {
    let harness = Harness::new().await;
    for name in ["forgotten", "again"] {
        registered(&harness, name).await;
        begun(&harness, name, HOUR).await;
    }
    begun(&harness, "at a replica that is left alone", HOUR).await;
    harness
        .execute("UPDATE copyhold.multipart_uploads SET replica = 'scw' WHERE object_key LIKE 'at a replica%'")
        .await;
    assert!(harness.run(&["forget", "forgotten"]).await.status.success());
    harness.value("SELECT copyhold.register('again')").await;
    // Another bucket than the one that its uploads are in.
    harness
        .execute("UPDATE copyhold.replicas SET endpoint = 'http://elsewhere', bucket = 'x', pinned_at = 1 WHERE name = 'scw'")
        .await;
    let daemon = harness.daemon().await;
    daemon.until_logged("orphaned uploads at").await;
    harness.until("SELECT count(*) = 1 FROM copyhold.multipart_uploads").await;
    assert_eq!(keys_of_uploads(&harness).len(), 1);
    assert!(daemon.log().matches("unfinished uploads at wasabi").count() <= 2, "{}", daemon.log());
    assert_eq!(harness.value("SELECT replica FROM copyhold.multipart_uploads").await.unwrap(), "scw");
}
