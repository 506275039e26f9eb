//! The arguments of `copyhold verify`, its report and its exit codes.

use std::process::Stdio;

use copyhold_db::walk::{KeySample, ObjectRange};
use copyhold_sandbox::s3::{Fault, Op, PauseGate, When};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{copied, of, report, verified};
use crate::harness::{Harness, soon};

#[tokio::test]
async fn a_sample_is_about_as_large_as_was_asked_for_and_the_same_with_the_same_seed() {
    let harness = Harness::new().await;
    harness
        .execute(
            "INSERT INTO copyhold.object_copies (object_key, b2) SELECT 'k' || i, 1 FROM generate_series(1, 25000) i",
        )
        .await;
    let queue = harness.queue();
    let drawn = async |seed| {
        let range = ObjectRange { prefix: None, sample: Some(KeySample { share: 0.01, seed }) };
        let (mut keys, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = queue.recorded_page(&range, after.as_ref()).await.unwrap();
            pages += 1;
            keys.extend(page.objects.into_iter().map(|object| object.key));
            after = page.last;
            if after.is_none() {
                return (keys, pages);
            }
        }
    };
    let (sample, pages) = drawn(7).await;
    // 250, five standard deviations either way.
    assert!((171..329).contains(&sample.len()), "{}", sample.len());
    assert!(sample.is_sorted() && pages == 11, "{pages}");
    // Rows move about in the table, and others come.
    harness.execute("UPDATE copyhold.object_copies SET size_bytes = 1").await;
    harness.insert("k25001x").await;
    let again = drawn(7).await.0;
    assert_eq!(again.iter().filter(|k| k.as_str() != "k25001x").cloned().collect::<Vec<_>>(), sample);
    let other = drawn(8).await.0;
    assert!(other.iter().filter(|k| sample.contains(k)).count() < 20);
    let (code, found) = report(&harness, &["--sample", "1%", "--seed", "7"]).await;
    assert_eq!((code, found["objects"].as_u64().unwrap()), (2, again.len() as u64));
    assert_eq!((&found["sample"]["seed"], &found["sample"]["percent"]), (&7.into(), &1.0.into()));
    assert_eq!(of(&found, "b2")["not_known_yet"], found["objects"]);
    let drawn_for_us = report(&harness, &["--sample", "1%"]).await.1["sample"]["seed"].as_u64();
    assert!(drawn_for_us.is_some());
}

#[tokio::test]
async fn a_prefix_means_its_own_bytes() {
    let harness = Harness::new().await;
    let keys =
        ["a%b", "axb", "a_b/1", "a_b/2", "a\\b", "a\\", "\u{1f600}", "\u{1f600}x", "\u{1f601}", "a'b", "\u{10ffff}z"];
    for key in keys {
        harness.insert(key).await;
    }
    for (prefix, found) in [
        ("a%", 1),
        ("a_", 2),
        ("a_b/", 2),
        ("a\\", 2),
        ("\u{1f600}", 2),
        ("a'", 1),
        ("\u{10ffff}", 1),
        ("a", 7),
        ("axb", 1),
    ] {
        let (code, report) = report(&harness, &["--prefix", prefix]).await;
        // No daemon has read any of them, so there is nothing to compare.
        assert_eq!((code, report["objects"].as_u64()), (2, Some(found)), "{prefix}");
    }
    let (code, text) = verified(&harness, &["--prefix", "A\u{1b}"]).await;
    assert_eq!((code, text.as_str()), (2, "error: no key that begins with \"A\\u{1b}\" is registered\n"));
}

#[tokio::test]
async fn what_was_stopped_says_how_to_go_on() {
    let keys = ["k0", "k1", "k2", "k3", "k4"];
    let harness = copied(&keys).await;
    harness.bucket("scw").damage("k4", 0);
    let gate = PauseGate::new();
    let held = harness.bucket("b2").order(Fault::Hold(gate.clone()), When::op(Op::GetObject).key("k2"));
    let mut command = harness.program(&["verify", "--prefix", "k", "--workers", "1", "--json"]);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    soon("the third is being read", gate.holds(1)).await;
    kill_process(pid, Signal::INT).unwrap();
    let output = soon("it ends", child.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["stopped"], &found["up_to"], &found["objects"]), (&true.into(), &"k1".into(), &2.into()));
    held.clear();
    let (code, found) = report(&harness, &["--prefix", "k", "--after", "k1"]).await;
    assert_eq!((code, &found["objects"], &found["up_to"]), (1, &3.into(), &Value::Null));
    assert_eq!(found["findings"][0]["key"], "k4");
}

#[tokio::test]
async fn the_document_names_everything_and_has_no_surprises() {
    let harness = copied(&["photo\u{7}"]).await;
    harness.bucket("scw").damage("photo\u{7}", 0);
    let (_, mut found) = report(&harness, &["photo\u{7}", "absent", "--replica", "scw", "--replica", "scw"]).await;
    let why = found["findings"][0]["why"].take();
    assert!(why.as_str().unwrap().starts_with("replica scw: its copy has other bytes than were recorded"), "{why}");
    assert!(found["seconds"].take().as_f64().unwrap() > 0.0);
    assert_eq!(
        found,
        json!({
            "outcome": "incomplete", "quick": false, "metadata": false, "dry_run": false, "sample": null, "objects": 1, "seconds": null,
            "replicas": [{
                "replica": "scw", "primary": false, "copies": 1, "identical": 0, "same_checksum": 0, "same_size": 0, "same_metadata": 0,
                "missing": 0, "damaged": 1, "other_metadata": 0, "metadata_not_compared": 0, "changed": 0, "not_known_yet": 0, "unreadable": 0, "changed_meanwhile": 0,
                "damaged_on_the_way": 0, "taken_back": 1, "not_written": 0, "bytes_read": 30, "requests": 2, "gave_up": null
            }],
            "not_verified": [],
            "findings": [{ "key": "photo\u{7}", "replica": "scw", "what": "damaged", "then": "requeued", "why": null }],
            "findings_not_listed": 0, "lost": [], "lost_not_listed": 0, "unreadable": [], "unreadable_not_listed": 0,
            "not_registered": ["absent"], "stopped": false, "error": null, "up_to": null
        })
    );
    let (_, text) = verified(&harness, &["photo\u{7}", "--dry-run"]).await;
    assert!(!text.contains('\u{7}'), "{text}");
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_in_words() {
    let mut harness = copied(&["photo"]).await;
    harness.rewrite(|text| text.replace("[replicas.scw]", "[replicas.scw]\nread = false"));
    for (arguments, words) in [
        (
            ["--replica", "absent", "photo"].as_slice(),
            "there is no replica \"absent\"; the configuration has b2, scw, wasabi",
        ),
        (&["--replica", "scw", "photo"], "--replica: scw cannot be verified: read = false in [replicas.scw]"),
        (&["--prefix", ""], "--prefix is empty; if all objects are meant, say --sample 100%"),
        (&["--prefix", "x"], "no key that begins with \"x\" is registered"),
        (&["--sample", "0%"], "more than 0% and at most 100%"),
        (&["--sample", "101%"], "more than 0% and at most 100%"),
        (&["--sample", "0.1"], "say how many per cent: 0.1%"),
        (&["photo", "--prefix", "p"], "cannot be used with"),
        (&["--seed", "1", "photo"], "--sample"),
        (&["--workers", "0", "photo"], "a number from 1 to 256"),
        (&[""], "a key cannot be empty"),
        (&[], "required arguments were not provided"),
        (&["absent"], "not registered\n  \"absent\""),
    ] {
        let (code, text) = verified(&harness, arguments).await;
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
    // What the configuration excludes is reported, and is no fault.
    let (code, text) = verified(&harness, &["photo"]).await;
    assert_eq!(code, 0);
    assert!(text.contains("scw was not verified: read = false"), "{text}");
}
