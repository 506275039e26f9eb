//! `check --probe` finds out what a store does differently, and leaves its objects as they were.

use std::process::Stdio;

use copyhold_s3::store::{Metadata, Store};
use copyhold_sandbox::s3::{BucketOptions, Fault, Op, PauseGate, Quirk, When};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::harness::{Harness, key, printed, replica, soon};

/// A harness in which the bucket of scw is like this.
async fn with(options: BucketOptions) -> Harness {
    let harness = Harness::new().await;
    harness.s3.create_bucket("photos-scw", options);
    harness
}

/// What is known of scw after it was measured, and the exit code.
async fn probe(harness: &Harness, more: &[&str]) -> (Value, i32) {
    let output = harness.run(&[&["check", "--probe", "--json", "--replica", "scw"], more].concat()).await;
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", printed(&output)));
    assert!(!printed(&output).contains("sandbox-secret"));
    (json["probes"][0].clone(), output.status.code().unwrap())
}

fn fact<'j>(probe: &'j Value, name: &str) -> &'j Value {
    let facts = probe["facts"].as_array().unwrap();
    facts.iter().find(|fact| fact["name"] == name).unwrap_or_else(|| panic!("no {name} in {probe:#}"))
}

#[track_caller]
fn says(probe: &Value, name: &str, measured: &str) {
    assert_eq!(fact(probe, name)["measured"], measured, "{:#}", fact(probe, name));
}

fn fails(probe: &Value) -> Vec<&str> {
    probe["fails"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

/// No object, version, marker or upload in the bucket.
fn is_empty(harness: &Harness) -> bool {
    let scw = harness.bucket("scw");
    scw.keys().is_empty() && scw.versions().is_empty() && scw.uploads().is_empty()
}

#[tokio::test]
async fn a_sound_store_is_measured_and_left_as_it_was() {
    let harness = with(BucketOptions::default()).await;
    let (probe, code) = probe(&harness, &[]).await;
    assert_eq!((code, fails(&probe)), (0, vec![]), "{probe:#}");
    for name in
        ["checks_md5", "checks_md5_on_parts", "takes_crc64", "checks_crc64", "etag_is_md5", "etag_is_md5_of_md5s"]
    {
        says(&probe, name, "yes");
    }
    for name in ["reads_back", "ranges", "if_match", "if_none_match", "overwrites", "system_metadata", "user_metadata"]
    {
        says(&probe, name, "yes");
    }
    for name in
        ["key_double_slash", "key_control", "key_leading_slash", "key_1024", "lists_all", "starts_after", "uploads"]
    {
        says(&probe, name, "yes");
    }
    for name in ["twins_capitals", "twins_normal_form", "twins_invisible", "twins_trimmed", "twins_slashes"] {
        says(&probe, name, "yes");
    }
    for name in ["twins_segments", "twins_escapes", "twins_cut", "twins_replaced", "twins_long"] {
        says(&probe, name, "yes");
    }
    says(&probe, "small_parts", "no");
    says(&probe, "keeps_versions", "no");
    assert_eq!((&probe["left"], &probe["unmeasured"]), (&Value::Array(vec![]), &Value::Null));
    assert!(is_empty(&harness), "{:?}", harness.bucket("scw").keys());
}

#[tokio::test]
async fn a_store_that_accepts_a_wrong_md5_is_found_out() {
    let mut harness = with(BucketOptions::default().with(Quirk::IgnoresHashes)).await;
    let (measured, code) = probe(&harness, &[]).await;
    says(&measured, "checks_md5", "no");
    says(&measured, "checks_md5_on_parts", "no");
    // Nothing relied upon it: copies are proven by ETags.
    assert_eq!((code, fails(&measured)), (0, vec![]), "{measured:#}");
    // Where the configuration claims that the store checks, copies would be recorded unproven.
    harness.rewrite(|text| text.replace("bucket = \"photos-scw\"", "bucket = \"photos-scw\"\nchecks_md5 = true"));
    let (measured, code) = probe(&harness, &[]).await;
    assert_eq!((code, fails(&measured)), (1, vec!["checks_md5", "checks_md5_on_parts"]), "{measured:#}");
    assert_eq!(fact(&measured, "checks_md5")["advice"], "checks_md5 = false");
    assert!(is_empty(&harness));
}

#[tokio::test]
async fn a_store_that_keeps_what_it_refuses_does_not_pass_for_one_that_checks() {
    let harness = with(BucketOptions::default().with(Quirk::KeepsWhatItRefuses)).await;
    let (probe, _) = probe(&harness, &[]).await;
    says(&probe, "checks_md5", "no");
    let seen = fact(&probe, "checks_md5")["detail"].as_str().unwrap();
    assert_eq!(seen, "400 BadDigest, and the object is there all the same");
    assert!(is_empty(&harness));
}

#[tokio::test]
async fn where_etags_prove_nothing_the_setting_that_spares_reading_back_is_named() {
    let mut harness = with(BucketOptions::default().with(Quirk::OpaqueEtags)).await;
    let (measured, code) = probe(&harness, &[]).await;
    says(&measured, "etag_is_md5", "no");
    says(&measured, "etag_is_md5_of_md5s", "no");
    assert_eq!(fact(&measured, "checks_md5")["advice"], "checks_md5 = true");
    assert_eq!(code, 0);
    // Once it is configured, nothing more is reported.
    harness.rewrite(|text| text.replace("bucket = \"photos-scw\"", "bucket = \"photos-scw\"\nchecks_md5 = true"));
    let (measured, code) = probe(&harness, &[]).await;
    assert_eq!((&fact(&measured, "checks_md5")["advice"], code), (&Value::Null, 0));
}

#[tokio::test]
async fn a_store_that_tidies_keys_is_no_place_for_copies() {
    let harness = with(BucketOptions::default().with(Quirk::TidiesKeys)).await;
    let (probe, code) = probe(&harness, &[]).await;
    assert_eq!(code, 1);
    let found = fails(&probe);
    assert!(found.contains(&"key_double_slash") && found.contains(&"key_dot"), "{found:?}");
    assert!(!found.contains(&"key_blank") && !found.contains(&"reads_back"), "{found:?}");
    assert!(is_empty(&harness), "{:?}", harness.bucket("scw").keys());
}

#[tokio::test]
async fn keys_that_are_tidied_are_no_failure_where_the_profile_refuses_them() {
    let mut harness = with(BucketOptions::default().with(Quirk::TidiesKeys)).await;
    harness.rewrite(|text| text.replace("bucket = \"photos-scw\"", "bucket = \"photos-scw\"\nprovider = \"minio\""));
    let (probe, code) = probe(&harness, &[]).await;
    says(&probe, "key_double_slash", "no");
    // Which MinIO holds, and so its profile does not refuse.
    assert_eq!((code, fails(&probe)), (1, vec!["key_trailing_slash", "twins_slashes"]), "{probe:#}");
}

/// Measures a store of this habit, which takes two keys for one; its message names both and says what to do.
async fn takes_for_one(habit: Quirk, family: &str, pair: &str) {
    // Once of one version, and once of all.
    for options in [BucketOptions::default(), BucketOptions::versioned()] {
        let harness = with(options.with(habit)).await;
        let (probe, code) = probe(&harness, &[]).await;
        assert_eq!(code, 1, "{probe:#}");
        assert!(fails(&probe).contains(&family), "{:?}", fails(&probe));
        let detail = fact(&probe, family)["detail"].as_str().unwrap();
        assert!(detail.contains(pair) && detail.contains("never register both"), "{detail}");
        assert!(is_empty(&harness), "{:?}", harness.bucket("scw").keys());
    }
}

#[tokio::test]
async fn a_store_that_takes_keys_of_different_capitals_for_one_fails_and_its_keys_are_named() {
    takes_for_one(Quirk::FoldsCapitals, "twins_capitals", r#""Photo.JPG" and "PHOTO.JPG""#).await;
}

#[tokio::test]
async fn a_store_that_composes_letters_and_accents_fails_and_its_keys_are_named() {
    takes_for_one(Quirk::ComposesKeys, "twins_normal_form", r#""caf\u{e9}" and "cafe\u{301}""#).await;
}

#[tokio::test]
async fn a_store_that_drops_blanks_and_dots_at_an_end_fails_and_its_keys_are_named() {
    takes_for_one(Quirk::TrimsKeys, "twins_trimmed", r#""a " and "a..""#).await;
}

#[tokio::test]
async fn a_store_that_drops_slashes_fails_and_its_keys_are_named() {
    takes_for_one(Quirk::TidiesKeys, "twins_slashes", r#""x//y" and "x/y//""#).await;
}

#[tokio::test]
async fn a_store_that_decodes_keys_twice_fails_and_its_keys_are_named() {
    takes_for_one(Quirk::DecodesTwice, "twins_escapes", r#""aA" and "a%41""#).await;
}

#[tokio::test]
async fn an_empty_etag_at_the_end_of_an_upload_is_no_other_etag_where_a_look_shows_the_right_one() {
    let mut harness = with(BucketOptions::default().with(Quirk::CompletesWithoutEtag)).await;
    harness.rewrite(|text| text.replace("bucket = \"photos-scw\"", "bucket = \"photos-scw\"\nprovider = \"ceph\""));
    let (probe, code) = probe(&harness, &[]).await;
    says(&probe, "uploads", "yes");
    says(&probe, "etag_is_md5_of_md5s", "yes");
    assert_eq!((code, fails(&probe), &probe["differs"]), (0, vec![], &Value::Array(vec![])), "{probe:#}");
}

#[tokio::test]
async fn keys_that_are_refused_are_no_failure_and_those_that_look_like_an_unhealthy_store_name_their_setting() {
    let options = BucketOptions { max_key_bytes: 950, ..BucketOptions::default() };
    let harness = with(options.with(Quirk::RefusesUntidyKeys)).await;
    let (probe, code) = probe(&harness, &[]).await;
    says(&probe, "key_double_slash", "no");
    says(&probe, "key_leading_slash", "no");
    assert_eq!(fact(&probe, "key_dot")["detail"], "refused: 400 XMinioInvalidObjectName");
    assert_eq!(fact(&probe, "key_1024")["advice"], "max_key_bytes = 900");
    assert_eq!((code, fails(&probe)), (0, vec![]), "{probe:#}");
    assert!(is_empty(&harness));
}

#[tokio::test]
async fn lost_metadata_and_ignored_conditions_are_seen() {
    let harness = with(BucketOptions::default().with(Quirk::ForgetsMetadata).with(Quirk::IgnoresConditions)).await;
    let (probe, code) = probe(&harness, &[]).await;
    assert_eq!((code, fails(&probe)), (1, vec!["system_metadata", "user_metadata"]), "{probe:#}");
    let lost = fact(&probe, "system_metadata")["detail"].as_str().unwrap();
    assert!(lost.starts_with("Content-Type, Content-Encoding,"), "{lost}");
    says(&probe, "if_match", "no");
    says(&probe, "if_none_match", "no");
}

#[tokio::test]
async fn crc64_is_distinguished_from_a_store_that_does_not_know_it() {
    let harness = with(BucketOptions::default().with(Quirk::RefusesCrc64)).await;
    let (probe, code) = probe(&harness, &[]).await;
    says(&probe, "takes_crc64", "no");
    says(&probe, "takes_crc64_on_parts", "no");
    says(&probe, "checks_md5", "yes");
    assert_eq!(code, 0);
}

#[tokio::test]
async fn of_a_versioned_bucket_no_version_and_no_marker_stays() {
    let harness = with(BucketOptions::versioned()).await;
    let (measured, code) = probe(&harness, &[]).await;
    says(&measured, "keeps_versions", "yes");
    assert_eq!((code, &measured["left"]), (0, &Value::Array(vec![])), "{measured:#}");
    assert!(is_empty(&harness), "{:?}", harness.bucket("scw").versions());
    // Nor where the bucket says nothing of versions, and does not list them either.
    harness.bucket("scw").order(Fault::answer(400, "MalformedXML"), When::op(Op::GetBucketVersioning));
    harness.bucket("scw").order(Fault::answer(400, "MalformedXML"), When::op(Op::ListObjectVersions));
    let (measured, _) = probe(&harness, &[]).await;
    assert!(is_empty(&harness), "{measured:#} {:?}", harness.bucket("scw").versions());
}

#[tokio::test]
async fn a_bucket_with_a_default_retention_is_not_written_to_unless_told() {
    let harness = with(BucketOptions::locked(7)).await;
    let (measured, code) = probe(&harness, &[]).await;
    let why = measured["unmeasured"]["why"].as_str().unwrap();
    assert!(why.starts_with("the bucket keeps what is written (GOVERNANCE, 7 days), so nothing was written"), "{why}");
    assert_eq!((code, harness.bucket("scw").successes(Op::PutObject)), (0, 0));
    assert!(is_empty(&harness));

    let (measured, code) = probe(&harness, &["--probe-locked"]).await;
    says(&measured, "checks_md5", "yes");
    let left = measured["left"].as_array().unwrap();
    assert!(left.len() > 10 && left.iter().all(|left| left["why"].as_str().unwrap().contains("AccessDenied")));
    assert_eq!((code, measured["retention"].as_str()), (0, Some("GOVERNANCE, 7 days")));
    // What would break other people's listings for so long is not written.
    assert!(harness.bucket("scw").keys().iter().all(|key| !key.contains(char::is_control)));
}

#[tokio::test]
async fn what_a_probe_left_in_a_locked_bucket_does_not_count_as_data() {
    let harness = with(BucketOptions::locked(7)).await;
    probe(&harness, &["--probe-locked"]).await;
    let left = harness.bucket("scw").keys().len();
    assert!(left > 10, "{left}");
    let text = printed(&harness.run(&["check"]).await);
    assert!(text.lines().any(|line| line.starts_with("ok    scw") && line.contains("is empty")), "{text}");
    // The configuration does not say what to do with existing data, and there is none.
    harness.upload("photo", "bytes").await;
    let _daemon = harness.daemon().await;
    harness.until_copied("photo").await;
    let output = harness.run(&["scan", "--replica", "scw", "--json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", printed(&output)));
    assert_eq!((output.status.code(), &report["listed"]), (Some(0), &Value::from(1)), "{report:#}");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies").await.unwrap(), "1");
    // What is beside it still counts.
    harness.s3.create_bucket("photos-wasabi", BucketOptions::default());
    harness.bucket("wasabi").put(".copyhold-probe/another/first", "theirs");
    harness.execute("UPDATE copyhold.replicas SET existing = NULL, writable_at = NULL WHERE name = 'wasabi'").await;
    let text = printed(&harness.run(&["check"]).await);
    assert!(text.lines().any(|line| line.starts_with("FAIL  wasabi") && line.contains("already holds data")), "{text}");
}

#[tokio::test]
async fn a_bucket_that_hides_whether_it_is_locked_is_not_written_to() {
    let harness = with(BucketOptions::default()).await;
    harness.bucket("scw").order(Fault::access_denied(), When::op(Op::GetObjectLockConfiguration));
    let (measured, code) = probe(&harness, &[]).await;
    assert!(
        measured["unmeasured"]["why"].as_str().unwrap().contains("GetBucketObjectLockConfiguration"),
        "{measured:#}"
    );
    // Nothing was measured, and the configuration does not say that this is right.
    assert_eq!(code, 1);
    assert_eq!(harness.bucket("scw").calls(Op::PutObject), 0);
}

#[tokio::test]
async fn without_the_right_to_remove_only_one_object_is_written_and_named() {
    let harness = with(BucketOptions::default()).await;
    harness.bucket("scw").order(Fault::access_denied(), When::op(Op::DeleteObject));
    let (measured, code) = probe(&harness, &[]).await;
    assert!(measured["unmeasured"]["why"].as_str().unwrap().contains("cannot be removed"), "{measured:#}");
    let keys = harness.bucket("scw").keys();
    let [key] = &keys[..] else { panic!("{keys:?}") };
    assert_eq!((code, measured["left"][0]["key"].as_str()), (1, Some(key.as_str())), "{measured:#}");
}

#[tokio::test]
async fn without_the_right_to_write_nothing_is_left_to_remove() {
    let harness = with(BucketOptions::default()).await;
    harness.bucket("scw").order(Fault::access_denied(), When::op(Op::PutObject));
    let (measured, _) = probe(&harness, &[]).await;
    assert!(
        measured["unmeasured"]["why"].as_str().unwrap().starts_with("nothing can be written: PutObject: 403"),
        "{measured:#}"
    );
    assert_eq!(measured["left"], Value::Array(vec![]));
}

#[tokio::test]
async fn a_primary_need_not_be_writable() {
    let harness = Harness::new().await;
    harness.bucket("b2").order(Fault::access_denied(), When::op(Op::PutObject));
    let output = harness.run(&["check", "--probe", "--replica", "b2"]).await;
    let text = printed(&output);
    assert!(text.contains("not measured: nothing can be written: PutObject: 403 AccessDenied"), "{text}");
    assert_eq!(output.status.code(), Some(0), "{text}");
}

#[tokio::test]
async fn foreign_objects_and_uploads_are_not_touched_whatever_a_listing_says() {
    let all = [BucketOptions::default(), BucketOptions::versioned()];
    for options in all.into_iter().flat_map(|options| [options.clone().with(Quirk::IgnoresPrefixes), options]) {
        let harness = with(options.clone()).await;
        let scw = harness.bucket("scw");
        let foreign = ["a", "photos/a//b", ".copyhold-probe/another/first", ".copyhold-probe", "/.copyhold-probe/x"];
        for key in foreign {
            scw.put(key, "foreign");
        }
        let store = Store::connect(&harness.config.replica(&replica("scw")).unwrap().into(), 1).await.unwrap();
        let upload = store.create_multipart(&key(".copyhold-probe/another/big"), &Metadata::default()).await.unwrap();
        let (objects, versions) = (scw.list(), scw.versions());
        let (measured, _) = probe(&harness, &[]).await;
        assert_eq!((scw.list(), scw.versions()), (objects, versions), "{options:?} {measured:#}");
        assert!(foreign.iter().all(|key| scw.writes(key) == 0));
        assert_eq!(scw.uploads().len(), 1, "{upload:?} is not ours");
        assert_eq!(measured["left"], Value::Array(vec![]));
    }
}

#[tokio::test]
async fn a_store_that_falls_ill_in_the_middle_is_cleared_all_the_same() {
    let harness = with(BucketOptions::default()).await;
    // The first ones are well; then nothing but removing works.
    harness.bucket("scw").order(Fault::answer(500, "InternalError"), When::op(Op::PutObject).skip(12));
    harness.bucket("scw").order(Fault::LoseAnswer, When::op(Op::CreateMultipartUpload).skip(1));
    let (measured, code) = probe(&harness, &[]).await;
    assert_eq!((code, &measured["left"]), (1, &Value::Array(vec![])), "{measured:#}");
    assert!(is_empty(&harness), "{:?} {:?}", harness.bucket("scw").keys(), harness.bucket("scw").uploads());
}

#[tokio::test]
async fn told_to_stop_it_removes_what_it_wrote_and_says_so() {
    let harness = with(BucketOptions::versioned()).await;
    let scw = harness.bucket("scw");
    let gate = PauseGate::new();
    scw.order(Fault::Hold(gate.clone()), When::op(Op::PutObject).skip(8).next(1));
    let mut command = harness.program(&["check", "--probe", "--replica", "scw"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    soon("a write is under way", gate.holds(1)).await;
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = soon("it says that it stops", said.next_line()).await.unwrap().unwrap();
    assert!(first.starts_with("stopping: what was written is being removed"), "{first}");
    // What is under way may end, and is removed after that.
    assert!(!is_empty(&harness));
    gate.open();
    let output = soon("it ends", child.wait_with_output()).await.unwrap();
    let text = printed(&output);
    assert!(text.contains("not measured further: it was told to stop"), "{text}");
    assert!(is_empty(&harness), "{text} {:?}", scw.versions());
}

#[tokio::test]
async fn the_table_says_beforehand_what_is_written_and_afterwards_what_to_set() {
    let harness = with(BucketOptions { max_key_bytes: 950, ..BucketOptions::default() }).await;
    let output = harness.run(&["check", "--probe"]).await;
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for replica in ["b2", "scw", "wasabi"] {
        let writes = format!("{replica}: writes some 80 objects of a few bytes and some uploads in parts");
        assert!(text.contains(&writes), "{text}");
        assert!(harness.bucket(replica).keys().is_empty());
    }
    assert!(text.find("scw: writes some 80").unwrap() < text.find("scw (provider = \"generic\")").unwrap());
    assert!(text.contains("set in [replicas.scw]:\n    max_key_bytes = 900"), "{text}");
    assert!(!text.contains("set in [replicas.b2]"), "{text}");
}

#[tokio::test]
async fn a_cold_storage_class_is_hinted_at_by_every_check() {
    let mut harness = Harness::new().await;
    let cold = "bucket = \"photos-scw\"\nprovider = \"scaleway\"\nstorage_class = \"GLACIER\"";
    harness.rewrite(|text| text.replace("bucket = \"photos-scw\"", cold));
    let text = printed(&harness.run(&["check"]).await);
    assert!(
        text.contains("GLACIER must be restored before it can be read: say read = false in [replicas.scw]"),
        "{text}"
    );
}
