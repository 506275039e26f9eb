//! One object never stops a replica, whatever a store answers to it; and a failing store counts against no object.

use std::{collections::HashSet, time::Duration};

use copyhold_db::replica::ProbeKeyChoice;
use copyhold_sandbox::s3::{Fault, Op, When};

use crate::harness::{Begin, Harness, at_least_once, key, replica, soon};

const PARKED: i64 = 9_000_000_000_000_000_000;
const NEVER_OPEN: &str = "SELECT count(*) FROM copyhold.log WHERE event_data->>'kind' = 'replica.breaker_opened'";
const FAILURES: &str = "SELECT count(*) FROM copyhold.copy_failures";

impl Harness {
    /// Puts objects into the primary's bucket and registers them in one statement, in this order.
    async fn upload_all(&self, keys: &[String]) {
        for key in keys {
            self.bucket("b2").put(key, format!("bytes of {key}"));
        }
        let listed = keys.iter().map(|key| format!("'{key}'")).collect::<Vec<_>>().join(",");
        let insert = format!(
            "INSERT INTO copyhold.object_copies (object_key, b2)
             SELECT k, copyhold.now_utc_micro_seconds() FROM unnest(ARRAY[{listed}]) WITH ORDINALITY AS x(k, i) ORDER BY i"
        );
        self.execute(&insert).await;
    }

    /// Waits until so many objects with this prefix are everywhere.
    async fn until_everywhere(&self, prefix: &str, count: usize) {
        let copied = format!(
            "SELECT count(*) = {count} FROM copyhold.object_copies
             WHERE object_key LIKE '{prefix}%' AND wasabi IS NOT NULL AND scw IS NOT NULL"
        );
        self.until(&copied).await;
    }

    async fn is_zero(&self, count: &str) -> bool {
        self.value(count).await.as_deref() == Some("0")
    }

    /// The bucket of `scw` is in use: whatever comes later is judged beside what succeeded.
    async fn warmed_up(&self) {
        self.upload("warm", "x").await;
        self.until_copied("warm").await;
    }
}

/// Keys that every path holds as they are: others may be refused for that.
fn named(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{prefix}-{i}")).collect()
}

/// Each of `poison` far from the next, among so many others.
fn scattered(poison: &[String], others: usize) -> Vec<String> {
    let every = others / poison.len();
    let mut keys = Vec::new();
    for (i, other) in named("good", others).into_iter().enumerate() {
        if i % every == 0 && i / every < poison.len() {
            keys.push(poison[i / every].clone());
        }
        keys.push(other);
    }
    keys
}

/// Answers that proxies, firewalls and signing bugs give to one object, with the class of each.
fn strange_answers() -> Vec<(Fault, &'static str)> {
    vec![
        (Fault::forbidden("SignatureDoesNotMatch"), "misconfigured"),
        (Fault::access_denied(), "denied"),
        (Fault::proxy_page(400), "refused"),
        (Fault::proxy_page(301), "misconfigured"),
        (Fault::proxy_page(403), "denied"),
        (Fault::proxy_page(413), "refused"),
        (Fault::answer(411, "MissingContentLength"), "misconfigured"),
        (Fault::answer(400, "InvalidTag"), "refused"),
        (Fault::answer(501, "NotImplemented"), "misconfigured"),
        (Fault::slow_down(), "throttled"),
        (Fault::slow_down_for(Duration::from_secs(20)), "throttled"),
        (Fault::answer(507, "InsufficientStorage"), "full"),
        (Fault::internal_error(), "transient"),
    ]
}

#[tokio::test]
async fn objects_with_odd_answers_from_a_target_leave_the_others_unharmed_and_wait_with_their_reasons() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    harness.warmed_up().await;
    let mut kinds = strange_answers();
    kinds.push((Fault::proxy_page(404), "misconfigured"));
    kinds.push((Fault::ResetUpload { after: 10 }, "transient"));
    let poison = named("poison", kinds.len());
    for (key, (fault, _)) in poison.iter().zip(&kinds) {
        harness.bucket("scw").order(fault.clone(), When::op(Op::PutObject).key(key));
    }
    harness.upload_all(&scattered(&poison, 300)).await;
    harness.until_everywhere("good", 300).await;
    for (key, (_, class)) in poison.iter().zip(&kinds) {
        let waits = format!(
            "SELECT EXISTS (SELECT FROM copyhold.copy_failures
                             WHERE object_key = '{key}' AND replica = 'scw' AND class = '{class}')"
        );
        harness.until(&waits).await;
    }
    assert!(harness.is_zero(NEVER_OPEN).await, "{}", daemon.log());
    let message = "SELECT message FROM copyhold.copy_failures WHERE object_key = 'poison-0'";
    let message = harness.value(message).await.unwrap();
    assert!(message.contains("only object \"poison-0\": others succeed there"), "{message}");
    assert!(!message.contains("access_key_id"), "advice for a store that fails: {message}");
    // To the other target they went all the same.
    harness.until("SELECT count(*) = count(wasabi) FROM copyhold.object_copies").await;
}

#[tokio::test]
async fn objects_with_odd_answers_from_the_primary_never_close_the_reading() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    harness.warmed_up().await;
    let mut kinds = strange_answers();
    kinds.push((Fault::proxy_page(404), "gone"));
    kinds.push((Fault::ResetBody { after: 3 }, "transient"));
    kinds.push((Fault::UnreadableHeader, "refused"));
    let poison = named("poison", kinds.len());
    for (key, (fault, _)) in poison.iter().zip(&kinds) {
        harness.bucket("b2").order(fault.clone(), When::op(Op::GetObject).key(key));
    }
    harness.upload_all(&scattered(&poison, 320)).await;
    harness.until_everywhere("good", 320).await;
    for (key, (_, class)) in poison.iter().zip(&kinds) {
        let waits = format!(
            "SELECT count(*) >= 2 FROM copyhold.copy_failures WHERE object_key = '{key}' AND class = '{class}'"
        );
        harness.until(&waits).await;
    }
    assert!(harness.is_zero(NEVER_OPEN).await, "{}", daemon.log());
}

#[tokio::test]
async fn one_odd_object_alone_is_charged_and_later_ones_are_copied() {
    for (role, op) in [("scw", Op::PutObject), ("b2", Op::GetObject)] {
        let harness = Harness::new().await;
        let daemon = harness.daemon().await;
        daemon.until_logged("Copying to scw").await;
        harness.bucket(role).order(Fault::forbidden("SignatureDoesNotMatch"), When::op(op).key("poison"));
        harness.upload("poison", "bytes").await;
        harness.until("SELECT count(*) > 0 FROM copyhold.copy_failures WHERE attempts = 1").await;
        harness.upload_all(&named("good", 40)).await;
        harness.until_everywhere("good", 40).await;
        assert!(harness.is_zero(NEVER_OPEN).await, "{role}: {}", daemon.log());
    }
}

#[tokio::test]
async fn a_denied_prefix_at_the_head_of_a_lane_is_charged_and_holds_up_no_other() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    let denied = harness.bucket("scw").order(Fault::access_denied(), When::op(Op::PutObject).prefix("denied"));
    let mut keys = named("denied", 400);
    keys.extend(named("good", 100));
    harness.upload_all(&keys).await;
    harness.until_everywhere("good", 100).await;
    harness.until("SELECT count(*) = 400 FROM copyhold.copy_failures WHERE class = 'denied' AND attempts > 0").await;
    assert!(harness.is_zero(NEVER_OPEN).await, "{}", daemon.log());
    denied.clear();
}

#[tokio::test]
async fn behind_objects_that_rest_again_and_again_others_are_found_by_a_few_trials() {
    let harness = Harness::new().await;
    let mut keys = named("denied", 300);
    keys.extend(named("good", 700));
    harness.upload_all(&keys).await;
    // The first of them were tried, one after the other, and no object is charged with that: no failure is on record.
    harness.execute("UPDATE copyhold.object_copies SET due_scw = due_scw + id WHERE object_key LIKE 'denied-1%'").await;
    let mut tried = HashSet::new();
    let mut found = false;
    for _ in 0..10 {
        let keys = harness.queue().probe_keys(&replica("scw"), ProbeKeyChoice::Any, 4, None, &tried).await.unwrap();
        assert_eq!(keys.len(), 4);
        assert!(keys.iter().all(|key| !tried.contains(key)), "{keys:?} of {tried:?}");
        found |= keys.iter().any(|key| key.as_str().starts_with("good"));
        tried.extend(keys);
    }
    assert!(found, "{tried:?}");
    // What was tried comes back when nothing else is left.
    harness.execute("DELETE FROM copyhold.object_copies WHERE object_key NOT IN ('denied-1', 'denied-2')").await;
    let tried = keys.iter().map(|name| key(name)).collect();
    assert_eq!(
        harness.queue().probe_keys(&replica("scw"), ProbeKeyChoice::Any, 4, None, &tried).await.unwrap().len(),
        2
    );
    assert!(
        harness.queue().probe_keys(&replica("scw"), ProbeKeyChoice::Untried, 4, None, &tried).await.unwrap().is_empty()
    );
}

#[tokio::test]
async fn a_denied_object_is_parked_only_where_another_one_succeeds() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    harness.bucket("scw").order(Fault::access_denied(), When::op(Op::PutObject).key("alone"));
    harness.bucket("scw").order(Fault::access_denied(), When::op(Op::PutObject).key("beside-others"));
    let fails_five_times = async |key: &str, others: bool| {
        harness.upload(key, "bytes").await;
        for attempt in 1..=5 {
            let failed = format!(
                "SELECT attempts >= {attempt} FROM copyhold.copy_failures WHERE object_key = '{key}' AND replica = 'scw'"
            );
            harness.until(&failed).await;
            if others {
                let other = format!("other-{attempt}");
                harness.upload(&other, "bytes").await;
                harness.until_copied(&other).await;
            }
            harness.sql("UPDATE copyhold.object_copies SET due_scw = 0 WHERE object_key = $1 AND due_scw < 9000000000000000000", key).await;
            harness.execute("SELECT pg_notify('copyhold_work', '')").await;
        }
    };
    fails_five_times("alone", false).await;
    harness.until("SELECT attempts >= 6 FROM copyhold.copy_failures WHERE object_key = 'alone'").await;
    let waits = format!("SELECT due_scw < {PARKED} FROM copyhold.object_copies WHERE object_key = 'alone'");
    harness.until(&waits).await;
    fails_five_times("beside-others", true).await;
    harness
        .until(&format!("SELECT due_scw = {PARKED} FROM copyhold.object_copies WHERE object_key = 'beside-others'"))
        .await;
}

#[tokio::test]
async fn revoked_keys_close_a_replica_at_once_and_charge_no_object() {
    for objects in [1, 60] {
        let harness = Harness::new().await;
        let daemon = harness.daemon().await;
        daemon.until_logged("Copying to scw").await;
        let revoked = harness.bucket("scw").order(Fault::forbidden("InvalidAccessKeyId"), When::always());
        harness.upload_all(&named("good", objects)).await;
        harness.until("SELECT breaker_blocks = 'all' FROM copyhold.replicas WHERE name = 'scw'").await;
        harness.until(&format!("SELECT count(wasabi) = {objects} FROM copyhold.object_copies")).await;
        harness.until("SELECT count(*) = 0 FROM copyhold.object_copies WHERE lock IS NOT NULL").await;
        assert!(harness.is_zero(FAILURES).await, "{}", daemon.log());
        revoked.clear();
        harness.until_everywhere("good", objects).await;
        harness.until("SELECT count(breaker_opened_at) = 0 FROM copyhold.replicas").await;
        assert!(harness.is_zero(FAILURES).await, "{}", daemon.log());
    }
}

#[tokio::test]
async fn a_store_that_lists_but_fails_every_put_is_not_written_to_until_the_first_success_and_charges_no_object() {
    for fault in [Fault::internal_error(), Fault::access_denied(), Fault::answer(507, "InsufficientStorage")] {
        let harness = Harness::new().await;
        let daemon = harness.daemon().await;
        daemon.until_logged("Copying to scw").await;
        let broken = harness.bucket("scw").order(fault, When::op(Op::PutObject));
        harness.upload_all(&named("good", 100)).await;
        harness.until("SELECT breaker_blocks = 'writing' FROM copyhold.replicas WHERE name = 'scw'").await;
        harness.until("SELECT count(wasabi) = 100 FROM copyhold.object_copies").await;
        harness.until("SELECT count(*) = 0 FROM copyhold.object_copies WHERE lock IS NOT NULL").await;
        assert!(harness.is_zero(FAILURES).await, "{}", daemon.log());
        broken.clear();
        harness.execute("UPDATE copyhold.replicas SET probe_at = 1 WHERE probe_at IS NOT NULL").await;
        harness.execute("SELECT pg_notify('copyhold_work', 'replicas')").await;
        harness.until_everywhere("good", 100).await;
        harness.until("SELECT count(breaker_opened_at) = 0 FROM copyhold.replicas").await;
    }
}

#[tokio::test]
async fn a_primary_that_lists_but_fails_every_get_is_not_read_until_one_object_can_be() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    let broken = harness.bucket("b2").order(Fault::internal_error(), When::op(Op::GetObject));
    harness.upload_all(&named("good", 100)).await;
    harness.until("SELECT breaker_blocks = 'all' FROM copyhold.replicas WHERE name = 'b2'").await;
    harness.until("SELECT probes_failed >= 2 FROM copyhold.replicas WHERE name = 'b2'").await;
    assert!(harness.is_zero(FAILURES).await, "{}", daemon.log());
    broken.clear();
    harness.until_everywhere("good", 100).await;
    let opened = "SELECT count(*) - 1 FROM copyhold.log WHERE event_data->>'kind' = 'replica.breaker_opened'";
    assert!(harness.is_zero(opened).await, "it was opened once");
}

#[tokio::test]
async fn one_key_that_is_throttled_with_a_long_wait_slows_no_other_down() {
    let harness = Harness::unhurried().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    // Longer than the others take on any machine.
    let wait = Duration::from_mins(30);
    let throttled = harness.bucket("scw").order(Fault::slow_down_for(wait), When::op(Op::PutObject).key("poison"));
    let mut keys = vec!["poison".to_owned()];
    keys.extend(named("good", 300));
    harness.upload_all(&keys).await;
    harness.until_everywhere("good", 300).await;
    assert_eq!(throttled.strikes(), 1, "it rests for as long as it was told, and the others were done before that");
    let rests =
        "SELECT due_scw > copyhold.now_utc_micro_seconds() FROM copyhold.object_copies WHERE object_key = 'poison'";
    harness.until(rests).await;
}

#[tokio::test]
async fn writes_that_are_never_answered_hold_no_workers() {
    at_least_once("none of them is given up before the others are copied", async || {
        let harness = Harness::with(Begin::Migrated, "[workers]\ncount = 8\nmemory = \"64MiB\"\n").await;
        let daemon = harness.daemon().await;
        daemon.until_logged("Copying to scw").await;
        daemon.until_logged("Copying to wasabi").await;
        let hanging: Vec<_> = ["wasabi", "scw"]
            .map(|replica| harness.bucket(replica).order(Fault::Stall, When::op(Op::PutObject).prefix("stuck")))
            .into();
        harness.upload_all(&named("stuck", 8)).await;
        soon("six are stuck", hanging[1].struck(6)).await;
        harness.upload_all(&named("good", 100)).await;
        harness.until_everywhere("good", 100).await;
        assert!(harness.is_zero(NEVER_OPEN).await, "{}", daemon.log());
        hanging.iter().all(|order| order.strikes() <= 8)
    })
    .await;
}

#[tokio::test]
async fn reads_that_stand_still_hold_no_workers() {
    at_least_once("none of them is given up before the others are copied", async || {
        let harness = Harness::with(Begin::Migrated, "[workers]\ncount = 8\nmemory = \"64MiB\"\n").await;
        let daemon = harness.daemon().await;
        daemon.until_logged("Copying to scw").await;
        let hanging =
            harness.bucket("b2").order(Fault::StallBody { after: 5 }, When::op(Op::GetObject).prefix("stuck"));
        harness.upload_all(&named("stuck", 8)).await;
        soon("eight stand still", hanging.struck(6)).await;
        harness.upload_all(&named("good", 100)).await;
        harness.until_everywhere("good", 100).await;
        hanging.strikes() <= 8
    })
    .await;
}

#[tokio::test]
async fn a_prefix_that_is_throttled_with_a_long_wait_at_the_head_of_the_lane_holds_up_no_other_object() {
    for role in [Op::PutObject, Op::GetObject] {
        let harness = Harness::unhurried().await;
        let daemon = harness.daemon().await;
        daemon.until_logged("Copying to scw").await;
        let bucket = harness.bucket(if role == Op::PutObject { "scw" } else { "b2" });
        // Longer than the others take on any machine.
        let wait = Duration::from_mins(30);
        bucket.order(Fault::slow_down_for(wait), When::op(role).prefix("bad/"));
        let mut keys: Vec<_> = (0..300).map(|i| format!("bad/{}/{i}", i % 7)).collect();
        keys.extend((0..30).map(|i| format!("good/{i}")));
        harness.upload_all(&keys).await;
        harness.until_everywhere("good", 30).await;
    }
}
