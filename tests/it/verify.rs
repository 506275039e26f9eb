//! `copyhold verify` compares the records with what the stores have, and clears false ones.

mod command;
mod metadata;

use copyhold_core::domain::{Failure, FailureClass, Generation};
use copyhold_db::{
    lease::FencedWrite,
    object::{FalseRecord, Revocation},
};
use copyhold_sandbox::s3::{BucketOptions, Fault, Op, PauseGate, Synthetic, When};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Harness, key, printed, replica, soon};

const PARKED: &str = "9000000000000000000";

/// Runs `verify`; its exit code and all that it printed.
async fn verified(harness: &Harness, arguments: &[&str]) -> (i32, String) {
    let output = harness.run(&[&["verify"], arguments].concat()).await;
    (output.status.code().unwrap(), printed(&output))
}

/// The same as a document.
async fn report(harness: &Harness, arguments: &[&str]) -> (i32, Value) {
    let output = harness.run(&[&["verify", "--json"], arguments].concat()).await;
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", printed(&output)));
    (output.status.code().unwrap(), document)
}

fn of<'a>(report: &'a Value, replica: &str) -> &'a Value {
    report["replicas"].as_array().unwrap().iter().find(|r| r["replica"] == replica).unwrap()
}

/// A harness whose objects a daemon has copied everywhere, without any daemon now.
async fn copied(keys: &[&str]) -> Harness {
    let harness = Harness::new().await;
    copy_to_all(&harness, keys).await;
    harness
}

async fn copy_to_all(harness: &Harness, keys: &[&str]) {
    for key in keys {
        harness.upload(key, format!("bytes of {key}")).await;
    }
    let mut daemon = harness.daemon().await;
    for key in keys {
        harness.until_copied(key).await;
    }
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
}

/// The row's state: for each replica, `ok` if recorded, `due`, `parked`, or `-`.
async fn row(harness: &Harness, key: &str) -> String {
    let state = |r: &str| {
        format!(
            "CASE WHEN {r} IS NOT NULL THEN 'ok' WHEN due_{r} = {PARKED} THEN 'parked' \
             WHEN due_{r} <= copyhold.now_utc_micro_seconds() THEN 'due' ELSE '-' END"
        )
    };
    let states = ["b2", "wasabi", "scw"].map(state).join(", ");
    let key = key.replace('\'', "''");
    let query = format!("SELECT concat_ws(' ', {states}) FROM copyhold.object_copies WHERE object_key = '{key}'");
    harness.value(&query).await.unwrap()
}

#[tokio::test]
async fn what_is_as_recorded_is_read_and_left_as_it_is() {
    let harness = copied(&["a", "b"]).await;
    let before =
        harness.value("SELECT string_agg(o::text, '|' ORDER BY object_key) FROM copyhold.object_copies o").await;
    let (code, found) = report(&harness, &["--sample", "100%"]).await;
    assert_eq!(code, 0, "{found}");
    assert_eq!((&found["outcome"], &found["objects"]), (&"fine".into(), &2.into()));
    for replica in ["b2", "wasabi", "scw"] {
        let tally = of(&found, replica);
        assert_eq!((&tally["copies"], &tally["identical"]), (&2.into(), &2.into()));
        assert_eq!((&tally["bytes_read"], &tally["requests"]), (&20.into(), &2.into()));
    }
    let after =
        harness.value("SELECT string_agg(o::text, '|' ORDER BY object_key) FROM copyhold.object_copies o").await;
    assert_eq!(before, after);
    let (code, text) = verified(&harness, &["a"]).await;
    assert_eq!(code, 0);
    let told = "3 of 3 copies on record of 1 object checked in ";
    assert!(text.contains(told) && text.contains("; all of them are as recorded"), "{text}");
}

#[tokio::test]
async fn damage_at_rest_and_a_missing_copy_are_found_and_healed_by_a_running_daemon() {
    let harness = copied(&["photo", "other"]).await;
    harness.bucket("wasabi").damage("photo", 3);
    harness.bucket("scw").delete("photo");
    let (code, text) = verified(&harness, &["--prefix", "p"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("damaged at wasabi, due again: \"photo\""), "{text}");
    assert!(text.contains("missing at scw, due again: \"photo\""), "{text}");
    assert!(text.contains("2 are missing or wrong, their records were cleared"), "{text}");
    assert_eq!(row(&harness, "photo").await, "ok due due");
    let explained = printed(&harness.run(&["explain", "photo"]).await);
    for why in [
        "corrupt: replica wasabi: its copy has other bytes than were recorded",
        "the same in two readings",
        "found by `copyhold verify`",
        "gone: source scw: GetObject: 404 NoSuchKey",
    ] {
        assert!(explained.contains(why), "no {why} in\n{explained}");
    }
    let _daemon = harness.daemon().await;
    harness.until_copied("photo").await;
    for replica in ["wasabi", "scw"] {
        assert_eq!(harness.bucket(replica).get("photo").unwrap(), "bytes of photo");
    }
    // While it runs.
    harness.bucket("scw").damage("other", 0);
    assert_eq!(verified(&harness, &["other"]).await.0, 1);
    harness.until_copied("other").await;
    assert_eq!(verified(&harness, &["--sample", "100%"]).await.0, 0);
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.copy_failures").await.unwrap(), "0");
}

#[tokio::test]
async fn what_rotted_at_the_primary_is_left_there_and_copied_back_once_it_is_removed() {
    let mut harness = Harness::new().await;
    harness.rewrite(|text| text.replace("[replicas.b2]", "[replicas.b2]\nexisting = \"overwrite\""));
    copy_to_all(&harness, &["photo"]).await;
    harness.bucket("b2").damage("photo", 1);
    let (code, text) = verified(&harness, &["photo"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("damaged at b2, parked: \"photo\""), "{text}");
    assert!(text.contains("it is damaged: nothing there says that it was written anew"), "{text}");
    assert_eq!(row(&harness, "photo").await, "parked ok ok");
    let _daemon = harness.daemon().await;
    let rotten = harness.bucket("b2").get("photo");
    // Whatever its section says of what was there before.
    assert!(harness.run(&["retry", "photo"]).await.status.success());
    harness.until("SELECT class = 'refused' FROM copyhold.copy_failures WHERE replica = 'b2'").await;
    assert_eq!((row(&harness, "photo").await, harness.bucket("b2").get("photo")), ("parked ok ok".into(), rotten));
    harness.bucket("b2").delete("photo");
    assert!(harness.run(&["retry", "photo"]).await.status.success());
    harness.until_copied("photo").await;
    assert_eq!(harness.bucket("b2").get("photo").unwrap(), "bytes of photo");
}

#[tokio::test]
async fn what_was_written_over_at_the_primary_is_no_damage_and_is_registered_again() {
    let harness = copied(&["photo"]).await;
    harness.bucket("b2").put("photo", "the application's");
    let (code, text) = verified(&harness, &["photo", "--dry-run"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("changed at b2, left as it is: \"photo\""), "{text}");
    assert_eq!(row(&harness, "photo").await, "ok ok ok");
    let (code, text) = verified(&harness, &["photo"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("changed at b2, registered again: \"photo\""), "{text}");
    assert_eq!(row(&harness, "photo").await, "ok due due");
    let why = "SELECT string_agg(replica || ' ' || class, ', ' ORDER BY replica) FROM copyhold.copy_failures";
    assert_eq!(harness.value(why).await.unwrap(), "scw changed, wasabi changed");
    let _daemon = harness.daemon().await;
    harness.until_copied("photo").await;
    for replica in ["b2", "wasabi", "scw"] {
        assert_eq!(harness.bucket(replica).get("photo").unwrap(), "the application's");
    }
}

#[tokio::test]
async fn what_may_be_damage_or_a_new_content_at_the_primary_waits_for_an_operators_decision() {
    let harness = copied(&["photo"]).await;
    // As after an upload in parts within the second of the first: the ETag proves nothing.
    let modified = harness.bucket("b2").inspect("photo").unwrap().modified;
    harness.bucket("b2").put_synthetic_in_parts("photo", Synthetic::new(7, 100), 50);
    harness.bucket("b2").set_modified("photo", modified);
    let (code, text) = verified(&harness, &["photo"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("damaged at b2, parked: \"photo\""), "{text}");
    assert!(text.contains("It may be damaged or a new content"), "{text}");
    assert_eq!(row(&harness, "photo").await, "parked ok ok");
    assert_eq!(harness.bucket("b2").inspect("photo").unwrap().content.size_bytes, 100);
}

#[tokio::test]
async fn an_object_without_a_good_copy_is_reported_as_such_and_nothing_of_it_is_copied() {
    let harness = copied(&["photo"]).await;
    harness.execute("UPDATE copyhold.object_copies SET wasabi = NULL, scw = NULL, due_scw = NULL").await;
    harness.bucket("b2").damage("photo", 2);
    let (code, text) = verified(&harness, &["photo"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("NO GOOD COPY IS LEFT"), "{text}");
    // wasabi is parked too: the next daemon would take what is at the primary for the object. scw is not wanted.
    assert_eq!(row(&harness, "photo").await, "parked parked -");
    let why = "SELECT string_agg(replica || ' ' || class || ' ' || left(message, 20), ', ' ORDER BY replica)
               FROM copyhold.copy_failures";
    let said = "no good copy is left";
    assert_eq!(harness.value(why).await.unwrap(), format!("b2 corrupt {said}, wasabi corrupt {said}"));
    let hash = "SELECT content_hash IS NOT NULL FROM copyhold.object_copies";
    assert_eq!(harness.value(hash).await.unwrap(), "true");
    let _daemon = harness.daemon().await;
    harness.upload("later", "bytes").await;
    harness.until_copied("later").await;
    assert_eq!(row(&harness, "photo").await, "parked parked -");
    // Its owner still has the bytes.
    harness.bucket("b2").put("photo", "bytes of photo");
    assert!(harness.run(&["retry", "photo"]).await.status.success());
    harness
        .until("SELECT b2 IS NOT NULL AND wasabi IS NOT NULL FROM copyhold.object_copies WHERE object_key = 'photo'")
        .await;
    assert_eq!(verified(&harness, &["photo"]).await.0, 0);
}

#[tokio::test]
async fn an_object_that_is_registered_again_while_it_is_read_is_not_damaged() {
    let harness = copied(&["photo"]).await;
    let gate = PauseGate::new();
    harness.bucket("wasabi").put("photo", "newer");
    // The second reading of what is other than recorded waits.
    harness.bucket("wasabi").order(Fault::HoldAnswer(gate.clone()), When::op(Op::GetObject).skip(1).next(1));
    let running = harness.run(&["verify", "photo", "--replica", "wasabi", "--json"]);
    let again = async {
        soon("the copy is read again", gate.holds(1)).await;
        harness.value("SELECT copyhold.register('photo')").await;
        harness.execute("UPDATE copyhold.object_copies SET wasabi = 7").await;
        gate.open();
    };
    let (output, ()) = tokio::join!(running, again);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    // There is nothing left that it could say.
    assert_eq!(output.status.code(), Some(2), "{found}");
    assert_eq!((&of(&found, "wasabi")["changed_meanwhile"], &of(&found, "wasabi")["damaged"]), (&1.into(), &0.into()));
    assert_eq!(harness.value("SELECT wasabi FROM copyhold.object_copies").await.unwrap(), "7");
}

#[tokio::test]
async fn a_leased_object_is_taken_back_when_its_lease_has_ended() {
    let harness = copied(&["photo"]).await;
    harness.bucket("scw").delete("photo");
    harness.execute("UPDATE copyhold.object_copies SET lock = 8000000000000000000, lease = 7").await;
    let mut holder = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM copyhold.object_copies FOR UPDATE").execute(&mut *holder).await.unwrap();
    let freed = async {
        // Asked twice for what is not there, then it wants to write.
        soon("the copy is looked for", harness.bucket("scw").arrived(Op::GetObject, 2)).await;
        assert_eq!(row(&harness, "photo").await, "ok ok ok");
        holder.commit().await.unwrap();
        harness.execute("UPDATE copyhold.object_copies SET lock = NULL, lease = NULL").await;
    };
    let ((code, text), ()) = tokio::join!(verified(&harness, &["photo"]), freed);
    assert_eq!(code, 1, "{text}");
    assert_eq!(row(&harness, "photo").await, "ok ok due");
}

#[tokio::test]
async fn a_record_is_cleared_only_if_the_row_is_the_one_that_was_checked_and_is_not_locked() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    harness.execute("UPDATE copyhold.object_copies SET scw = 7, due_wasabi = NULL").await;
    let queue = harness.queue();
    let object = queue.recorded_of(&[key("photo")]).await.unwrap().remove(0);
    let why = Failure::new(FailureClass::Gone, "not there");
    let refuted = |at| FalseRecord { replica: replica("scw"), recorded_at: at, park: false, why: why.clone() };
    let what =
        |at, generation| Revocation { key: key("photo"), generation, refuted: vec![refuted(at)], park_the_rest: true };
    let asked = async |at, generation| queue.revoke(&what(at, generation)).await.unwrap();
    let now = object.generation;
    assert_eq!(asked(8, now).await, FencedWrite::Superseded);
    assert_eq!(asked(7, Generation(now.0 + 1)).await, FencedWrite::Superseded);
    harness.execute("UPDATE copyhold.object_copies SET lock = 8000000000000000000, lease = 7").await;
    assert_eq!(asked(7, now).await, FencedWrite::RowLocked);
    harness.execute("UPDATE copyhold.object_copies SET lock = NULL, lease = NULL").await;
    let mut holder = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM copyhold.object_copies FOR UPDATE").execute(&mut *holder).await.unwrap();
    assert_eq!(asked(7, now).await, FencedWrite::RowLocked);
    assert_eq!(asked(8, now).await, FencedWrite::Superseded);
    holder.commit().await.unwrap();
    assert_eq!(row(&harness, "photo").await, "ok - ok");
    assert_eq!(asked(7, now).await, FencedWrite::Applied);
    // What is on record stays so, and what is not wanted too.
    assert_eq!(row(&harness, "photo").await, "ok - due");
    assert_eq!(asked(7, now).await, FencedWrite::Superseded);
    let told = "SELECT replica || ' ' || class || ' ' || message || ' ' || attempts FROM copyhold.copy_failures";
    assert_eq!(harness.value(told).await.unwrap(), "scw gone not there 0");
}

#[tokio::test]
async fn an_unavailable_store_is_unknown_and_given_up_and_the_others_are_verified() {
    let keys: Vec<_> = (0..40).map(|i| format!("k{i:02}")).collect();
    let harness = copied(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    harness.bucket("wasabi").order(Fault::forbidden("AccessDenied"), When::op(Op::GetObject));
    harness.bucket("scw").damage("k39", 0);
    let (code, found) = report(&harness, &["--prefix", "k"]).await;
    assert_eq!(code, 2);
    assert_eq!((&found["outcome"], &found["objects"]), (&"incomplete".into(), &40.into()));
    assert_eq!(of(&found, "wasabi")["unreadable"], 40);
    let gave_up = of(&found, "wasabi")["gave_up"].as_str().unwrap();
    assert!(gave_up.starts_with("20 copies in a row could not be read, the last: source wasabi: GetObject: 403"));
    assert!(harness.bucket("wasabi").calls(Op::GetObject) < 40);
    assert_eq!((&of(&found, "scw")["damaged"], &of(&found, "scw")["identical"]), (&1.into(), &39.into()));
    assert_eq!(harness.value("SELECT count(wasabi) FROM copyhold.object_copies").await.unwrap(), "40");
    let (code, text) = verified(&harness, &["k00", "--replica", "wasabi"]).await;
    assert_eq!(code, 2);
    assert!(text.contains("could not be read, and stays as it is\n  wasabi of \"k00\": source wasabi: "), "{text}");
}

#[tokio::test]
async fn bytes_that_are_damaged_on_the_way_are_no_damage_of_the_copy() {
    let harness = copied(&["once", "always"]).await;
    let flip = |n| When::op(Op::GetObject).key("once").next(n);
    harness.bucket("wasabi").order(Fault::FlipBody { at: 3 }, flip(1));
    let bucket = harness.bucket("scw");
    for at in 0..3 {
        bucket.order(Fault::FlipBody { at }, When::op(Op::GetObject).key("always").next(1));
    }
    let (code, found) = report(&harness, &["once", "always"]).await;
    assert_eq!(code, 2);
    let wasabi = of(&found, "wasabi");
    assert_eq!((&wasabi["identical"], &wasabi["damaged_on_the_way"]), (&2.into(), &1.into()));
    assert_eq!((&of(&found, "scw")["identical"], &of(&found, "scw")["unreadable"]), (&1.into(), &1.into()));
    assert_eq!(row(&harness, "always").await, "ok ok ok");
}

#[tokio::test]
async fn bytes_that_a_proxy_decompresses_on_the_way_are_no_damage_of_the_copy() {
    let harness = copied(&["photo"]).await;
    harness.bucket("wasabi").order(Fault::Decompress { ranges: false }, When::op(Op::GetObject));
    let (code, found) = report(&harness, &["photo"]).await;
    assert_eq!((code, row(&harness, "photo").await.as_str()), (2, "ok ok ok"), "{found}");
    assert_eq!(of(&found, "wasabi")["unreadable"], 1, "{found}");
}

#[tokio::test]
async fn a_quick_look_believes_the_store_as_far_as_it_says_something_and_says_so() {
    let mut harness = copied(&["photo", "gone", "short"]).await;
    // A store that keeps checksums; of the other that is unknown.
    harness.rewrite(|text| text.replace("[replicas.scw]", "[replicas.scw]\nprovider = \"aws\""));
    let (wasabi, scw) = (harness.bucket("wasabi"), harness.bucket("scw"));
    scw.declare_crc64("photo");
    // Neither store has noticed.
    scw.damage("photo", 1);
    wasabi.damage("photo", 1);
    wasabi.delete("gone");
    wasabi.put("short", "short");
    let before = (wasabi.calls(Op::GetObject), scw.calls(Op::GetObject));
    let (code, found) = report(&harness, &["--quick", "--sample", "100%"]).await;
    assert_eq!(code, 1);
    let told = |replica: &str| {
        ["same_checksum", "same_size", "identical", "missing", "damaged"].map(|of_it| {
            let number = &of(&found, replica)[of_it];
            number.as_u64().unwrap()
        })
    };
    assert_eq!(told("scw"), [1, 2, 0, 0, 0]);
    assert_eq!(told("wasabi"), [0, 1, 0, 1, 1]);
    // What does not fit is looked into, and nothing else is read.
    assert_eq!((wasabi.calls(Op::GetObject), scw.calls(Op::GetObject)), (before.0 + 4, before.1));
    let (_, text) = verified(&harness, &["--quick", "photo"]).await;
    assert!(text.contains("same checksum") && text.contains("without --quick its bytes are read"), "{text}");
    // A checksum that is not the one on record is no news to be believed either.
    scw.put("photo", "bytes of phoTo");
    scw.declare_crc64("photo");
    let (code, found) = report(&harness, &["--quick", "photo", "--replica", "scw"]).await;
    assert_eq!((code, &of(&found, "scw")["damaged"]), (1, &1.into()));
}

#[tokio::test]
async fn a_bucket_that_is_not_the_pinned_one_is_not_taken_for_it() {
    let mut harness = copied(&["photo"]).await;
    harness.s3.create_bucket("another", BucketOptions::default());
    harness.rewrite(|text| text.replace("photos-wasabi", "another"));
    let (code, text) = verified(&harness, &["photo"]).await;
    assert_eq!(code, 2);
    assert!(text.contains("wasabi was not verified: its recorded copies are in bucket photos-wasabi"), "{text}");
    assert_eq!(row(&harness, "photo").await, "ok ok ok");
}
