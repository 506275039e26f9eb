//! Another replica becomes the primary, and back; no object is lost or copied twice.

use std::{collections::BTreeSet, process::Stdio};

use copyhold_sandbox::s3::{Fault, Op, PauseGate, When};
use tokio::sync::Mutex;

use crate::harness::{Harness, eventually, printed, soon};

const PARKED: &str = "9000000000000000000";

async fn said(harness: &Harness, arguments: &[&str]) -> (i32, String) {
    let output = harness.run(arguments).await;
    (output.status.code().unwrap(), printed(&output))
}

async fn promoted(harness: &Harness, replica: &str) {
    let (code, text) = said(harness, &["promote", replica]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with(&format!("{replica} is the primary since 20")), "{text}");
}

/// Uploads to a bucket and registers, as an application that knows the primary.
async fn upload_to(harness: &Harness, replica: &str, key: &str, bytes: &str) {
    harness.bucket(replica).put(key, bytes.to_owned());
    harness.sql("SELECT copyhold.register($1)", key).await;
}

#[tokio::test]
async fn a_promoted_replica_is_the_source_of_all_daemons_at_once_and_back_again() {
    let harness = Harness::unhurried().await;
    let daemon = harness.daemon().await;
    upload_to(&harness, "b2", "first", "bytes of first").await;
    harness.until_copied("first").await;
    let (code, text) = said(&harness, &["promote", "wasabi", "--check"]).await;
    assert_eq!(code, 0, "{text}");
    let first = "if wasabi were the primary now, in place of b2, of 1 object it would have 1\n";
    assert_eq!(text, format!("{first}  missing     nothing that is wanted there\n"));
    promoted(&harness, "wasabi").await;
    daemon.until_logged("The primary in force is wasabi; the configuration says b2").await;
    upload_to(&harness, "wasabi", "second", "bytes of second").await;
    // Known to both: what the old primary holds of it is what was registered, and is written over.
    upload_to(&harness, "wasabi", "first", "another content").await;
    for (key, bytes) in [("first", "another content"), ("second", "bytes of second")] {
        harness.until_copied(key).await;
        for replica in ["b2", "wasabi", "scw"] {
            assert_eq!(harness.bucket(replica).get(key).unwrap(), bytes, "{key} at {replica}");
        }
    }
    let (_, text) = said(&harness, &["status"]).await;
    assert!(
        text.contains("wasabi (primary)")
            && text.contains("the primary in force is wasabi, this configuration says b2")
    );
    promoted(&harness, "b2").await;
    upload_to(&harness, "b2", "third", "bytes of third").await;
    upload_to(&harness, "b2", "second", "yet another").await;
    harness.until_copied("third").await;
    harness.until_copied("second").await;
    assert_eq!(harness.bucket("wasabi").get("second").unwrap(), "yet another");
    let told = "SELECT string_agg(event_data ->> 'in_place_of' || ' ' || (event_data ->> 'replica'), ', ' ORDER BY id)
                FROM copyhold.log WHERE event_data ->> 'kind' = 'replica.promoted'";
    assert_eq!(harness.value(told).await.unwrap(), "b2 wasabi, wasabi b2");
    // Each copy was made once.
    for (replica, key, puts) in [("scw", "first", 2), ("b2", "first", 1), ("wasabi", "first", 1), ("scw", "third", 1)] {
        assert_eq!(harness.bucket(replica).writes(key), puts, "{key} at {replica}");
    }
}

#[tokio::test]
async fn what_the_old_primary_holds_that_was_never_registered_is_not_written_over() {
    let harness = Harness::new().await;
    let _daemon = harness.daemon().await;
    upload_to(&harness, "b2", "known", "bytes").await;
    harness.until_copied("known").await;
    harness.bucket("b2").put("theirs", "another program's");
    promoted(&harness, "wasabi").await;
    upload_to(&harness, "wasabi", "theirs", "ours").await;
    harness.until(&format!("SELECT due_b2 = {PARKED} FROM copyhold.object_copies WHERE object_key = 'theirs'")).await;
    assert_eq!(harness.bucket("b2").get("theirs").unwrap(), "another program's");
    assert_eq!(harness.bucket("scw").get("theirs").unwrap(), "ours");
}

#[tokio::test]
async fn an_unregistered_content_at_the_old_primary_is_not_written_over() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    upload_to(&harness, "b2", "photo", "bytes").await;
    harness.until_copied("photo").await;
    harness.bucket("b2").put("photo", "another content");
    promoted(&harness, "wasabi").await;
    daemon.until_logged("The primary in force is wasabi").await;
    let (_, text) = said(&harness, &["verify", "photo"]).await;
    assert!(text.contains("damaged at b2, due again"), "{text}");
    harness.until(&format!("SELECT due_b2 = {PARKED} FROM copyhold.object_copies")).await;
    assert_eq!(harness.bucket("b2").get("photo").unwrap(), "another content");
}

#[tokio::test]
async fn an_object_that_was_registered_before_and_never_read_is_found_at_the_old_primary() {
    let harness = Harness::new().await;
    for key in ["known", "not vouched for"] {
        harness.bucket("b2").put(key, "bytes");
    }
    harness.insert("known").await;
    harness.bucket("wasabi").put("known", "bytes");
    harness.execute("UPDATE copyhold.object_copies SET wasabi = 5, scw = 5").await;
    harness.execute("UPDATE copyhold.replicas SET existing = 'empty', writable_at = 1 WHERE name <> 'b2'").await;
    harness.sql("INSERT INTO copyhold.object_copies (object_key) VALUES ($1)", "not vouched for").await;
    assert_eq!(said(&harness, &["promote", "wasabi"]).await.0, 1);
    assert_eq!(said(&harness, &["promote", "wasabi", "--accept-missing"]).await.0, 0);
    let daemon = harness.daemon().await;
    daemon.until_logged("The primary in force is wasabi").await;
    harness.until("SELECT b2 IS NOT NULL AND scw IS NOT NULL FROM copyhold.object_copies WHERE b2 > 5 AND object_key LIKE 'not v%'").await;
    harness.execute("UPDATE copyhold.object_copies SET due_wasabi = 0 WHERE wasabi IS NULL").await;
    harness.until_copied("not vouched for").await;
}

#[tokio::test]
async fn what_would_be_missing_is_listed_by_its_state_and_refused_unless_it_is_accepted() {
    let harness = Harness::new().await;
    for key in ["due", "waiting", "parked", "held", "unwanted", "there", "only there"] {
        harness.insert(key).await;
    }
    harness
        .execute(&format!(
            "UPDATE copyhold.object_copies SET size_bytes = 1024 WHERE object_key <> 'due';
             UPDATE copyhold.object_copies SET created_at = created_at - 3600000000 WHERE object_key IN ('parked', 'waiting');
             UPDATE copyhold.object_copies SET due_wasabi = 8000000000000000 WHERE object_key = 'waiting';
             UPDATE copyhold.object_copies SET due_wasabi = {PARKED} WHERE object_key = 'parked';
             UPDATE copyhold.object_copies SET lock = 8000000000000000, lease = 7 WHERE object_key = 'held';
             UPDATE copyhold.object_copies SET due_wasabi = NULL WHERE object_key = 'unwanted';
             UPDATE copyhold.object_copies SET wasabi = 5 WHERE object_key LIKE '%there';
             UPDATE copyhold.object_copies SET b2 = NULL WHERE object_key = 'only there';
             INSERT INTO copyhold.copy_failures SELECT object_key, 'wasabi', generation, 1, 'refused', 'no', 1, 1
             FROM copyhold.object_copies WHERE object_key = 'parked'"
        ))
        .await;
    let (code, text) = said(&harness, &["promote", "wasabi", "--check"]).await;
    assert_eq!(code, 1);
    for line in [
        "in place of b2, of 7 objects it would have 2\n",
        "  missing     4 objects, 3.0 KiB and 1 of unknown size, the oldest registered 1h",
        "due 1, in flight 1, waiting for another attempt 1, parked 1 (refused 1)\n",
        "2 of them leased by a daemon or registered within the last minute\n",
        "  not wanted  1 object, 1.0 KiB, which are not to be there",
        "  only there  1 object, \"only there\" for one",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    let (code, text) = said(&harness, &["promote", "wasabi"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("wasabi is not promoted: it lacks 4 copies, 2 of them leased by a daemon"), "{text}");
    assert!(text.contains("1 of them parked") && text.contains("`copyhold promote wasabi --wait 5m`"), "{text}");
    assert_eq!(said(&harness, &["promote", "wasabi", "--wait", "1s"]).await.0, 1);
    harness
        .execute("UPDATE copyhold.object_copies SET wasabi = 5, lock = NULL, lease = NULL WHERE due_wasabi IS NOT NULL")
        .await;
    let (code, text) = said(&harness, &["promote", "wasabi"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("1 object is not wanted there and would be missing"), "{text}");
    let (code, text) = said(&harness, &["promote", "wasabi", "--accept-missing"]).await;
    assert_eq!(code, 0, "{text}");
    assert_eq!(
        harness.value("SELECT name FROM copyhold.replicas WHERE primary_since IS NOT NULL").await.unwrap(),
        "wasabi"
    );
}

#[tokio::test]
async fn it_is_promoted_as_soon_as_nothing_is_missing_any_more() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to wasabi").await;
    upload_to(&harness, "b2", "first", "bytes").await;
    harness.until_copied("first").await;
    let gate = PauseGate::new();
    harness.bucket("wasabi").order(Fault::Hold(gate.clone()), When::op(Op::PutObject).next(1));
    upload_to(&harness, "b2", "photo", "bytes").await;
    soon("its copy is under way", gate.holds(1)).await;
    let waiting = harness
        .program(&["promote", "wasabi", "--wait", "1m"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    harness.until("SELECT scw IS NOT NULL FROM copyhold.object_copies WHERE object_key = 'photo'").await;
    assert_eq!(
        harness.value("SELECT name FROM copyhold.replicas WHERE primary_since IS NOT NULL").await.unwrap(),
        "b2"
    );
    gate.open();
    let output = soon("it promotes", waiting.wait_with_output()).await.unwrap();
    assert!(output.status.success(), "{}", printed(&output));
    assert_eq!(
        harness.value("SELECT name FROM copyhold.replicas WHERE primary_since IS NOT NULL").await.unwrap(),
        "wasabi"
    );
}

#[tokio::test]
async fn what_cannot_be_the_primary_is_refused_whatever_is_accepted() {
    let mut harness = Harness::new().await;
    harness.insert("photo").await;
    let refused = async |harness: &Harness, why: &str| {
        for arguments in [["promote", "scw", "--check"], ["promote", "scw", "--accept-missing"]] {
            let (code, text) = said(harness, &arguments).await;
            assert_eq!(code, 1, "{text}");
            assert!(text.contains(why), "no {why} in\n{text}");
        }
        let primary = "SELECT name FROM copyhold.replicas WHERE primary_since IS NOT NULL";
        assert_eq!(harness.value(primary).await.unwrap(), "b2");
    };
    refused(&harness, "it has no copy of any object: it was never used, or its bucket was lost").await;
    harness.execute("UPDATE copyhold.object_copies SET scw = 5, wasabi = 5").await;
    for (state, back, why) in [
        ("paused_until = 9000000000000000000", "paused_until = NULL", "it is paused: `copyhold resume scw`"),
        ("draining_since = 5", "draining_since = NULL", "it is draining: `copyhold replica undrain scw`"),
        (
            "breaker_opened_at = 5, breaker_blocks = 'all', breaker_class = 'denied', breaker_message = 'no', probe_at = 5",
            "breaker_opened_at = NULL, breaker_blocks = NULL, breaker_class = NULL, breaker_message = NULL, probe_at = NULL",
            "its store is unhealthy: its breaker is open since 1970-01-01T00:00:00Z: denied: no",
        ),
        (
            "endpoint = 'https://elsewhere', bucket = 'x', pinned_at = 5",
            "endpoint = NULL, bucket = NULL, pinned_at = NULL",
            "its recorded copies are in bucket x at https://elsewhere",
        ),
    ] {
        harness.execute(&format!("UPDATE copyhold.replicas SET {state} WHERE name = 'scw'")).await;
        refused(&harness, why).await;
        harness.execute(&format!("UPDATE copyhold.replicas SET {back} WHERE name = 'scw'")).await;
    }
    harness.execute("INSERT INTO copyhold.resets (replica, before) VALUES ('scw', 5)").await;
    refused(&harness, "its copies are being cleared: `copyhold replica reset scw`").await;
    harness.execute("DELETE FROM copyhold.resets").await;
    let (code, text) = said(&harness, &["promote", "b2"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("b2 is not promoted: it is the primary already, since 20"), "{text}");
    let (code, text) = said(&harness, &["promote", "swc"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("there is no replica \"swc\"; the database has b2, scw, wasabi"), "{text}");
    harness.rewrite(|text| text.replace("[replicas.scw]", "[replicas.scw]\nread = false"));
    refused(&harness, "read = false in [replicas.scw]: it is no source").await;
}

#[tokio::test]
async fn of_two_operators_at_once_one_promotes_and_the_other_learns_which_is_the_primary_now() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    harness.execute("UPDATE copyhold.object_copies SET scw = 5, wasabi = 5").await;
    let mut other = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM copyhold.replicas FOR UPDATE").execute(&mut *other).await.unwrap();
    let operator = async |replica: &str| harness.run(&["promote", replica]).await;
    let go = async {
        // Both have read who is the primary, and want to change that.
        let seen = Mutex::new(BTreeSet::new());
        let both = async || {
            let waiting = "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE query LIKE '%replica::demote%' AND state = 'active'
                              AND datname = current_database() AND pid <> pg_backend_pid()";
            let pids = harness.value(waiting).await.unwrap_or_default();
            seen.lock().await.extend(pids.split(' ').filter(|pid| !pid.is_empty()).map(str::to_owned));
            seen.lock().await.len() > 1
        };
        eventually("both want to change who is the primary", both).await;
        other.rollback().await.unwrap();
    };
    let (one, other, ()) = soon("both end", async { tokio::join!(operator("scw"), operator("wasabi"), go) }).await;
    let (won, lost) = if one.status.success() { (one, other) } else { (other, one) };
    assert!(won.status.success() && lost.status.code() == Some(1), "{} {}", printed(&won), printed(&lost));
    let primary = harness.value("SELECT name FROM copyhold.replicas WHERE primary_since IS NOT NULL").await.unwrap();
    assert!(printed(&won).starts_with(&format!("{primary} is the primary since")), "{}", printed(&won));
    let told = format!("is not promoted: {primary} is the primary since 20");
    assert!(printed(&lost).contains(&told), "{}", printed(&lost));
}

#[tokio::test]
async fn twenty_promotions_under_load_lose_nothing_and_copy_nothing_twice() {
    let harness = Harness::new().await;
    let daemons = [harness.daemon().await, harness.daemon().await];
    upload_to(&harness, "b2", "first", "bytes").await;
    harness.until_copied("first").await;
    let mut keys = Vec::new();
    for turn in 0..20 {
        // An application that uploads to the primary of this moment, and names it in its INSERT.
        let primary =
            harness.value("SELECT name FROM copyhold.replicas WHERE primary_since IS NOT NULL").await.unwrap();
        for i in 0..5 {
            let key = format!("photo {turn} {i}");
            harness.bucket(&primary).put(&key, format!("bytes of {key}"));
            harness
                .execute(&format!(
                    "INSERT INTO copyhold.object_copies (object_key, {primary})
                     VALUES ('{key}', copyhold.now_utc_micro_seconds())"
                ))
                .await;
            keys.push((key, primary.clone()));
        }
        let next = if primary == "b2" { "wasabi" } else { "b2" };
        let (code, text) = said(&harness, &["promote", next, "--accept-missing"]).await;
        assert_eq!(code, 0, "{text}");
    }
    for (key, uploaded_to) in &keys {
        harness.until_copied(key).await;
        for replica in ["b2", "wasabi", "scw"] {
            assert_eq!(harness.bucket(replica).get(key).unwrap(), format!("bytes of {key}"));
            let puts = u64::from(replica != uploaded_to);
            assert_eq!(harness.bucket(replica).writes(key), puts, "{key} at {replica}");
        }
    }
    drop(daemons);
}
