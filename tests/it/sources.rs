//! From which replica an object is read, and what happens if it is missing, late, or another content.

use copyhold_sandbox::s3::{Fault, Op, When};

use crate::harness::{Begin, Harness};

#[tokio::test]
async fn if_the_primary_fails_another_holder_is_read() {
    let harness = Harness::new().await;
    harness.bucket("wasabi").put("photo", "bytes");
    harness.upload("photo", "bytes").await;
    harness.sql("UPDATE copyhold.object_copies SET wasabi = 5 WHERE object_key = $1", "photo").await;
    harness.execute("UPDATE copyhold.replicas SET existing = 'overwrite', writable_at = 1 WHERE name = 'wasabi'").await;
    harness.bucket("b2").order(Fault::internal_error(), When::op(Op::GetObject));
    let _daemon = harness.daemon().await;
    harness.until_copied("photo").await;
    assert_eq!(harness.bucket("scw").get("photo").unwrap(), "bytes");
}

#[tokio::test]
async fn a_lost_primary_object_is_filled_again_from_a_copy() {
    let mut harness = Harness::new().await;
    harness.rewrite(|text| text.replacen("path_style = true", "path_style = true\nexisting = \"adopt\"", 2));
    harness.bucket("b2").put("other", "x");
    harness.bucket("wasabi").put("photo", "bytes");
    harness.insert("photo").await;
    harness.sql("UPDATE copyhold.object_copies SET wasabi = 5 WHERE object_key = $1", "photo").await;
    harness.execute("UPDATE copyhold.replicas SET existing = 'overwrite', writable_at = 1 WHERE name = 'wasabi'").await;
    let _daemon = harness.daemon().await;
    harness.until_copied("photo").await;
    assert_eq!(harness.bucket("b2").get("photo").unwrap(), "bytes");
}

#[tokio::test]
async fn an_object_registered_before_its_upload_ended_waits_and_says_so() {
    let harness = Harness::new().await;
    harness.insert("early").await;
    let _daemon = harness.daemon().await;
    harness.until("SELECT count(*) = 3 FROM copyhold.copy_failures WHERE class = 'gone'").await;
    // The registered time was found to be false, and is cleared.
    assert_eq!(harness.value("SELECT b2 IS NULL FROM copyhold.object_copies").await.unwrap(), "true");
    // It is looked for again after seconds, and each time twice as long.
    harness.until("SELECT bool_and(attempts > 1) FROM copyhold.copy_failures WHERE class = 'gone'").await;
    harness.bucket("b2").put("early", "bytes");
    harness.until_copied("early").await;
}

#[tokio::test]
async fn an_object_gone_for_a_day_is_parked() {
    let harness = Harness::new().await;
    harness.insert("gone").await;
    harness.execute("UPDATE copyhold.object_copies SET created_at = created_at - 90000000000").await;
    let _daemon = harness.daemon().await;
    harness
        .until("SELECT due_wasabi = 9000000000000000000 AND due_scw = 9000000000000000000 FROM copyhold.object_copies")
        .await;
}

#[tokio::test]
async fn an_object_of_another_size_than_registered_is_not_taken_for_it() {
    let harness = Harness::new().await;
    harness.bucket("b2").put("photo", "old");
    harness.value("SELECT copyhold.register('photo', 11)").await;
    let _daemon = harness.daemon().await;
    harness
        .until("SELECT EXISTS (SELECT FROM copyhold.copy_failures WHERE message LIKE '%3 bytes%11 were registered%')")
        .await;
    assert!(harness.bucket("wasabi").keys().is_empty());
    harness.bucket("b2").put("photo", "new content");
    harness.execute("UPDATE copyhold.object_copies SET due_wasabi = 0, due_scw = 0").await;
    harness.until_copied("photo").await;
}

#[tokio::test]
async fn a_bucket_with_data_is_not_written_to_until_its_section_says_how() {
    let mut harness = Harness::new().await;
    harness.bucket("wasabi").put("theirs", "keep me");
    harness.upload("photo", "bytes").await;
    let mut daemon = harness.daemon().await;
    daemon.until_logged("Not copying to wasabi: its bucket already holds data").await;
    harness.until("SELECT scw IS NOT NULL FROM copyhold.object_copies").await;
    assert_eq!(harness.bucket("wasabi").keys(), ["theirs"]);
    daemon.kill().await;
    let section = "[replicas.wasabi]";
    harness.rewrite(|text| text.replace(section, &format!("{section}\nexisting = \"adopt\"")));
    let _daemon = harness.daemon().await;
    harness.until_copied("photo").await;
    assert_eq!(harness.bucket("wasabi").get("theirs").unwrap(), "keep me");
}

#[tokio::test]
async fn a_page_that_asks_to_sign_in_does_not_make_a_bucket_an_empty_one() {
    let harness = Harness::new().await;
    let wasabi = harness.bucket("wasabi");
    wasabi.put("photo", "theirs");
    harness.upload("photo", "bytes").await;
    let portal = "<html><body>Please sign in</body></html>";
    let portal = wasabi.order(Fault::Page(portal.into()), When::op(Op::ListObjectsV2));
    let daemon = harness.daemon().await;
    daemon
        .until_logged(
            "Not copying to wasabi: its bucket could not be listed: ListObjectsV2: 200: the answer is a <html>",
        )
        .await;
    harness.until("SELECT scw IS NOT NULL FROM copyhold.object_copies").await;
    portal.clear();
    daemon.until_logged("Not copying to wasabi: its bucket already holds data").await;
    assert_eq!(wasabi.get("photo").unwrap(), "theirs");
}

#[tokio::test]
async fn adopting_records_what_is_equal_and_leaves_alone_what_is_not() {
    let mut harness = Harness::new().await;
    harness.bucket("wasabi").put("equal", "bytes");
    harness.bucket("wasabi").put("different", "theirs");
    let section = "[replicas.wasabi]";
    harness.rewrite(|text| text.replace(section, &format!("{section}\nexisting = \"adopt\"")));
    harness.upload("equal", "bytes").await;
    harness.upload("different", "ours").await;
    let _daemon = harness.daemon().await;
    harness.until_copied("equal").await;
    assert_eq!(harness.bucket("wasabi").calls(Op::PutObject), 0);
    harness
        .until("SELECT due_wasabi = 9000000000000000000 FROM copyhold.object_copies WHERE object_key = 'different'")
        .await;
    assert_eq!(harness.bucket("wasabi").get("different").unwrap(), "theirs");
}

#[tokio::test]
async fn another_bucket_under_the_same_name_is_not_used() {
    let mut harness = Harness::new().await;
    harness.upload("photo", "bytes").await;
    let mut daemon = harness.daemon().await;
    harness.until_copied("photo").await;
    daemon.kill().await;
    harness.s3.create_bucket("another", copyhold_sandbox::s3::BucketOptions::default());
    harness.rewrite(|text| text.replace("photos-wasabi", "another"));
    harness.upload("second", "bytes").await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Not using wasabi: its recorded copies are in bucket photos-wasabi").await;
    harness.until("SELECT scw IS NOT NULL FROM copyhold.object_copies WHERE object_key = 'second'").await;
    assert!(harness.s3.bucket("another").keys().is_empty());
    assert_eq!(
        harness.value("SELECT wasabi IS NULL FROM copyhold.object_copies WHERE object_key = 'second'").await.unwrap(),
        "true"
    );
}

#[tokio::test]
async fn an_object_without_a_time_at_the_primary_is_proven_there_by_reading_it() {
    let harness = Harness::with(Begin::Migrated, "").await;
    harness.bucket("b2").put("photo", "bytes");
    harness.sql("INSERT INTO copyhold.object_copies (object_key) VALUES ($1)", "photo").await;
    let _daemon = harness.daemon().await;
    harness.until_copied("photo").await;
    assert_eq!(harness.bucket("b2").calls(Op::PutObject), 0);
}
