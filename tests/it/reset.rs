//! A bucket that was lost is filled again from the others, and no earlier record of it is relied on.

use std::process::Stdio;

use copyhold_sandbox::s3::{BucketHandle, Fault, Op, PauseGate, Synthetic, When};

use crate::harness::{Harness, eventually, printed, soon};

const PARKED: &str = "9000000000000000000";

async fn said(harness: &Harness, arguments: &[&str]) -> (i32, String) {
    let output = harness.run(arguments).await;
    (output.status.code().unwrap(), printed(&output))
}

fn wipe(bucket: &BucketHandle) {
    for key in bucket.keys() {
        bucket.delete(&key);
    }
}

/// Uploads objects of several sizes, one of them in parts, and waits until they are everywhere.
async fn copied(harness: &Harness, objects: u64) -> Vec<String> {
    let keys: Vec<_> = (0..objects).map(|i| format!("photo {i}")).collect();
    for (i, key) in (0..).zip(&keys) {
        let size = if i == 7 { 17 << 20 } else { 100 * i };
        harness.bucket("b2").put_synthetic(key, Synthetic::new(i, size));
        harness.insert(key).await;
    }
    for key in &keys {
        harness.until_copied(key).await;
    }
    keys
}

fn assert_same_everywhere(harness: &Harness, keys: &[String]) {
    for key in keys {
        let of = |replica: &str| harness.bucket(replica).inspect(key).map(|o| o.content);
        let wasabi = of("wasabi");
        assert!(wasabi.is_some(), "{key}");
        assert_eq!((of("b2"), of("scw")), (wasabi, wasabi), "{key}");
    }
}

#[tokio::test]
async fn a_secondary_that_lost_its_bucket_is_filled_again_byte_for_byte() {
    let harness = Harness::new().await;
    let _daemon = harness.daemon().await;
    let keys = copied(&harness, 20).await;
    wipe(&harness.bucket("scw"));
    let (code, text) = said(&harness, &["replica", "reset", "scw", "--check"]).await;
    assert_eq!(
        (code, text.as_str()),
        (0, "20 copies of scw would be cleared and made again: 17.0 MiB\nread from b2 (20)\n")
    );
    let (code, text) = said(&harness, &["replica", "reset", "scw", "--yes"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("reset of scw: 20 copies were cleared, to be made again"), "{text}");
    for key in &keys {
        harness.until_copied(key).await;
    }
    assert_same_everywhere(&harness, &keys);
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.copy_failures").await.unwrap(), "0");
    let told = "SELECT count(*) FROM copyhold.log WHERE event_data ->> 'kind' = 'replica.reset'
                 AND event_data ->> 'replica' = 'scw' AND (event_data ->> 'before')::bigint > 1";
    assert_eq!(harness.value(told).await.unwrap(), "1");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.resets").await.unwrap(), "0");
    assert_eq!(said(&harness, &["verify", "--sample", "100%"]).await.0, 0);
}

#[tokio::test]
async fn what_it_costs_is_printed_first_and_without_a_terminal_nothing_is_done_unless_an_argument_says_so() {
    let harness = Harness::new().await;
    harness
        .execute(
            "INSERT INTO copyhold.object_copies (object_key, size_bytes, b2, wasabi, scw)
             VALUES ('a', 1024, 1, 1, 1), ('b', 2048, NULL, 1, 1), ('c', NULL, NULL, NULL, 1), ('d', 5, 1, 1, NULL)",
        )
        .await;
    let costs = "3 copies of scw are cleared and made again: 3.0 KiB, and 1 of unknown size
read from b2 (1), wasabi (1)
1 object would have no copy left anywhere: \"c\", for one\n";
    let before = harness.value("SELECT string_agg(o::text, ' ') FROM copyhold.object_copies o").await;
    for verb in ["reset", "move"] {
        if verb == "move" {
            harness.execute("UPDATE copyhold.replicas SET endpoint = 'http://elsewhere', bucket = 'old', pinned_at = 1 WHERE name = 'scw'").await;
        }
        let (code, text) = said(&harness, &["replica", verb, "scw"]).await;
        assert_eq!(code, 1, "{text}");
        assert!(text.contains(costs), "{text}");
        assert!(text.contains("nothing was changed: there is no terminal to ask on; add --yes to do it"), "{text}");
    }
    assert_eq!(harness.value("SELECT string_agg(o::text, ' ') FROM copyhold.object_copies o").await, before);
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.resets").await.unwrap(), "0");
    harness.execute("UPDATE copyhold.object_copies SET scw = NULL").await;
    let (code, text) = said(&harness, &["replica", "move", "scw"]).await;
    assert_eq!(code, 0, "nothing is on record, so nothing is asked: {text}");
}

#[tokio::test]
async fn a_primary_that_lost_its_bucket_is_filled_again_and_nothing_of_the_applications_is_written_over() {
    let harness = Harness::new().await;
    let _daemon = harness.daemon().await;
    let mut keys = copied(&harness, 20).await;
    wipe(&harness.bucket("b2"));
    // It goes on uploading: a new object, the same again, and a new content that it is about to register.
    harness.upload("later", "bytes").await;
    harness.bucket("b2").put_synthetic("photo 2", Synthetic::new(2, 200));
    harness.bucket("b2").put("photo 3", "a new content");
    let (code, text) = said(&harness, &["replica", "reset", "b2", "--yes"]).await;
    assert_eq!(code, 0, "{text}");
    let changed = keys.remove(3);
    for key in &keys {
        harness.until_copied(key).await;
    }
    harness.until_copied("later").await;
    assert_same_everywhere(&harness, &keys);
    assert_eq!(harness.bucket("b2").writes("photo 2"), 0, "what the application had put there again counts");
    let row =
        format!("SELECT b2 IS NULL AND due_b2 = {PARKED} FROM copyhold.object_copies WHERE object_key = '{changed}'");
    harness.until(&row).await;
    assert_eq!(harness.bucket("b2").get(&changed).unwrap(), "a new content");
    harness.value("SELECT copyhold.register('photo 3')").await;
    harness.until_copied(&changed).await;
    for replica in ["b2", "wasabi", "scw"] {
        assert_eq!(harness.bucket(replica).get(&changed).unwrap(), "a new content");
    }
}

#[tokio::test]
async fn a_reset_that_was_killed_goes_on_where_it_was() {
    let harness = Harness::new().await;
    harness
        .execute(
            "INSERT INTO copyhold.object_copies (object_key, b2, scw)
             SELECT 'k' || lpad(i::text, 5, '0'), 5, 5 FROM generate_series(1, 3500) i;
             UPDATE copyhold.object_copies SET due_scw = NULL WHERE object_key = 'k00001'",
        )
        .await;
    let mut application = harness.pool.begin().await.unwrap();
    let hold = "SELECT FROM copyhold.object_copies WHERE object_key = 'k02500' FOR UPDATE";
    sqlx::query(hold).execute(&mut *application).await.unwrap();
    let mut reset = harness.program(&["replica", "reset", "scw", "--yes"]).stdout(Stdio::null()).spawn().unwrap();
    // All but the row that a daemon has leased.
    harness.until("SELECT count(*) = 1 FROM copyhold.object_copies WHERE scw IS NOT NULL").await;
    reset.kill().await.unwrap();
    let reached = "SELECT reached || ' ' || cleared FROM copyhold.resets";
    assert_eq!(harness.value(reached).await.unwrap(), "k02000 3499");
    let (_, text) = said(&harness, &["status"]).await;
    assert!(
        text.contains("the reset of scw, begun ") && text.contains("`copyhold replica reset scw` goes on"),
        "{text}"
    );
    application.rollback().await.unwrap();
    let (code, text) = said(&harness, &["replica", "reset", "scw", "--yes"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("the reset of scw begun 20") && text.contains("goes on after \"k02000\""), "{text}");
    assert!(text.contains("3500 copies were cleared"), "{text}");
    let left = "SELECT count(scw) || ' ' || count(due_scw) || ' ' || (SELECT count(*) FROM copyhold.resets)
                FROM copyhold.object_copies";
    assert_eq!(harness.value(left).await.unwrap(), "0 3499 0", "what was not wanted there is not wanted now");
    let told = "SELECT count(*) FROM copyhold.log WHERE event_data ->> 'kind' = 'replica.reset'";
    assert_eq!(harness.value(told).await.unwrap(), "1");
}

#[tokio::test]
async fn what_is_recorded_after_it_began_stays_and_what_commits_late_from_before_does_not() {
    let harness = Harness::new().await;
    harness.insert("old").await;
    let mut late = harness.pool.begin().await.unwrap();
    let insert =
        "INSERT INTO copyhold.object_copies (object_key, b2) VALUES ('late', copyhold.now_utc_micro_seconds())";
    sqlx::query(insert).execute(&mut *late).await.unwrap();
    let reset = harness
        .program(&["replica", "reset", "b2", "--yes"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    harness.until("SELECT b2 IS NULL FROM copyhold.object_copies WHERE object_key = 'old'").await;
    harness.insert("new").await;
    late.commit().await.unwrap();
    let output = soon("the reset ends", reset.wait_with_output()).await.unwrap();
    let text = printed(&output);
    assert!(output.status.success() && text.contains("2 copies were cleared"), "{text}");
    let recorded = "SELECT string_agg(object_key, ' ') FROM copyhold.object_copies WHERE b2 IS NOT NULL";
    assert_eq!(harness.value(recorded).await.unwrap(), "new");
}

#[tokio::test]
async fn a_copy_that_was_under_way_to_the_lost_bucket_is_read_once_more() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    let gate = PauseGate::new();
    harness.bucket("scw").order(Fault::HoldAnswer(gate.clone()), When::op(Op::PutObject).next(1));
    harness.upload("photo", "bytes").await;
    soon("it is in the bucket, and no answer has come", gate.holds(1)).await;
    wipe(&harness.bucket("scw"));
    assert_eq!(said(&harness, &["replica", "reset", "scw", "--yes"]).await.0, 0);
    let held = "SELECT lock IS NOT NULL AND scw IS NULL FROM copyhold.object_copies";
    assert_eq!(harness.value(held).await.unwrap(), "true", "the lease is its holder's still");
    gate.open();
    harness.until_copied("photo").await;
    assert_eq!(harness.bucket("scw").get("photo"), None);
    // Long enough after that, which is shortened here.
    harness.execute("UPDATE copyhold.unsettled SET verify_at = 1, settled_at = 1").await;
    eventually("it is there", async || harness.bucket("scw").get("photo").is_some()).await;
    harness.until_copied("photo").await;
}

#[tokio::test]
async fn what_was_read_at_the_lost_primary_is_no_proof_for_the_new_one() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    harness.bucket("b2").put("photo", "bytes");
    let gate = PauseGate::new();
    harness.bucket("scw").order(Fault::Hold(gate.clone()), When::op(Op::PutObject).next(1));
    harness.bucket("wasabi").order(Fault::Hold(gate.clone()), When::op(Op::PutObject).next(1));
    harness.bucket("b2").order(Fault::HoldAnswer(gate.clone()), When::op(Op::GetObject).next(1));
    // That it is there is found out by reading it.
    harness.sql("INSERT INTO copyhold.object_copies (object_key) VALUES ($1)", "photo").await;
    soon("it is being read", gate.holds(1)).await;
    wipe(&harness.bucket("b2"));
    assert_eq!(said(&harness, &["replica", "reset", "b2", "--yes"]).await.0, 0);
    gate.open();
    harness.until_copied("photo").await;
    assert_eq!(harness.bucket("b2").get("photo"), None);
    harness.execute("UPDATE copyhold.unsettled SET verify_at = 1, settled_at = 1").await;
    eventually("it is there", async || harness.bucket("b2").get("photo").is_some()).await;
    harness.until_copied("photo").await;
}

#[tokio::test]
async fn objects_that_were_nowhere_else_are_told() {
    let harness = Harness::new().await;
    for key in ["a", "b", "c"] {
        harness.insert(key).await;
    }
    harness.execute("UPDATE copyhold.object_copies SET wasabi = 5 WHERE object_key = 'a'").await;
    let (code, text) = said(&harness, &["replica", "reset", "b2", "--check"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("2 objects would have no copy left anywhere: \"b\", for one"), "{text}");
    assert_eq!(harness.value("SELECT count(b2) FROM copyhold.object_copies").await.unwrap(), "3");
    let (code, text) = said(&harness, &["replica", "reset", "b2", "--yes"]).await;
    assert_eq!(code, 0);
    assert!(text.contains("2 objects have no copy left anywhere: \"b\", for one"), "{text}");
    // They are asked for, and wait as anything that is not there yet.
    let _daemon = harness.daemon().await;
    harness
        .until(
            "SELECT count(*) = 2 FROM copyhold.object_copies
                  WHERE object_key IN ('b', 'c') AND due_scw > copyhold.now_utc_micro_seconds()",
        )
        .await;
}

#[tokio::test]
async fn damage_at_a_primary_that_was_reset_is_not_taken_for_the_object() {
    let harness = Harness::new().await;
    let _daemon = harness.daemon().await;
    harness.upload("photo", "bytes of photo").await;
    harness.until_copied("photo").await;
    assert_eq!(said(&harness, &["replica", "reset", "b2", "--yes"]).await.0, 0);
    // It was there all the while.
    harness.until_copied("photo").await;
    harness.bucket("b2").damage("photo", 3);
    assert_eq!(said(&harness, &["verify", "photo"]).await.0, 1);
    // Its ETag is still that of the right bytes.
    harness.until(&format!("SELECT b2 IS NULL AND due_b2 = {PARKED} FROM copyhold.object_copies")).await;
    assert_eq!(harness.bucket("b2").writes("photo"), 0);
}

#[tokio::test]
async fn what_cannot_be_reset_is_said() {
    let mut harness = Harness::new().await;
    let (code, text) = said(&harness, &["replica", "reset", "swc", "--yes"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("there is no replica \"swc\"; the database has b2, scw, wasabi"), "{text}");
    let mut daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    daemon.kill().await;
    harness.rewrite(|text| text.replace("photos-scw", "another"));
    let (code, text) = said(&harness, &["replica", "reset", "scw", "--yes"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("`copyhold replica move scw` takes that into use"), "{text}");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.resets").await.unwrap(), "0");
}
