//! `copyhold scan` registers all objects of a bucket from its listing, once, and touches nothing else.

mod adopt;
mod crash;
mod faults;

use std::collections::BTreeSet;

use copyhold_sandbox::s3::{BucketOptions, GeneratedListing, Op};
use serde_json::Value;

use crate::harness::{Harness, bucket, printed, replica};

/// Runs a scan to its end; its exit code and what it reports.
async fn scanned(harness: &Harness, arguments: &[&str]) -> (i32, Value) {
    let output = harness.run(&[&["scan", "--json"], arguments].concat()).await;
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code().unwrap(), report.unwrap_or_else(|_| panic!("{}", printed(&output))))
}

/// The same for people.
async fn told(harness: &Harness, arguments: &[&str]) -> (i32, String) {
    let output = harness.run(&[&["scan"], arguments].concat()).await;
    (output.status.code().unwrap(), printed(&output))
}

async fn registered(harness: &Harness) -> BTreeSet<String> {
    let keys: Vec<String> =
        sqlx::query_scalar("SELECT object_key FROM copyhold.object_copies").fetch_all(&harness.pool).await.unwrap();
    keys.into_iter().collect()
}

async fn count(harness: &Harness, of: &str) -> i64 {
    harness.value(&format!("SELECT count(*) FROM copyhold.{of}")).await.unwrap().parse().unwrap()
}

/// Counts of a report.
fn figures(report: &Value) -> [u64; 5] {
    ["listed", "registered", "already_registered", "adopted", "unusable"].map(|name| report[name].as_u64().unwrap())
}

#[tokio::test]
async fn what_a_bucket_holds_is_registered_byte_for_byte_and_its_copies_are_made() {
    let harness = Harness::new().await;
    let keys = [
        " ",
        "+",
        "%2F",
        "a+b c%20",
        "a",
        "a/b",
        "a//b",
        "/a",
        "photos/",
        "photos/1",
        "\u{1}",
        "\n",
        "\u{7f}",
        "\u{fc}",
        "u\u{308}",
        "\u{1f600}",
        "\u{10ffff}",
        "&amp;<x>",
        "~",
    ];
    for key in keys {
        harness.bucket("b2").put(key, if key == "photos/" { Vec::new() } else { format!("of {key}").into_bytes() });
    }
    let (code, report) = scanned(&harness, &[]).await;
    assert_eq!((code, &report["outcome"]), (0, &"complete".into()));
    assert_eq!(figures(&report), [19, 19, 0, 0, 0]);
    assert_eq!(registered(&harness).await, keys.iter().map(|&key| key.to_owned()).collect());
    // As an application would have registered it: nothing is proven, and the size is the listing's.
    harness
        .until(
            "SELECT bool_and(b2 IS NOT NULL AND content_hash IS NULL AND size_bytes IS NOT NULL AND due_wasabi IS NOT NULL)
                AND bool_or(size_bytes = 0) FROM copyhold.object_copies",
        )
        .await;
    let size: u64 = harness.bucket("b2").list().iter().map(|object| object.content.size_bytes).sum();
    assert_eq!((report["registered_bytes"].as_u64(), report["copies_due"].as_u64()), (Some(size), Some(38)));
    let _daemon = harness.daemon().await;
    // The SDK takes a key of nothing but blanks for none: those are parked, and reported.
    for key in keys.into_iter().filter(|key| !key.trim().is_empty()) {
        harness.until_copied(key).await;
        assert_eq!(harness.bucket("scw").get(key), harness.bucket("b2").get(key), "{key:?}");
    }
}

#[tokio::test]
async fn what_is_registered_already_keeps_its_generation_and_all_that_is_known_of_it() {
    let harness = Harness::new().await;
    for key in ["a", "b", "c"] {
        harness.bucket("b2").put(key, "bytes");
    }
    harness.insert("b").await;
    harness.insert("not there").await;
    let row = "SELECT row_to_json(o) FROM copyhold.object_copies o WHERE object_key = 'b'";
    let before = harness.value(row).await;
    assert_eq!(figures(&scanned(&harness, &[]).await.1), [3, 2, 1, 0, 0]);
    assert_eq!(harness.value(row).await, before);
    // Of what is not listed nothing is concluded, and a scan that has ended is no beginning of the next.
    assert_eq!(registered(&harness).await.len(), 4);
    harness.bucket("b2").put("0", "new");
    assert_eq!(figures(&scanned(&harness, &[]).await.1), [4, 1, 3, 0, 0]);
    assert_eq!(count(&harness, "scans").await, 1);
}

#[tokio::test]
async fn parts_that_are_listed_at_the_same_time_leave_nothing_out_at_their_borders() {
    let harness = Harness::new().await;
    let mut keys = BTreeSet::new();
    for folder in ["", "\u{e9}", "a", "b/c", "d e", "\u{1f600}", "zz"] {
        for i in 0..60 {
            let folder = format!("{folder}{i:02}/");
            // The border itself, what stands just before and behind it, and what is in it.
            let name = folder.trim_end_matches('/');
            keys.extend([folder.clone(), name.to_owned(), format!("{folder}\u{10ffff}"), format!("{name}0")]);
            keys.extend([format!("{name}00"), format!("{name}/0"), format!("{name}-"), format!("{name}-x/1")]);
            keys.extend((0..5).map(|n| format!("{folder}{n}")));
        }
    }
    for key in &keys {
        harness.bucket("b2").put(key, "x");
    }
    let (code, report) = scanned(&harness, &["--parallel", "7"]).await;
    assert_eq!((code, report["parts"].as_u64()), (0, Some(32)));
    assert_eq!(figures(&report)[..2], [keys.len() as u64; 2]);
    assert_eq!(registered(&harness).await, keys);
    // Where all is in one folder, it is cut further down.
    harness.s3.create_bucket(&bucket("b2"), BucketOptions::default());
    for i in 0..40 {
        harness.bucket("b2").put(&format!("all/of/it/{i}/x"), "x");
    }
    let (_, report) = scanned(&harness, &["--prefix", "al"]).await;
    assert_eq!((report["parts"].as_u64(), report["registered"].as_u64()), (Some(32), Some(40)));
}

#[tokio::test]
async fn only_what_begins_with_a_prefix_is_registered_and_nothing_twice() {
    let harness = Harness::new().await;
    for key in ["a", "a/1", "a/2", "a/2/x", "a0", "b/1", "b%2F1", "c/1"] {
        harness.bucket("b2").put(key, "x");
    }
    let (code, report) =
        scanned(&harness, &["--prefix", "a/2", "--prefix", "a/", "--prefix", "c/", "--prefix", "b%2F"]).await;
    assert_eq!((code, figures(&report)), (0, [5, 5, 0, 0, 0]));
    let expected = ["a/1", "a/2", "a/2/x", "b%2F1", "c/1"];
    assert_eq!(registered(&harness).await, expected.map(str::to_owned).into());
}

#[tokio::test]
async fn a_prefix_that_matches_nothing_is_no_failure_and_is_said() {
    let harness = Harness::new().await;
    let (code, text) = told(&harness, &[]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("replica b2: its bucket is empty"), "{text}");
    harness.bucket("b2").put("photos/1", "x");
    let (code, text) = told(&harness, &["--prefix", "Photos/\u{1b}", "--prefix", "x"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("replica b2: nothing begins with \"Photos/\\u{1b}\" or \"x\""), "{text}");
    assert_eq!(registered(&harness).await.len(), 0);
}

#[tokio::test]
async fn a_dry_run_counts_the_same_and_writes_nothing() {
    let harness = Harness::new().await;
    for key in ["a", "b", "cold/1"] {
        harness.bucket("b2").put(key, "bytes");
    }
    harness.insert("a").await;
    harness.execute("INSERT INTO copyhold.rules (position, prefix, replicas) VALUES (1, 'cold/', '{wasabi}')").await;
    let everything = "SELECT jsonb_build_array((SELECT jsonb_agg(o) FROM copyhold.object_copies o),
                      (SELECT jsonb_agg(r) FROM copyhold.replicas r), (SELECT count(*) FROM copyhold.scans),
                      (SELECT last_value FROM copyhold.generations))";
    let before = harness.value(everything).await;
    let (code, dry) = scanned(&harness, &["--dry-run"]).await;
    assert_eq!((code, harness.value(everything).await), (0, before));
    let (_, text) = told(&harness, &["--dry-run"]).await;
    assert!(text.contains("would be registered  2") && text.contains("nothing was written (--dry-run)"), "{text}");
    let (_, wet) = scanned(&harness, &[]).await;
    assert_eq!((figures(&dry), figures(&wet)), ([3, 2, 1, 0, 0], [3, 2, 1, 0, 0]));
    for same in ["registered_bytes", "copies_due"] {
        assert_eq!(dry[same], wet[same], "{same}");
    }
    assert_eq!(wet["copies_due"], 3, "two of b, and by the rule one of cold/1");
}

#[tokio::test]
async fn the_rules_in_force_say_where_copies_are_wanted_and_the_primary_has_them_always() {
    let harness = Harness::new().await;
    harness.execute("INSERT INTO copyhold.rules (position, prefix, replicas) VALUES (1, 'cold/', '{wasabi}')").await;
    for key in ["cold/1", "warm/1"] {
        harness.bucket("b2").put(key, "x");
    }
    harness.bucket("scw").put("cold/2", "x");
    assert_eq!(scanned(&harness, &[]).await.0, 0);
    // A scan of another replica: its copies are stated, and the primary's are due.
    assert_eq!(figures(&scanned(&harness, &["--replica", "scw"]).await.1), [1, 1, 0, 0, 0]);
    let rows = "SELECT string_agg(concat_ws(' ', object_key,
                    CASE WHEN b2 IS NOT NULL THEN 'B2' WHEN due_b2 IS NOT NULL THEN 'b2' END,
                    CASE WHEN wasabi IS NOT NULL THEN 'WASABI' WHEN due_wasabi IS NOT NULL THEN 'wasabi' END,
                    CASE WHEN scw IS NOT NULL THEN 'SCW' WHEN due_scw IS NOT NULL THEN 'scw' END), ', ' ORDER BY object_key)
                FROM copyhold.object_copies";
    let expected = "cold/1 B2 wasabi, cold/2 b2 wasabi SCW, warm/1 B2 wasabi scw";
    assert_eq!(harness.value(rows).await.as_deref(), Some(expected));
}

#[tokio::test]
async fn keys_that_cannot_be_kept_are_counted_and_one_of_them_is_told() {
    let harness = Harness::new().await;
    let long = "k".repeat(1025);
    for key in ["a", "b\0", long.as_str(), "z\0"] {
        harness.bucket("b2").put(key, "x");
    }
    let (code, report) = scanned(&harness, &[]).await;
    assert_eq!((code, figures(&report)), (0, [4, 1, 0, 0, 3]));
    assert_eq!(report["unusable_example"], "\"b\\u{0}\": a key with a NUL byte cannot be kept in PostgreSQL");
    let (_, text) = told(&harness, &[]).await;
    assert!(text.contains("unusable keys cannot be registered") && !text.contains('\0'), "{text}");
    // And where there is nothing else.
    harness.bucket("b2").delete("a");
    assert_eq!(figures(&scanned(&harness, &["--from-start"]).await.1), [3, 0, 0, 0, 3]);
}

#[tokio::test]
async fn many_pages_take_no_more_requests_than_they_are() {
    let harness = Harness::new().await;
    harness
        .s3
        .create_bucket(&bucket("b2"), BucketOptions::generated(GeneratedListing { objects: 7_500, per_folder: 2_500 }));
    let (code, report) = scanned(&harness, &[]).await;
    assert_eq!((code, figures(&report)), (0, [7_500, 7_500, 0, 0, 0]));
    // Three parts of three pages each, and where to cut, and whether that can be.
    assert_eq!((report["parts"].as_u64(), report["stores"][0]["pages"].as_u64()), (Some(4), Some(2 + 3 + 3 + 3 + 1)));
    assert_eq!(harness.bucket("b2").calls(Op::ListObjectsV2), 12);
}

#[tokio::test]
async fn what_the_application_registers_does_not_wait_behind_what_a_scan_has_found() {
    let harness = Harness::new().await;
    harness.insert("before").await;
    harness
        .s3
        .create_bucket(&bucket("b2"), BucketOptions::generated(GeneratedListing { objects: 500, per_folder: 100 }));
    assert_eq!(scanned(&harness, &[]).await.0, 0);
    harness.insert("later").await;
    let (queue, daemon) = (harness.queue(), harness.enlist(60).await);
    let fresh = queue.claim_fresh(&daemon, &replica("wasabi"), 2).await.unwrap().leases;
    let mut keys: Vec<_> = fresh.iter().map(|lease| lease.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["before", "later"]);
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_in_words() {
    let mut harness = Harness::new().await;
    for (arguments, code, words) in [
        (
            ["--replica", "absent"].as_slice(),
            1,
            "there is no replica \"absent\"; the configuration has b2, scw, wasabi",
        ),
        (&["--prefix", ""], 1, "--prefix is empty; leave it away if all objects are meant"),
        (&["--prefix", &"x".repeat(1025)], 1, "a key has at most 1024 bytes"),
        (&["--parallel", "0"], 2, "a number from 1 to 64"),
        (&["--requests-per-second", "0"], 2, "a number from 0.01 to 10000"),
        (
            &["--adopt"],
            1,
            "no replica whose copies may be adopted: scw: say existing = \"adopt\" in [replicas.scw]; wasabi:",
        ),
    ] {
        let (found, text) = told(&harness, arguments).await;
        assert_eq!(found, code, "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
    assert_eq!(scanned(&harness, &[]).await.0, 0);
    // Its bucket is another one by now.
    harness.rewrite(|text| text.replace("photos-b2", "photos-scw").replacen("photos-scw", "photos-b2x", 1));
    let (code, text) = told(&harness, &[]).await;
    assert_eq!(code, 1);
    assert!(text.contains("replica b2 is not scanned: its recorded copies are in bucket photos-b2 at"), "{text}");
}
