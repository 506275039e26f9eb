//! The operator's commands `explain`, `retry`, `park`, `forget`, `pause` and `resume`.

use copyhold_db::{Database, daemon::Daemon};
use copyhold_sandbox::s3::{Fault, Op, PauseGate, When};
use serde_json::Value;

use crate::harness::{Harness, key, printed, soon};

const PARKED: &str = "9000000000000000000";

/// Runs a command; its exit code and all that it printed.
async fn said(harness: &Harness, arguments: &[&str]) -> (i32, String) {
    let output = harness.run(arguments).await;
    (output.status.code().unwrap(), printed(&output))
}

/// Leases all that scw lacks, as a daemon would.
async fn leased(harness: &Harness) -> (Database, Daemon, copyhold_core::domain::Lease) {
    let (queue, daemon) = (harness.queue(), harness.enlist(60).await);
    let mut leases = harness.claim(&daemon, "scw", 10).await;
    assert_eq!(leases.len(), 1);
    (queue, daemon, leases.remove(0))
}

#[tokio::test]
async fn a_parked_copy_is_retried_and_copied() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    let refusal = harness.bucket("scw").order(Fault::answer(400, "KeyTooLongError"), When::op(Op::PutObject));
    for key in ["photo 1", "photo 2"] {
        harness.upload(key, "bytes").await;
    }
    harness
        .until(&format!("SELECT count(*) = 2 FROM copyhold.object_copies WHERE due_scw = {PARKED} AND lock IS NULL"))
        .await;
    refusal.clear();
    let (code, text) = said(&harness, &["retry", "--parked", "--class", "denied"]).await;
    assert_eq!((code, text.as_str()), (0, "no such copy is parked\n"));
    let (code, text) = said(&harness, &["retry", "photo 1"]).await;
    assert_eq!((code, text.as_str()), (0, "1 copy is due now (scw 1)\n"));
    harness.until_copied("photo 1").await;
    let still = format!("SELECT due_scw = {PARKED} FROM copyhold.object_copies WHERE object_key = 'photo 2'");
    assert_eq!(harness.value(&still).await.unwrap(), "true");
    let (code, text) = said(&harness, &["retry", "--parked", "--replica", "scw", "--class", "refused"]).await;
    assert_eq!((code, text.as_str()), (0, "1 copy is due now (scw 1)\n"));
    harness.until_copied("photo 2").await;
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.copy_failures").await.unwrap(), "0");
}

#[tokio::test]
async fn a_retry_forgets_the_attempts_and_keeps_the_story() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    harness
        .execute(&format!(
            "UPDATE copyhold.object_copies SET due_scw = {PARKED},
                    due_wasabi = copyhold.now_utc_micro_seconds() + 600000000;
             INSERT INTO copyhold.copy_failures
             SELECT object_key, r, generation, 5, 'denied', 'no', 1, 2
             FROM copyhold.object_copies, unnest(ARRAY['scw', 'wasabi']) r"
        ))
        .await;
    // Waiting copies are retried with those that are parked only if that is asked for.
    let (_, text) = said(&harness, &["retry", "--parked"]).await;
    assert_eq!(text, "1 copy is due now (scw 1)\n");
    let (_, text) = said(&harness, &["retry", "--failing"]).await;
    assert_eq!(text, "1 copy is due now (wasabi 1)\n");
    let due = "SELECT bool_and(due_scw <= n AND due_wasabi <= n AND b2 IS NOT NULL)
               FROM copyhold.object_copies, copyhold.now_utc_micro_seconds() n";
    assert_eq!(harness.value(due).await.unwrap(), "true");
    let told = "SELECT bool_and(attempts = 0 AND class = 'denied' AND message = 'no' AND first_at = 1 AND last_at = 2)
                FROM copyhold.copy_failures";
    assert_eq!(harness.value(told).await.unwrap(), "true");
    // Both may be said: that is all of them.
    for arguments in [["--parked", "--failing"], ["--failing", "--parked"]] {
        let due = "due_scw = 9000000000000000000, due_wasabi = copyhold.now_utc_micro_seconds() + 600000000";
        harness.execute(&format!("UPDATE copyhold.object_copies SET {due}")).await;
        let (code, text) = said(&harness, &[&["retry"][..], &arguments].concat()).await;
        assert_eq!((code, text.as_str()), (0, "2 copies are due now (scw 1, wasabi 1)\n"));
    }
}

#[tokio::test]
async fn a_retry_of_more_than_one_page_takes_every_copy_once() {
    let harness = Harness::new().await;
    harness
        .execute(&format!(
            "INSERT INTO copyhold.object_copies (object_key, b2, due_scw, due_wasabi)
             SELECT 'k' || i, 1, {PARKED}, copyhold.now_utc_micro_seconds() + 3600000000 + i % 7
             FROM generate_series(1, 2500) i"
        ))
        .await;
    let (code, text) = said(&harness, &["retry", "--failing"]).await;
    assert_eq!((code, text.as_str()), (0, "5000 copies are due now (scw 2500, wasabi 2500)\n"));
    let due = "SELECT count(*) FROM copyhold.object_copies, copyhold.now_utc_micro_seconds() n
               WHERE due_scw <= n AND due_wasabi <= n";
    assert_eq!(harness.value(due).await.unwrap(), "2500");
}

#[tokio::test]
async fn a_retry_skips_what_a_daemon_holds_and_says_so() {
    let harness = Harness::new().await;
    harness.insert("held").await;
    harness.insert("free").await;
    harness.execute(&format!("UPDATE copyhold.object_copies SET due_wasabi = {PARKED}")).await;
    harness.execute("UPDATE copyhold.object_copies SET due_scw = NULL WHERE object_key = 'free'").await;
    let (queue, _daemon, lease) = leased(&harness).await;
    for arguments in [["retry", "--parked", "--replica", "wasabi"].as_slice(), &["retry", "held"]] {
        let (code, text) = said(&harness, arguments).await;
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("skipped 1 object that a daemon holds at this moment: \"held\"; try again"), "{text}");
    }
    let due = "SELECT string_agg(object_key, ' ') FROM copyhold.object_copies
               WHERE due_wasabi <= copyhold.now_utc_micro_seconds()";
    assert_eq!(harness.value(due).await.unwrap(), "free");
    let (code, _) = said(&harness, &["park", "held"]).await;
    assert_eq!(code, 1);
    queue.release(&[(lease.key.clone(), lease.fence)]).await.unwrap();
    let (code, text) = said(&harness, &["retry", "held", "absent"]).await;
    assert_eq!(code, 1);
    assert_eq!(text, "1 copy is due now (wasabi 1)\nnot registered: \"absent\" (`copyhold enqueue` registers)\n");
}

#[tokio::test]
async fn a_copy_parked_by_hand_is_left_alone_with_the_reason_until_it_is_retried() {
    let harness = Harness::new().await;
    harness.bucket("b2").put("photo", "bytes");
    harness.insert("photo").await;
    let (code, text) = said(&harness, &["park", "photo", "--replica", "scw", "--because", "legal asks"]).await;
    assert_eq!((code, text.as_str()), (0, "1 copy is parked (scw 1)\n"));
    let (_, text) = said(&harness, &["park", "photo", "--replica", "scw"]).await;
    assert_eq!(text, "nothing to park: no such copy is wanted, missing and not parked\n");
    let _daemon = harness.daemon().await;
    harness.until("SELECT wasabi IS NOT NULL AND lock IS NULL FROM copyhold.object_copies").await;
    let told = "SELECT class || ': ' || message FROM copyhold.copy_failures";
    assert_eq!(harness.value(told).await.unwrap(), "parked: legal asks");
    assert!(harness.bucket("scw").keys().is_empty());
    let (_, text) = said(&harness, &["retry", "--parked", "--class", "parked"]).await;
    assert_eq!(text, "1 copy is due now (scw 1)\n");
    harness.until_copied("photo").await;
}

#[tokio::test]
async fn parking_by_hand_keeps_what_had_failed_before() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    harness
        .execute(
            "INSERT INTO copyhold.copy_failures
             SELECT object_key, 'scw', generation, 3, 'transient', 'reset', 1, 2 FROM copyhold.object_copies",
        )
        .await;
    said(&harness, &["park", "photo"]).await;
    let told = "SELECT string_agg(replica || ' ' || class || ' ' || attempts || ' ' || message, '|' ORDER BY replica)
                FROM copyhold.copy_failures";
    assert_eq!(
        harness.value(told).await.unwrap(),
        "scw parked 0 parked by hand (before that transient: reset)|wasabi parked 0 parked by hand"
    );
}

#[tokio::test]
async fn an_object_that_is_forgotten_stays_in_the_buckets() {
    let harness = Harness::new().await;
    let _daemon = harness.daemon().await;
    harness.upload("photo", "bytes").await;
    harness.insert("missing").await;
    harness.until_copied("photo").await;
    harness.until("SELECT count(*) = 3 FROM copyhold.copy_failures").await;
    harness.until("SELECT count(*) = 0 FROM copyhold.object_copies WHERE lock IS NOT NULL").await;
    let (code, text) = said(&harness, &["forget", "photo", "missing", "absent"]).await;
    assert_eq!(code, 1);
    assert_eq!(text, "forgot 2 objects; what is in the buckets stays there\nnot registered: \"absent\"\n");
    for table in ["object_copies", "copy_failures"] {
        assert_eq!(harness.value(&format!("SELECT count(*) FROM copyhold.{table}")).await.unwrap(), "0");
    }
    for replica in ["b2", "wasabi", "scw"] {
        assert_eq!(harness.bucket(replica).get("photo").unwrap(), "bytes");
    }
}

#[tokio::test]
async fn an_object_that_is_being_copied_is_forgotten_only_by_force_and_its_holder_records_nothing() {
    let harness = Harness::new().await;
    let gate = PauseGate::new();
    harness.bucket("scw").order(Fault::Hold(gate.clone()), When::op(Op::PutObject).next(1));
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    harness.upload("photo", "bytes").await;
    soon("the copy is under way", gate.holds(1)).await;
    let (code, text) = said(&harness, &["forget", "photo"]).await;
    assert_eq!(code, 1);
    assert_eq!(text, "forgot 0 objects\nin use at this moment, and left as it is: \"photo\" (try again, or --force)\n");
    let (code, text) = said(&harness, &["forget", "--force", "photo"]).await;
    assert_eq!(code, 0, "{text}");
    gate.open();
    harness.upload("next", "bytes").await;
    harness.until_copied("next").await;
    assert_eq!(harness.value("SELECT string_agg(object_key, ' ') FROM copyhold.object_copies").await.unwrap(), "next");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.copy_failures").await.unwrap(), "0");
}

#[tokio::test]
async fn a_paused_replica_gets_nothing_while_others_go_on_and_catches_up_when_it_is_resumed() {
    let harness = Harness::new().await;
    let daemons = [harness.daemon().await, harness.daemon().await];
    for daemon in &daemons {
        daemon.until_logged("Copying to scw").await;
        daemon.until_logged("Listening").await;
    }
    let (code, text) = said(&harness, &["pause", "scw", "--because", "moving\u{1b} it"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("scw is paused until it is resumed (moving\\u{1b} it)\n"), "{text}");
    for daemon in &daemons {
        daemon.until_logged("Not copying to scw: it is paused until it is resumed: moving\\u{1b} it").await;
    }
    for i in 0..20 {
        harness.upload(&format!("photo {i}"), "bytes").await;
    }
    harness.until("SELECT count(wasabi) = 20 FROM copyhold.object_copies WHERE lock IS NULL").await;
    assert!(harness.bucket("scw").keys().is_empty());
    // A copy that is due at a paused replica is no failure, and no reason to hold the row.
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.copy_failures").await.unwrap(), "0");
    let (_, text) = said(&harness, &["status"]).await;
    assert!(text.contains("scw is paused until it is resumed (moving\\u{1b} it)"), "{text}");
    let (_, text) = said(&harness, &["resume", "scw"]).await;
    assert_eq!(text, "scw is resumed: its backlog is copied from now on\n");
    harness.until("SELECT count(scw) = 20 FROM copyhold.object_copies").await;
    let (code, text) = said(&harness, &["resume", "scw"]).await;
    assert_eq!((code, text.as_str()), (0, "scw was not paused\n"));
}

#[tokio::test]
async fn a_paused_replica_is_still_read() {
    let harness = Harness::new().await;
    // Not at the primary: wasabi is the only source.
    harness.bucket("wasabi").put("photo", "bytes");
    said(&harness, &["pause", "wasabi"]).await;
    harness.execute("INSERT INTO copyhold.object_copies (object_key, wasabi) VALUES ('photo', 1)").await;
    let _daemon = harness.daemon().await;
    harness.until("SELECT scw IS NOT NULL AND b2 IS NOT NULL AND wasabi = 1 FROM copyhold.object_copies").await;
    assert_eq!(harness.bucket("scw").get("photo").unwrap(), "bytes");
}

#[tokio::test]
async fn a_pause_for_a_time_ends_by_itself() {
    let harness = Harness::new().await;
    let (code, text) = said(&harness, &["pause", "scw", "--for", "2s"]).await;
    assert_eq!(code, 0);
    assert!(text.starts_with("scw is paused until 20"), "{text}");
    let daemon = harness.daemon().await;
    harness.upload("photo", "bytes").await;
    harness.until_copied("photo").await;
    let later = "SELECT scw >= (SELECT paused_until FROM copyhold.replicas WHERE name = 'scw')
                 FROM copyhold.object_copies";
    assert_eq!(harness.value(later).await.unwrap(), "true");
    daemon.until_logged("Copying to scw").await;
}

#[tokio::test]
async fn explain_tells_each_state_a_copy_can_be_in() {
    let harness = Harness::new().await;
    let name = "cats/\u{1b}tom";
    harness.insert(name).await;
    let (_, text) = said(&harness, &["explain", name]).await;
    assert!(text.starts_with("cats/\\u{1b}tom\n  size        not known before the first read\n"), "{text}");
    assert!(text.contains("b2 (primary): recorded ") && text.contains("scw: due since "), "{text}");
    assert!(text.contains("no daemon is alive"), "{text}");
    harness
        .execute(&format!(
            "UPDATE copyhold.object_copies SET size_bytes = 2048, content_hash = -1, due_scw = {PARKED},
                    due_wasabi = copyhold.now_utc_micro_seconds() + 7200000000;
             INSERT INTO copyhold.copy_failures
             SELECT object_key, 'scw', generation, 5, 'denied', 'evil\u{1b}[2J words', 1, 2 FROM copyhold.object_copies;
             UPDATE copyhold.replicas SET pinned_at = 1, endpoint = 'http://elsewhere', bucket = 'other' WHERE name = 'wasabi'"
        ))
        .await;
    said(&harness, &["pause", "scw", "--because", "why not"]).await;
    let (code, text) = said(&harness, &["explain", name]).await;
    assert_eq!(code, 0);
    for told in [
        "size        2048 bytes (2.0 KiB)",
        "hash        crc64nvme:ffffffffffffffff",
        "held        by no daemon",
        "scw: parked: not tried again until `copyhold retry`\n    denied: evil\\u{1b}[2J words\n    \
         5 attempts count, first ",
        "(1970-01-01T00:00:00Z)",
        "scw is paused until it is resumed (why not)",
        "wasabi: waiting, tried again in 1h 59m",
        "its recorded copies are in bucket other at http://elsewhere",
    ] {
        assert!(text.contains(told), "no {told} in\n{text}");
    }
    harness.execute("UPDATE copyhold.object_copies SET due_wasabi = NULL, due_scw = 5").await;
    let (_queue, daemon, _lease) = leased(&harness).await;
    let (_, text) = said(&harness, &["explain", name]).await;
    let holder = format!("held        by daemon {} (host test, pid {}), renewed ", daemon.id, std::process::id());
    assert!(text.contains(&holder) && text.contains("wasabi: not wanted there"), "{text}");
    let output = harness.run(&["explain", "--json", name]).await;
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["key"], name);
    assert_eq!(json["copies"][0]["replica"], "b2");
    assert_eq!(json["copies"][0]["state"], "recorded");
    assert_eq!(json["copies"][1]["state"], "due");
    assert_eq!(json["copies"][2]["state"], "not_wanted");
    assert_eq!(json["held"]["host"], "test");
    // Any number that was written into a time's column is shown.
    harness.execute("UPDATE copyhold.object_copies SET lock = 1, b2 = -1, wasabi = 9223372036854775807").await;
    let (code, text) = said(&harness, &["explain", name]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("whose lease ran out ") && text.contains("(9223372036854775807 µs)"), "{text}");
}

#[tokio::test]
async fn explain_tells_that_holders_of_an_object_have_died() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    let swept = async |times| {
        harness.execute(&format!(
            "INSERT INTO copyhold.swept_leases
             SELECT object_key, generation, {times}, copyhold.now_utc_micro_seconds() - 60000000 FROM copyhold.object_copies
             ON CONFLICT (object_key) DO UPDATE SET times = excluded.times"
        )).await;
        said(&harness, &["explain", "photo"]).await.1
    };
    let text = said(&harness, &["explain", "photo"]).await.1;
    assert!(!text.contains("abandoned"), "{text}");
    let text = swept(1).await;
    assert!(text.contains("  abandoned   its holder died 1m "), "{text}");
    let text = swept(3).await;
    assert!(text.contains("  abandoned   3 holders in a row died, the last 1m "), "{text}");
    assert!(text.contains(": it waits longer each time and is copied alone\n"), "{text}");
    let text = swept(0).await;
    assert!(text.contains("  abandoned   a holder of it died 1m "), "{text}");
    // What a holder of an older content did is no suspicion of this one.
    harness.value("SELECT copyhold.register('photo')").await;
    let output = harness.run(&["explain", "--json", "photo"]).await;
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["abandoned"]["times"], 0);
}

#[tokio::test]
async fn explain_tells_of_a_write_that_may_still_arrive() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    harness
        .execute(
            "INSERT INTO copyhold.unsettled (object_key, replica, noted_at, verify_at, settled_at)
             VALUES ('photo', 'wasabi', copyhold.now_utc_micro_seconds() - 60000000, 1, copyhold.now_utc_micro_seconds() + 7200000000)",
        )
        .await;
    let text = said(&harness, &["explain", "photo"]).await.1;
    assert!(text.contains("    a write was sent 1m ") && text.contains("it can arrive no more, in 1h 59m"), "{text}");
}

#[tokio::test]
async fn explain_of_an_unknown_key_says_how_to_register_it() {
    let harness = Harness::new().await;
    let (code, text) = said(&harness, &["explain", "no\u{202e}body"]).await;
    assert_eq!(code, 1);
    assert!(text.starts_with("error: \"no\\u{202e}body\" is not registered"), "{text}");
    assert!(text.contains("copyhold enqueue"), "{text}");
}

#[tokio::test]
async fn what_is_misspelt_is_named_with_what_there_is() {
    let harness = Harness::new().await;
    for arguments in [["pause", "swc"].as_slice(), &["resume", "swc"], &["retry", "--parked", "--replica", "swc"]] {
        let (code, text) = said(&harness, arguments).await;
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("there is no replica \"swc\"; the configuration has b2, scw, wasabi"), "{text}");
    }
    let (code, text) = said(&harness, &["retry", "--parked", "--class", "denid"]).await;
    assert_eq!(code, 2);
    assert!(text.contains("denied") && text.contains("archived"), "{text}");
    for arguments in [["retry"].as_slice(), &["park"], &["forget"], &["pause", "scw", "--for", "0s"], &["explain"]] {
        let (code, text) = said(&harness, arguments).await;
        assert_eq!(code, 2, "{text}");
    }
    let (code, text) = said(&harness, &["forget", "good", ""]).await;
    assert_eq!(code, 1);
    assert!(text.contains("nothing was forgotten: key 2: a key cannot be empty"), "{text}");
}

#[tokio::test]
async fn a_forgotten_object_can_be_registered_again() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    said(&harness, &["forget", "photo"]).await;
    harness.insert("photo").await;
    assert!(harness.queue().explain(&key("photo")).await.unwrap().is_some());
}
