//! Listings that fail, lie, or are in no known order.

use std::time::Duration;

use copyhold_sandbox::s3::{BucketOptions, Fault, GeneratedListing, Op, Quirk, When};

use super::{count, figures, registered, scanned, told};
use crate::harness::{Harness, bucket, soon};

const LIST: Op = Op::ListObjectsV2;

/// A harness whose primary's bucket is like this and lists so many objects.
async fn listing(objects: u64, options: BucketOptions) -> Harness {
    let harness = Harness::new().await;
    let generated = Some(GeneratedListing { objects, per_folder: 1_000_000 });
    harness.s3.create_bucket(&bucket("b2"), BucketOptions { generated, ..options });
    harness
}

#[tokio::test]
async fn a_store_that_throttles_is_asked_less_often_and_listed_to_the_end() {
    let harness = listing(3_000, BucketOptions::default()).await;
    harness.bucket("b2").order(Fault::slow_down(), When::op(LIST).skip(2).next(3));
    harness.bucket("b2").order(Fault::slow_down_for(Duration::from_secs(1)), When::op(LIST).next(1));
    let (code, report) = scanned(&harness, &[]).await;
    assert_eq!((code, figures(&report)), (0, [3_000, 3_000, 0, 0, 0]));
    assert_eq!(report["stores"][0]["throttled"], 4);
    harness.bucket("b2").order(Fault::slow_down(), When::op(LIST).next(1));
    let (_, text) = told(&harness, &[]).await;
    assert!(text.contains("b2 asked to be spared 1 time, and was asked less often"), "{text}");
}

#[tokio::test]
async fn a_scan_that_is_denied_half_way_concludes_nothing_and_the_same_command_goes_on() {
    let harness = listing(5_000, BucketOptions::default()).await;
    let denied = harness.bucket("b2").order(Fault::access_denied(), When::op(LIST).skip(5));
    let (code, text) = told(&harness, &[]).await;
    assert_eq!(code, 1, "{text}");
    for words in [
        "replica b2: ListObjectsV2: 403 AccessDenied",
        "NOT COMPLETE",
        "what was listed is registered, nothing is concluded of the rest, and the same command goes on from here",
    ] {
        assert!(text.contains(words), "{text}");
    }
    let first = registered(&harness).await;
    assert_eq!(first.len(), 3_000, "three pages, behind two that say where to cut");
    denied.clear();
    harness.bucket("b2").forget_counts();
    let (code, report) = scanned(&harness, &[]).await;
    assert_eq!((code, figures(&report)), (0, [5_000, 5_000, 0, 0, 0]));
    assert_eq!((report["listed_now"].as_u64(), harness.bucket("b2").calls(LIST)), (Some(2_000), 2));
    assert!(report["resumed_since"].is_i64());
    assert_eq!(registered(&harness).await.len(), 5_000);
}

#[tokio::test]
async fn a_listing_that_has_folders_in_place_of_keys_is_not_taken_for_the_whole() {
    let harness = Harness::new().await;
    let b2 = harness.s3.create_bucket(&bucket("b2"), BucketOptions::default().with(Quirk::ListsFolders));
    for key in ["a/1", "a/2", "b"] {
        b2.put(key, "bytes");
    }
    for arguments in [&["--parallel", "1"][..], &["--parallel", "4"]] {
        let (code, text) = told(&harness, arguments).await;
        assert!(code == 1 && text.contains("lists the folder \"a/\" in place of the keys in it"), "{code} {text}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_asked_for_again_and_given_up_after_a_while() {
    let harness = listing(2_500, BucketOptions::default()).await;
    let cut = Fault::CutBody { after: 20_000 };
    harness.bucket("b2").order(cut.clone(), When::op(LIST).skip(2).next(3));
    let (code, report) = scanned(&harness, &[]).await;
    assert_eq!((code, figures(&report)), (0, [2_500, 2_500, 0, 0, 0]));
    harness.bucket("b2").order(cut, When::op(LIST).skip(3));
    harness.execute("DELETE FROM copyhold.object_copies").await;
    let (code, text) = told(&harness, &[]).await;
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("NOT COMPLETE") && text.contains("with 0 of 1 parts listed: replica b2: ListObjectsV2"),
        "{text}"
    );
    harness.bucket("b2").clear_faults();
    assert_eq!(figures(&scanned(&harness, &[]).await.1)[..2], [2_500, 2_500]);
}

#[tokio::test]
async fn a_page_that_is_no_listing_is_reported_with_its_place_and_ends_nothing() {
    let harness = listing(2_500, BucketOptions::default()).await;
    let portal = Fault::Page("<html><body>Please sign in</body></html>".into());
    let portal = harness.bucket("b2").order(portal, When::op(LIST).skip(3));
    let (code, text) = told(&harness, &[]).await;
    assert_eq!(code, 1, "{text}");
    for words in [
        "replica b2: ListObjectsV2: 200: the answer is a <html> where a <ListBucketResult> was asked for",
        "this was page 4 (behind \"0000000/000000000999\")",
        "NOT COMPLETE",
        "the same command goes on from here",
    ] {
        assert!(text.contains(words), "{text}");
    }
    portal.clear();
    assert_eq!(figures(&scanned(&harness, &[]).await.1)[..2], [2_500, 2_500]);
}

#[tokio::test]
async fn empty_pages_that_lead_round_and_round_are_left() {
    let harness = listing(10, BucketOptions::default()).await;
    let empty = |token: &str| {
        let token = format!("<NextContinuationToken>{token}</NextContinuationToken>");
        Fault::Page(format!("<ListBucketResult><IsTruncated>true</IsTruncated>{token}</ListBucketResult>"))
    };
    // A circle of three that is entered from outside.
    for token in ["in", "a", "b", "c"] {
        harness.bucket("b2").order(empty(token), When::op(LIST).next(1));
    }
    for _ in 0..20 {
        for token in ["a", "b", "c"] {
            harness.bucket("b2").order(empty(token), When::op(LIST).next(1));
        }
    }
    let (code, text) = told(&harness, &[]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("the store leads round and round"), "{text}");
}

#[tokio::test]
async fn a_listing_of_empty_pages_without_end_is_given_up() {
    let harness = listing(10, BucketOptions::default()).await;
    for number in 0..1_010 {
        let token = format!("<NextContinuationToken>fresh-{number}</NextContinuationToken>");
        let page = format!("<ListBucketResult><IsTruncated>true</IsTruncated>{token}</ListBucketResult>");
        harness.bucket("b2").order(Fault::Page(page), When::op(LIST).next(1));
    }
    let (code, text) = told(&harness, &["--requests-per-second", "10000"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("gives 1000 empty pages in a row") && text.contains("NOT COMPLETE"), "{text}");
}

#[tokio::test]
async fn pages_of_delete_markers_alone_end_nothing() {
    let harness = Harness::new().await;
    let options = BucketOptions::versioned().with(Quirk::HiddenTakesRoom);
    let b2 = harness.s3.create_bucket(&bucket("b2"), options);
    b2.put("a", "x");
    for i in 0..3_500 {
        let key = format!("b/{i:05}");
        b2.put(&key, "x");
        b2.delete(&key);
    }
    b2.put("b/99999", "x");
    b2.put("c", "x");
    let (code, report) = scanned(&harness, &[]).await;
    assert_eq!((code, figures(&report)), (0, [3, 3, 0, 0, 0]));
    assert!(report["stores"][0]["pages"].as_u64() > Some(4), "{report}");
    assert_eq!(registered(&harness).await, ["a", "b/99999", "c"].map(str::to_owned).into());
}

#[tokio::test]
async fn a_store_that_ignores_where_to_begin_is_listed_whole_and_that_is_said() {
    let harness = Harness::new().await;
    let b2 = harness.s3.create_bucket(&bucket("b2"), BucketOptions::default().with(Quirk::IgnoresStartAfter));
    for i in 0..2_500 {
        b2.put(&format!("{}/{i:04}", i / 100), "x");
    }
    let (code, report) = scanned(&harness, &[]).await;
    assert_eq!((code, figures(&report)), (0, [2_500, 2_500, 0, 0, 0]));
    assert_eq!((report["parts"].as_u64(), &report["stores"][0]["ignores_start_after"]), (Some(1), &true.into()));
    // Gone on with, it passes over what it has had.
    harness.execute("DELETE FROM copyhold.object_copies").await;
    let denied = b2.order(Fault::access_denied(), When::op(LIST).skip(4));
    assert_eq!(scanned(&harness, &[]).await.0, 1);
    denied.clear();
    let (code, text) = told(&harness, &[]).await;
    assert_eq!((code, registered(&harness).await.len()), (0, 2_500));
    assert!(text.contains("b2 lists from the beginning wherever it is told to"), "{text}");
}

#[tokio::test]
async fn a_store_that_repeats_itself_is_reported_and_never_listed_for_ever() {
    let harness = listing(2_500, BucketOptions::default().with(Quirk::IgnoresTokens)).await;
    let (code, text) = told(&harness, &[]).await;
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("it does not heed its continuation tokens") && text.contains("0000000/000000000000"),
        "{text}"
    );
}

#[tokio::test]
async fn a_listing_out_of_the_order_of_bytes_is_refused_by_that_name() {
    let harness = Harness::new().await;
    let b2 = harness.s3.create_bucket(&bucket("b2"), BucketOptions::default().with(Quirk::ListsByFolder));
    // Whichever folder it is in: no part may end before it is seen.
    for folder in ["", "m/", "z/"] {
        b2.put("b/1", "x");
        b2.put("y/1", "x");
        for key in ["a-b", "a/1", "a/2", "a-b/1"] {
            b2.put(&format!("{folder}{key}"), "x");
        }
        let (code, text) = told(&harness, &[]).await;
        assert_eq!(code, 1, "{text}");
        let words =
            format!("the store lists \"{folder}a/2\" before \"{folder}a-b\", which is not the order of their bytes");
        assert!(text.contains(&words), "{text}");
        harness.s3.create_bucket(&bucket("b2"), BucketOptions::default().with(Quirk::ListsByFolder));
        harness.execute("DELETE FROM copyhold.scans").await;
    }
}

#[tokio::test]
async fn a_store_that_does_not_encode_its_listing_is_taken_at_its_word() {
    let harness = Harness::new().await;
    let b2 = harness.s3.create_bucket(&bucket("b2"), BucketOptions::default().with(Quirk::ListsPlain));
    let keys = ["a b", "a+b", "a%20b", "a%2Fb", "&<\u{fc}"];
    for key in keys {
        b2.put(key, "x");
    }
    assert_eq!(scanned(&harness, &[]).await.0, 0);
    assert_eq!(registered(&harness).await, keys.map(str::to_owned).into());
}

#[tokio::test]
async fn a_store_that_ignores_prefixes_adds_nothing_that_was_not_asked_for() {
    let harness = Harness::new().await;
    let b2 = harness.s3.create_bucket(&bucket("b2"), BucketOptions::default().with(Quirk::IgnoresPrefixes));
    for key in ["a/1", "b/1", "b/2", "c/1"] {
        b2.put(key, "x");
    }
    assert_eq!(scanned(&harness, &["--prefix", "b/"]).await.0, 0);
    assert_eq!(registered(&harness).await, ["b/1", "b/2"].map(str::to_owned).into());
}

#[tokio::test]
async fn a_key_that_an_open_transaction_registers_is_waited_for_alone() {
    let harness = listing(1_500, BucketOptions::default()).await;
    let held = "0000000/000000000700";
    let mut application = harness.pool.begin().await.unwrap();
    sqlx::query("INSERT INTO copyhold.object_copies (object_key, b2, size_bytes) VALUES ($1, 1, 7)")
        .bind(held)
        .execute(&mut *application)
        .await
        .unwrap();
    let scan = async { scanned(&harness, &[]).await };
    let commit = async {
        harness.until("SELECT count(*) = 700 FROM copyhold.object_copies").await;
        harness.until("SELECT reached = '0000000/000000000699' FROM copyhold.scan_parts").await;
        application.commit().await.unwrap();
    };
    let ((code, report), ()) = soon("both end", async { tokio::join!(scan, commit) }).await;
    assert_eq!((code, figures(&report)), (0, [1_500, 1_499, 1, 0, 0]));
    assert_eq!(count(&harness, "object_copies WHERE size_bytes = 7").await, 1);
}
