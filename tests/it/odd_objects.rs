//! Objects whose keys or headers are odd are copied as they are, or parked with the reason, and delay no others.

use copyhold_sandbox::s3::{Fault, Op, When};

use crate::harness::{Harness, eventually, printed};

/// The class and message of the failure of the copy at wasabi.
const WHY: &str = "SELECT class || ': ' || message FROM copyhold.copy_failures WHERE replica = 'wasabi'";
const PARKED: &str = "SELECT count(*) = 1 FROM copyhold.object_copies WHERE due_wasabi = 9000000000000000000";

/// What a gateway may say of `key` at the source.
fn says(harness: &Harness, key: &str, lines: &[(&'static str, &str)]) {
    let lines = lines.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    harness.bucket("b2").order(Fault::Headers(lines), When::op(Op::GetObject).key(key));
}

#[tokio::test]
async fn an_object_is_copied_whatever_a_store_says_of_it_that_no_copy_needs() {
    let harness = Harness::new().await;
    let odd: [(&str, &[(&str, &str)]); 5] = [
        ("dated", &[("last-modified", "Mon, 1 Jan 2024 00:00:00 UTC")]),
        ("undated", &[("last-modified", "never"), ("date", "now")]),
        ("flagged", &[("x-amz-delete-marker", "False"), ("x-amz-server-side-encryption-bucket-key-enabled", "True")]),
        ("counted", &[("x-amz-mp-parts-count", ""), ("x-amz-missing-meta", "")]),
        ("twice", &[("x-amz-meta-a", "1"), ("x-amz-meta-a", "2")]),
    ];
    let _daemon = harness.daemon().await;
    for (key, lines) in odd {
        says(&harness, key, lines);
        harness.upload(key, key).await;
    }
    for (key, _) in odd {
        harness.until_copied(key).await;
    }
    let copied = harness.bucket("wasabi").inspect("twice").unwrap().metadata;
    assert_eq!(copied.get("x-amz-meta-a"), Some("1,2"));
}

#[tokio::test]
async fn what_cannot_be_carried_over_parks_its_object_by_name_and_no_other() {
    let harness = Harness::new().await;
    says(&harness, "styled", &[("content-type", "text/css"), ("content-type", "text/html")]);
    let _daemon = harness.daemon().await;
    harness.upload("styled", "a").await;
    harness.until(PARKED).await;
    let why = harness.value(WHY).await.unwrap();
    assert!(why.starts_with("refused: source b2: content-type is no text, or is given several times"), "{why}");
    harness.upload("plain", "b").await;
    harness.until_copied("plain").await;
}

#[tokio::test]
async fn keys_that_urls_and_proxies_mistreat_are_copied_under_exactly_their_own_bytes() {
    let harness = Harness::new().await;
    let long = "k".repeat(1024);
    let odd =
        [" ", "  ", "\t", "\n", "\u{2028}", ".", "..", "/", "//", "/a", "a//b", "a/../b", "\u{1}", "a%2Fb", &long];
    let _daemon = harness.daemon().await;
    for (i, key) in odd.iter().enumerate() {
        harness.upload(key, format!("content {i}")).await;
    }
    for (i, key) in odd.iter().enumerate() {
        harness.until_copied(key).await;
        assert_eq!(harness.bucket("wasabi").get(key).unwrap(), format!("content {i}"), "{key:?}");
    }
    assert_eq!(harness.bucket("wasabi").keys().len(), odd.len());
}

#[tokio::test]
async fn a_path_that_a_proxy_changes_parks_its_object_and_is_named_by_the_check() {
    let harness = Harness::new().await;
    harness.bucket("wasabi").order(Fault::forbidden("SignatureDoesNotMatch"), When::op(Op::PutObject).key("a//b"));
    harness.bucket("wasabi").order(Fault::forbidden("SignatureDoesNotMatch"), When::op(Op::GetObject));
    let _daemon = harness.daemon().await;
    harness.upload("a//b", "odd").await;
    harness.until(PARKED).await;
    let why = harness.value(WHY).await.unwrap();
    assert!(why.starts_with("refused: target wasabi:") && why.contains("a proxy in front of the store"), "{why}");
    harness.upload("a/b", "plain").await;
    harness.until_copied("a/b").await;
    let check = harness.run(&["check"]).await;
    assert!(printed(&check).contains("objects with odd keys will be parked"), "{}", printed(&check));
}

#[tokio::test]
async fn a_request_that_a_proxy_finds_too_large_parks_its_object_and_names_the_setting() {
    let harness = Harness::new().await;
    harness.bucket("wasabi").order(Fault::answer(413, "EntityTooLarge"), When::op(Op::PutObject).key("large"));
    let _daemon = harness.daemon().await;
    harness.upload("large", "x").await;
    harness.until(PARKED).await;
    let why = harness.value(WHY).await.unwrap();
    assert!(why.contains("set max_put in this replica's section"), "{why}");
    eventually("scw has it", async || harness.bucket("scw").get("large").is_some()).await;
}
