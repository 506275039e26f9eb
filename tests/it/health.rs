//! An unhealthy replica is isolated: it delays no other, one daemon at a time probes it, and it catches up when it is healthy.

use copyhold_core::domain::{BreakerScope, FailureClass};
use copyhold_db::replica::ProbeResult;
use copyhold_sandbox::s3::{Fault, Op, PauseGate, When};

use crate::harness::{Harness, printed, replica, soon};

const OPEN: &str = "SELECT breaker_opened_at IS NOT NULL FROM copyhold.replicas WHERE name = 'scw'";
const CLOSED: &str = "SELECT count(breaker_opened_at) = 0 FROM copyhold.replicas";
const ATTEMPTS: &str = "SELECT coalesce(sum(attempts), 0) FROM copyhold.copy_failures";

impl Harness {
    /// Objects of the primary's bucket, registered in one statement.
    async fn upload_many(&self, prefix: &str, count: usize) {
        for i in 0..count {
            self.bucket("b2").put(&format!("{prefix} {i}"), "bytes");
        }
        let insert = format!(
            "INSERT INTO copyhold.object_copies (object_key, b2)
             SELECT '{prefix} ' || i, copyhold.now_utc_micro_seconds() FROM generate_series(0, {}) i",
            count - 1
        );
        self.execute(&insert).await;
    }

    async fn until_recorded(&self, replica: &str, count: usize) {
        self.until(&format!("SELECT count({replica}) = {count} FROM copyhold.object_copies")).await;
    }

    async fn number(&self, query: &str) -> u64 {
        self.value(query).await.unwrap().parse().unwrap()
    }

    /// The next probe of `scw` is due now, and all daemons are notified.
    async fn probe_now(&self) {
        self.execute("UPDATE copyhold.replicas SET probe_at = 1 WHERE name = 'scw' AND probe_at IS NOT NULL").await;
        self.execute("SELECT pg_notify('copyhold_work', 'replicas')").await;
    }
}

#[tokio::test]
async fn a_dead_target_is_asked_for_nothing_but_probes_and_no_copy_is_charged_with_it() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    daemon.until_logged("Copying to wasabi").await;
    let outage = harness.bucket("scw").order(Fault::Reset, When::always());
    harness.upload_many("photo", 200).await;
    harness.until_recorded("wasabi", 200).await;
    harness.until(OPEN).await;
    // What was under way when it died: no more than there are workers, each with the one retry of the connection.
    harness.until("SELECT count(*) = 0 FROM copyhold.object_copies WHERE lock IS NOT NULL").await;
    let struck = harness.bucket("scw").calls(Op::PutObject);
    assert!(struck <= 2 * 16, "{struck} requests to a dead store");
    harness.until("SELECT probes_failed >= 2 FROM copyhold.replicas WHERE name = 'scw'").await;
    assert_eq!(harness.bucket("scw").calls(Op::PutObject), struck);
    assert_eq!(harness.number(ATTEMPTS).await, 0);
    daemon.until_logged("Not using scw: its breaker is open since").await;
    outage.clear();
    harness.until_recorded("scw", 200).await;
    harness.until(CLOSED).await;
    assert_eq!(harness.number("SELECT count(*) FROM copyhold.copy_failures").await, 0);
    assert_eq!(daemon.log().matches("Not using scw").count(), 1, "said once");
}

#[tokio::test]
async fn all_daemons_share_a_breaker_and_one_at_a_time_probes() {
    let harness = Harness::new().await;
    let daemons = [harness.daemon().await, harness.daemon().await];
    for daemon in &daemons {
        daemon.until_logged("Copying to scw").await;
    }
    let outage = harness.bucket("scw").order(Fault::access_denied(), When::always());
    harness.upload("photo", "bytes").await;
    harness.until(OPEN).await;
    for daemon in &daemons {
        daemon.until_logged("Not using scw: its breaker is open since").await;
    }
    let failed = "SELECT probes_failed FROM copyhold.replicas WHERE name = 'scw'";
    let before = harness.number(failed).await;
    harness.bucket("scw").forget_counts();
    harness.until("SELECT probes_failed >= 4 FROM copyhold.replicas WHERE name = 'scw'").await;
    let asked = harness.bucket("scw").calls(Op::ListObjectsV2);
    let probes = harness.number(failed).await - before;
    assert!(asked <= probes + 1, "{asked} listings for {probes} probes");
    assert_eq!(harness.bucket("scw").calls(Op::PutObject), 0);
    outage.clear();
    harness.until_copied("photo").await;
    harness.until(CLOSED).await;
}

#[tokio::test]
async fn an_object_that_its_store_cannot_take_opens_no_breaker_and_holds_up_no_other() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    harness.bucket("scw").order(Fault::internal_error(), When::op(Op::PutObject).key("poison"));
    harness.upload("poison", "bytes").await;
    harness.until("SELECT attempts >= 2 FROM copyhold.copy_failures WHERE object_key = 'poison'").await;
    harness.upload_many("photo", 20).await;
    harness.until_recorded("scw", 20).await;
    harness.until("SELECT attempts >= 3 FROM copyhold.copy_failures WHERE object_key = 'poison'").await;
    assert_eq!(harness.value(CLOSED).await.unwrap(), "true");
}

#[tokio::test]
async fn a_source_whose_bucket_may_not_be_listed_is_not_unhealthy() {
    let harness = Harness::new().await;
    harness.bucket("b2").order(Fault::access_denied(), When::op(Op::ListObjectsV2));
    harness.bucket("b2").order(Fault::internal_error(), When::op(Op::GetObject).key("photo 7"));
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    harness.upload_many("photo", 20).await;
    harness.until("SELECT max(attempts) >= 2 FROM copyhold.copy_failures WHERE object_key = 'photo 7'").await;
    harness.until_recorded("scw", 19).await;
    assert!(!daemon.log().contains("its breaker is open"), "{}", daemon.log());
    assert_eq!(harness.value(CLOSED).await.unwrap(), "true");
}

#[tokio::test]
async fn a_full_store_is_read_but_not_written_to_until_one_object_fits() {
    let harness = Harness::new().await;
    harness.execute("UPDATE copyhold.replicas SET existing = 'empty', writable_at = 1").await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    let full = harness.bucket("scw").order(Fault::answer(507, "InsufficientStorage"), When::op(Op::PutObject));
    harness.upload_many("photo", 100).await;
    harness.until_recorded("wasabi", 100).await;
    harness.until("SELECT breaker_blocks = 'writing' FROM copyhold.replicas WHERE name = 'scw'").await;
    harness.until("SELECT count(*) = 0 FROM copyhold.object_copies WHERE lock IS NOT NULL").await;
    // Held by it alone.
    harness.bucket("scw").put("kept", "bytes");
    harness.sql("INSERT INTO copyhold.object_copies (object_key, scw) VALUES ($1, 5)", "kept").await;
    harness.until_copied("kept").await;
    // One object is tried at each probe.
    for probe in 1..=2 {
        let before = full.strikes();
        harness.probe_now().await;
        harness.until(&format!("SELECT probes_failed = {probe} FROM copyhold.replicas WHERE name = 'scw'")).await;
        assert_eq!(full.strikes(), before + 1);
    }
    full.clear();
    harness.probe_now().await;
    harness.until(CLOSED).await;
    harness.until_recorded("scw", 101).await;
    assert_eq!(harness.number("SELECT count(*) FROM copyhold.copy_failures").await, 0);
}

#[tokio::test]
async fn a_store_that_answers_but_takes_nothing_is_tried_with_one_object_at_a_time() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    let readonly = harness.bucket("scw").order(Fault::internal_error(), When::op(Op::PutObject));
    harness.upload_many("photo", 100).await;
    harness.until("SELECT breaker_blocks = 'writing' FROM copyhold.replicas WHERE name = 'scw'").await;
    harness.until("SELECT probes_failed >= 2 FROM copyhold.replicas WHERE name = 'scw'").await;
    readonly.clear();
    harness.until_recorded("scw", 100).await;
    harness.until(CLOSED).await;
}

#[tokio::test]
async fn what_was_found_out_about_one_opening_changes_no_other() {
    let harness = Harness::new().await;
    let (queue, scw) = (harness.queue(), replica("scw"));
    let breaker = async || {
        let rows = queue.replica_rows().await.unwrap();
        rows.into_iter().find(|row| row.name == scw).unwrap().breaker
    };
    assert!(queue.open_breaker(&scw, BreakerScope::Writing, FailureClass::Full, "full").await.unwrap());
    let first = breaker().await.unwrap();
    assert!(
        !queue.open_breaker(&scw, BreakerScope::Writing, FailureClass::Denied, "no").await.unwrap(),
        "the older one stays"
    );
    assert!(
        queue.open_breaker(&scw, BreakerScope::All, FailureClass::Transient, "away").await.unwrap(),
        "it blocks more"
    );
    let second = breaker().await.unwrap();
    assert_eq!((second.blocks, second.class), (BreakerScope::All, Some(FailureClass::Transient)));
    assert!(!queue.end_probe(&scw, &first, ProbeResult::Healthy).await.unwrap());
    assert!(!queue.end_probe(&scw, &first, ProbeResult::Unhealthy).await.unwrap());
    harness.execute("UPDATE copyhold.replicas SET probe_at = 1 WHERE name = 'scw'").await;
    let minute = std::time::Duration::from_mins(1);
    assert!(!queue.claim_probe(&scw, first.opened_at, minute).await.unwrap());
    assert!(queue.claim_probe(&scw, second.opened_at, minute).await.unwrap());
    assert!(!queue.claim_probe(&scw, second.opened_at, minute).await.unwrap(), "another daemon is probing");
    assert!(queue.end_probe(&scw, &second, ProbeResult::Healthy).await.unwrap());
    assert_eq!(breaker().await, None);
}

#[tokio::test]
async fn while_the_primary_is_unavailable_only_what_another_replica_holds_is_touched() {
    let harness = Harness::new().await;
    harness.execute("UPDATE copyhold.replicas SET existing = 'empty', writable_at = 1 WHERE name <> 'b2'").await;
    harness
        .execute(
            "CREATE TABLE written (object_key text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO written VALUES (NEW.object_key); RETURN NULL; END $$;
             CREATE TRIGGER note AFTER UPDATE ON copyhold.object_copies FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .await;
    let daemons = [harness.daemon().await, harness.daemon().await];
    for daemon in &daemons {
        daemon.until_logged("Copying to scw").await;
    }
    let outage = harness.bucket("b2").order(Fault::Reset, When::always());
    harness.upload("first", "bytes").await;
    harness.until("SELECT breaker_opened_at IS NOT NULL FROM copyhold.replicas WHERE name = 'b2'").await;
    for daemon in &daemons {
        daemon.until_logged("Not using b2: its breaker is open since").await;
    }
    harness.upload_many("photo", 1000).await;
    // A few in the middle and at the end are at scw already, though not at wasabi.
    let held = [300, 301, 700, 998, 999];
    for i in held {
        harness.bucket("scw").put(&format!("photo {i}"), "bytes");
        harness.sql("UPDATE copyhold.object_copies SET scw = 5 WHERE object_key = $1", &format!("photo {i}")).await;
    }
    harness.execute("TRUNCATE written").await;
    harness.until_recorded("wasabi", held.len()).await;
    harness.until("SELECT probes_failed >= 4 FROM copyhold.replicas WHERE name = 'b2'").await;
    assert_eq!(harness.number(ATTEMPTS).await, 0);
    let others = "SELECT count(*) FROM written LEFT JOIN copyhold.object_copies USING (object_key) WHERE scw IS NULL";
    assert_eq!(harness.number(others).await, 0, "rows without a source were written");
    outage.clear();
    harness.until_recorded("wasabi", 1001).await;
    harness.until_recorded("scw", 1001).await;
    assert_eq!(harness.number("SELECT count(*) FROM copyhold.copy_failures").await, 0);
}

#[tokio::test]
async fn what_was_under_way_when_the_primary_died_rests_uncounted_and_is_copied_when_it_is_back() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    daemon.until_logged("Copying to wasabi").await;
    let gate = PauseGate::new();
    let outage = harness.bucket("b2").order(Fault::Hold(gate.clone()), When::always());
    harness.upload_many("photo", 50).await;
    soon("objects are being read", gate.holds(4)).await;
    let broken = harness.bucket("b2").order(Fault::access_denied(), When::always());
    gate.open();
    harness.until("SELECT breaker_class = 'denied' FROM copyhold.replicas WHERE name = 'b2'").await;
    harness.until("SELECT count(*) = 0 FROM copyhold.object_copies WHERE lock IS NOT NULL").await;
    assert_eq!(harness.number("SELECT count(*) FROM copyhold.copy_failures").await, 0);
    assert_eq!(harness.number("SELECT count(wasabi) FROM copyhold.object_copies").await, 0);
    outage.clear();
    broken.clear();
    harness.until_recorded("wasabi", 50).await;
    harness.until_recorded("scw", 50).await;
}

#[tokio::test]
async fn a_target_that_never_answers_takes_no_worker_from_the_others() {
    const OBJECTS: usize = 300;
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    let hanging = harness.bucket("scw").order(Fault::Stall, When::op(Op::PutObject));
    harness.upload_many("photo", OBJECTS).await;
    // Twenty times as many objects as there are workers, each of which would be held for a minute.
    harness.until_recorded("wasabi", OBJECTS).await;
    assert!(hanging.strikes() > 0);
    assert_eq!(harness.number("SELECT count(scw) FROM copyhold.object_copies").await, 0);
}

#[tokio::test]
async fn a_store_that_an_operator_has_mended_is_tried_at_once_when_it_is_resumed() {
    let harness = Harness::new().await;
    let opened =
        harness.queue().open_breaker(&replica("scw"), BreakerScope::Writing, FailureClass::Full, "no room").await;
    assert!(opened.unwrap());
    let daemon = harness.daemon().await;
    daemon.until_logged("Not copying to scw").await;
    harness.upload("photo", "bytes").await;
    harness.until_recorded("wasabi", 1).await;
    assert_eq!(harness.value(OPEN).await.unwrap(), "true", "the next probe is minutes away");
    let said = printed(&harness.run(&["resume", "scw"]).await);
    assert!(said.contains("scw was not paused. Its store was unhealthy, and is tried again now"), "{said}");
    harness.until_copied("photo").await;
    harness.until(CLOSED).await;
}

#[tokio::test]
async fn a_throttling_store_is_slowed_down_and_not_stopped() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    harness.bucket("scw").order(Fault::slow_down(), When::op(Op::PutObject).chance(0.7, 7));
    harness.upload_many("photo", 60).await;
    harness.until_recorded("wasabi", 60).await;
    harness.until_recorded("scw", 60).await;
    assert_eq!(harness.number(ATTEMPTS).await, 0);
    assert!(!daemon.log().contains("its breaker is open"), "it was stopped");
}

#[tokio::test]
async fn status_and_explain_say_which_store_is_not_well_and_why() {
    let harness = Harness::new().await;
    harness.upload("photo", "bytes").await;
    let queue = harness.queue();
    let open = async |name, blocks, class, message| {
        assert!(queue.open_breaker(&replica(name), blocks, class, message).await.unwrap());
    };
    open("scw", BreakerScope::Writing, FailureClass::Full, "target scw: PutObject: 507 \u{1b}[2J").await;
    open("b2", BreakerScope::All, FailureClass::Transient, "source b2: GetObject: reset").await;
    let status = printed(&harness.run(&["status"]).await);
    assert!(status.contains("scw has not been written to for "), "{status}");
    assert!(status.contains("full: target scw: PutObject: 507 \\u{1b}[2J; tried again in "), "{status}");
    assert!(status.contains("b2 has not been used for ") && status.contains("GetObject: reset; "), "{status}");
    let json: serde_json::Value = serde_json::from_slice(&harness.run(&["status", "--json"]).await.stdout).unwrap();
    assert_eq!(json["replicas"][0]["breaker"]["blocks"], "all");
    assert_eq!(json["replicas"][0]["breaker"]["probes_failed"], 0);
    let story = printed(&harness.run(&["explain", "photo"]).await);
    assert!(story.contains("its breaker is open since 2"), "{story}");
    let scw = story.split_once("507").unwrap().1;
    assert!(scw.contains("; tried again in ") || scw.contains("; it is being tried"), "{story}");
    assert!(story.contains("b2 cannot be read: its breaker is open since 2"), "wasabi has no source: {story}");
}
