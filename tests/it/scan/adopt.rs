//! Copies that listings show at other replicas too.

use copyhold_sandbox::s3::{Fault, Op, Synthetic, When};

use super::{figures, scanned, told};
use crate::harness::Harness;

/// The first two replicas are of stores whose ETags are known to follow S3's formula, one by its provider and one because the operator
/// says so; copies at wasabi may be adopted.
async fn harness() -> Harness {
    let mut harness = Harness::new().await;
    harness.rewrite(|text| {
        text.replace("[replicas.b2]", "[replicas.b2]\nprovider = \"garage\"")
            .replace("[replicas.wasabi]", "[replicas.wasabi]\nmd5_etags = true\nexisting = \"adopt\"")
    });
    harness
}

async fn adopted(harness: &Harness) -> String {
    let sql = "SELECT coalesce(string_agg(object_key, ' ' ORDER BY object_key), '') FROM copyhold.object_copies
               WHERE wasabi IS NOT NULL AND content_hash IS NULL AND scw IS NULL";
    harness.value(sql).await.unwrap()
}

#[tokio::test]
async fn only_the_same_size_and_the_same_etag_of_the_content_make_a_copy() {
    let harness = harness().await;
    let (b2, wasabi) = (harness.bucket("b2"), harness.bucket("wasabi"));
    for (key, here, there) in [
        ("equal", "bytes", Some("bytes")),
        ("longer", "bytes", Some("bytes and more")),
        ("other", "bytes", Some("BYTES")),
        ("missing", "bytes", None),
        ("empty", "", Some("")),
    ] {
        b2.put(key, here);
        if let Some(there) = there {
            wasabi.put(key, there);
        }
    }
    wasabi.put("a stranger", "x");
    wasabi.put("zzz", "x");
    // Uploaded in parts of the same size, and of another one.
    let (big, md5) = (Synthetic::new(1, 300_000), "0123456789abcdef0123456789abcdef");
    b2.put_synthetic_as("parts/equal", big, &format!("{md5}-2"));
    wasabi.put_synthetic_as("parts/equal", big, &format!("{md5}-2"));
    b2.put_synthetic_as("parts/otherwise", big, &format!("{md5}-2"));
    wasabi.put_synthetic_as("parts/otherwise", big, &format!("{md5}-3"));
    // ETags by no known formula: equal ones prove nothing.
    b2.put_synthetic_as("odd", big, "abc");
    wasabi.put_synthetic_as("odd", big, "abc");

    let (_, dry) = scanned(&harness, &["--adopt", "--dry-run"]).await;
    let (code, report) = scanned(&harness, &["--adopt"]).await;
    assert_eq!((code, figures(&report)), (0, [8, 8, 0, 3, 0]));
    assert_eq!((figures(&dry), &dry["copies_due"]), (figures(&report), &report["copies_due"]));
    assert_eq!(adopted(&harness).await, "empty equal parts/equal");
    assert_eq!(report["copies_due"], 2 * 8 - 3);
    assert_eq!(report["not_adopted"][0]["why"], "say existing = \"adopt\" in [replicas.scw]");
    // Recorded as of the listing, with one event each, and still wanted elsewhere.
    harness.until("SELECT bool_and(wasabi <= created_at) FROM copyhold.object_copies").await;
    let told = "SELECT count(*) = 3 AND bool_and(event_data -> 'replicas' = '[\"wasabi\"]'
                    AND event_data ->> 'complete' = 'false' AND event_data ->> 'content_hash' IS NULL)
                FROM copyhold.log WHERE event_data ->> 'kind' = 'object.copied'";
    harness.until(told).await;
    // The daemons compare the others with the source, and park what is another content.
    let _daemon = harness.daemon().await;
    harness.until_copied("missing").await;
    harness
        .until("SELECT due_wasabi = 9000000000000000000 FROM copyhold.object_copies WHERE object_key = 'other'")
        .await;
    assert_eq!(wasabi.get("other").unwrap(), "BYTES");
}

#[tokio::test]
async fn an_etag_of_a_store_whose_formula_is_unknown_proves_nothing() {
    let mut harness = harness().await;
    harness.rewrite(|text| text.replacen("provider = \"garage\"", "provider = \"generic\"", 1));
    harness.bucket("b2").put("equal", "bytes");
    harness.bucket("wasabi").put("equal", "bytes");
    assert_eq!(figures(&scanned(&harness, &["--adopt"]).await.1), [1, 1, 0, 0, 0]);
}

#[tokio::test]
async fn a_registered_row_takes_a_copy_over_only_if_it_is_what_was_listed() {
    let harness = harness().await;
    let keys = ["fits", "leased", "read", "sized", "parked", "unwanted", "lost", "swept"];
    for key in keys {
        harness.bucket("b2").put(key, "bytes");
        harness.bucket("wasabi").put(key, "bytes");
        harness.insert(key).await;
    }
    harness
        .execute(
            "UPDATE copyhold.object_copies SET lock = 9e15, lease = 1 WHERE object_key = 'leased';
             UPDATE copyhold.object_copies SET content_hash = 1, size_bytes = 5 WHERE object_key = 'read';
             UPDATE copyhold.object_copies SET size_bytes = 6 WHERE object_key = 'sized';
             UPDATE copyhold.object_copies SET due_wasabi = 9000000000000000000 WHERE object_key = 'parked';
             UPDATE copyhold.object_copies SET due_wasabi = NULL WHERE object_key = 'unwanted';
             UPDATE copyhold.object_copies SET b2 = NULL WHERE object_key = 'lost';
             INSERT INTO copyhold.unsettled (object_key, replica, verify_at, settled_at) VALUES ('swept', 'wasabi', 8e18, 8e18)",
        )
        .await;
    let generation = "SELECT generation FROM copyhold.object_copies WHERE object_key = 'fits'";
    let before = harness.value(generation).await;
    let (_, dry) = scanned(&harness, &["--adopt", "--dry-run"]).await;
    let (code, report) = scanned(&harness, &["--adopt"]).await;
    assert_eq!((code, figures(&report), figures(&dry)), (0, [8, 0, 8, 1, 0], [8, 0, 8, 1, 0]));
    assert_eq!((adopted(&harness).await.as_str(), harness.value(generation).await), ("fits", before));
}

#[tokio::test]
async fn a_listing_of_another_replica_that_fails_leads_to_no_conclusion() {
    let harness = harness().await;
    for key in ["a", "b"] {
        harness.bucket("b2").put(key, "bytes");
        harness.bucket("wasabi").put(key, "bytes");
    }
    let denied = harness.bucket("wasabi").order(Fault::access_denied(), When::op(Op::ListObjectsV2));
    let (code, text) = told(&harness, &["--adopt"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains(
            "wasabi could not be listed further, and no copy was adopted there from then on: ListObjectsV2: 403"
        ),
        "{text}"
    );
    assert_eq!(adopted(&harness).await, "");
    denied.clear();
    assert_eq!(figures(&scanned(&harness, &["--adopt"]).await.1), [2, 0, 2, 2, 0]);
}
