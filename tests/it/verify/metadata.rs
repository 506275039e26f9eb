//! `copyhold verify` and the metadata of copies.

use copyhold_sandbox::s3::{Metadata, Op};

use super::{of, report, row, verified};
use crate::harness::{Harness, printed};

fn colour(colour: &str) -> Metadata {
    Metadata::none().with("x-amz-meta-colour", colour)
}

/// An object with a colour, copied everywhere; no daemon runs.
async fn red() -> Harness {
    let harness = Harness::new().await;
    harness.bucket("b2").put_with("photo", "bytes", colour("red"));
    harness.insert("photo").await;
    let _daemon = harness.daemon().await;
    harness.until_copied("photo").await;
    harness
}

#[tokio::test]
async fn a_copy_that_has_lost_its_metadata_is_found_by_every_kind_of_verification_and_made_again() {
    for arguments in [&["--metadata"][..], &[], &["--quick"]] {
        let harness = red().await;
        harness.bucket("wasabi").put_with("photo", "bytes", colour("blue"));
        let arguments = |more: &[&'static str]| [&["photo"], arguments, more].concat();
        let (code, text) = verified(&harness, &arguments(&["--dry-run"])).await;
        assert_eq!((code, row(&harness, "photo").await.as_str()), (1, "ok ok ok"), "{text}");
        assert!(text.contains("other metadata at wasabi, left as it is: \"photo\""), "{text}");
        let (code, text) = verified(&harness, &arguments(&[])).await;
        assert_eq!((code, row(&harness, "photo").await.as_str()), (1, "ok due ok"), "{text}");
        assert!(text.contains("in two answers: x-amz-meta-colour differs; found by `copyhold verify`"), "{text}");
        let _daemon = harness.daemon().await;
        harness.until_copied("photo").await;
        assert_eq!(harness.bucket("wasabi").inspect("photo").unwrap().metadata.get("x-amz-meta-colour"), Some("red"));
        assert_eq!(verified(&harness, &arguments(&[])).await.0, 0);
    }
}

#[tokio::test]
async fn metadata_alone_is_compared_without_reading_a_byte() {
    let harness = red().await;
    let reads = || ["b2", "wasabi", "scw"].map(|replica| harness.bucket(replica).calls(Op::GetObject));
    let before = reads();
    let (code, found) = report(&harness, &["photo", "--metadata", "--requests-per-second", "1000"]).await;
    assert_eq!((code, &found["outcome"], &found["metadata"]), (0, &"fine".into(), &true.into()), "{found}");
    for replica in ["b2", "wasabi", "scw"] {
        let tally = of(&found, replica);
        assert_eq!((&tally["same_metadata"], &tally["requests"]), (&1.into(), &1.into()), "{found}");
    }
    assert_eq!(reads(), before);
}

#[tokio::test]
async fn what_was_never_compared_is_counted_and_then_held_against_the_primarys() {
    let harness = red().await;
    // As a scan leaves it that has adopted copies from a listing.
    harness.execute("UPDATE copyhold.object_copies SET metadata_hash = NULL").await;
    harness.bucket("scw").put_with("photo", "bytes", colour("blue"));
    let status = harness.run(&["status"]).await;
    let told = "metadata not compared: 1 copy at scw, 1 copy at wasabi";
    assert!(printed(&status).contains(told), "{}", printed(&status));
    let (code, found) = report(&harness, &["photo"]).await;
    let counts = ["b2", "wasabi", "scw"].map(|replica| of(&found, replica)["metadata_not_compared"].clone());
    assert_eq!((code, counts), (0, [0.into(), 1.into(), 1.into()]), "{found}");
    let (code, text) = verified(&harness, &["photo", "--metadata", "--replica", "scw"]).await;
    assert_eq!((code, text.contains("NOT COMPLETE")), (2, true), "without the primary: {text}");
    // Looked at and not written down.
    let (code, text) = verified(&harness, &["photo", "--metadata", "--dry-run"]).await;
    assert_eq!(code, 1, "{text}");
    assert_eq!(harness.value("SELECT metadata_hash IS NULL FROM copyhold.object_copies").await.unwrap(), "true");
    let (code, text) = verified(&harness, &["photo", "--metadata"]).await;
    assert_eq!((code, row(&harness, "photo").await.as_str()), (1, "ok ok due"), "{text}");
    assert!(!printed(&harness.run(&["status"]).await).contains("metadata not compared"));
    let json: serde_json::Value = serde_json::from_slice(&harness.run(&["status", "--json"]).await.stdout).unwrap();
    assert_eq!(json["replicas"][1]["metadata_not_compared"], 0, "{json}");
}

#[tokio::test]
async fn metadata_that_was_changed_at_the_primary_begins_a_generation_and_an_earlier_one_is_parked() {
    let harness = red().await;
    let b2 = harness.bucket("b2");
    let modified = b2.inspect("photo").unwrap().modified;
    b2.put_with("photo", "bytes", colour("blue"));
    b2.set_modified("photo", modified - std::time::Duration::from_hours(1));
    let (code, text) = verified(&harness, &["photo", "--metadata"]).await;
    assert_eq!((code, row(&harness, "photo").await.as_str()), (1, "parked ok ok"), "{text}");
    assert!(text.contains("an earlier state has come back"), "{text}");

    let harness = red().await;
    let b2 = harness.bucket("b2");
    b2.put_with("photo", "bytes", colour("blue"));
    b2.set_modified("photo", modified + std::time::Duration::from_hours(1));
    let (code, text) = verified(&harness, &["photo", "--metadata"]).await;
    assert_eq!((code, row(&harness, "photo").await.as_str()), (1, "ok due due"), "{text}");
    assert!(text.contains("changed at b2, registered again: \"photo\""), "{text}");
    let _daemon = harness.daemon().await;
    harness.until_copied("photo").await;
    assert_eq!(harness.bucket("scw").inspect("photo").unwrap().metadata.get("x-amz-meta-colour"), Some("blue"));
}

#[tokio::test]
async fn where_copies_may_differ_in_metadata_none_is_taken_back_for_it() {
    let mut harness = red().await;
    harness.bucket("wasabi").put_with("photo", "bytes", colour("blue"));
    harness.rewrite(|text| text.replace("[replicas.wasabi]\n", "[replicas.wasabi]\naltered_metadata = \"accept\"\n"));
    assert_eq!(verified(&harness, &["photo", "--metadata"]).await.0, 0);
    assert_eq!(verified(&harness, &["photo"]).await.0, 0);
}
