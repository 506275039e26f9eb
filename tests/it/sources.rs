//! From which replica an object is read, and what happens if it is missing, late, or another content.

use copyhold_sandbox::s3::{Fault, Op, When};

use crate::harness::{Begin, World};

#[tokio::test]
async fn if_the_primary_fails_another_holder_is_read() {
    let world = World::new().await;
    world.bucket("wasabi").put("photo", "bytes");
    world.upload("photo", "bytes").await;
    world.sql("UPDATE copyhold.object_copies SET wasabi = 5 WHERE object_key = $1", "photo").await;
    world.execute("UPDATE copyhold.replicas SET existing = 'overwrite', writable_at = 1 WHERE name = 'wasabi'").await;
    world.bucket("b2").order(Fault::internal_error(), When::op(Op::GetObject));
    let _daemon = world.daemon().await;
    world.until_copied("photo").await;
    assert_eq!(world.bucket("scw").get("photo").unwrap(), "bytes");
}

#[tokio::test]
async fn a_lost_primary_object_is_filled_again_from_a_copy() {
    let mut world = World::new().await;
    world.rewrite(|text| text.replacen("path_style = true", "path_style = true\nexisting = \"adopt\"", 2));
    world.bucket("b2").put("other", "x");
    world.bucket("wasabi").put("photo", "bytes");
    world.insert("photo").await;
    world.sql("UPDATE copyhold.object_copies SET wasabi = 5 WHERE object_key = $1", "photo").await;
    world.execute("UPDATE copyhold.replicas SET existing = 'overwrite', writable_at = 1 WHERE name = 'wasabi'").await;
    let _daemon = world.daemon().await;
    world.until_copied("photo").await;
    assert_eq!(world.bucket("b2").get("photo").unwrap(), "bytes");
}

#[tokio::test]
async fn an_object_registered_before_its_upload_ended_waits_and_says_so() {
    let world = World::new().await;
    world.insert("early").await;
    let _daemon = world.daemon().await;
    world.until("SELECT count(*) = 3 FROM copyhold.copy_failures WHERE class = 'gone'").await;
    // The registered time was found to be false, and is cleared.
    assert_eq!(world.value("SELECT b2 IS NULL FROM copyhold.object_copies").await.unwrap(), "true");
    // It is looked for again after seconds, and each time twice as long.
    world.until("SELECT bool_and(attempts > 1) FROM copyhold.copy_failures WHERE class = 'gone'").await;
    world.bucket("b2").put("early", "bytes");
    world.until_copied("early").await;
}

#[tokio::test]
async fn an_object_gone_for_a_day_is_parked() {
    let world = World::new().await;
    world.insert("gone").await;
    world.execute("UPDATE copyhold.object_copies SET created_at = created_at - 90000000000").await;
    let _daemon = world.daemon().await;
    world
        .until("SELECT due_wasabi = 9000000000000000000 AND due_scw = 9000000000000000000 FROM copyhold.object_copies")
        .await;
}

#[tokio::test]
async fn an_object_of_another_size_than_registered_is_not_taken_for_it() {
    let world = World::new().await;
    world.bucket("b2").put("photo", "old");
    world.value("SELECT copyhold.register('photo', 11)").await;
    let _daemon = world.daemon().await;
    world
        .until("SELECT EXISTS (SELECT FROM copyhold.copy_failures WHERE message LIKE '%3 bytes%11 were registered%')")
        .await;
    assert!(world.bucket("wasabi").keys().is_empty());
    world.bucket("b2").put("photo", "new content");
    world.execute("UPDATE copyhold.object_copies SET due_wasabi = 0, due_scw = 0").await;
    world.until_copied("photo").await;
}

#[tokio::test]
async fn a_bucket_with_data_is_not_written_to_until_its_section_says_how() {
    let mut world = World::new().await;
    world.bucket("wasabi").put("theirs", "keep me");
    world.upload("photo", "bytes").await;
    let mut daemon = world.daemon().await;
    daemon.until_logged("Not copying to wasabi: its bucket already holds data").await;
    world.until("SELECT scw IS NOT NULL FROM copyhold.object_copies").await;
    assert_eq!(world.bucket("wasabi").keys(), ["theirs"]);
    daemon.kill().await;
    let section = "[replicas.wasabi]";
    world.rewrite(|text| text.replace(section, &format!("{section}\nexisting = \"adopt\"")));
    let _daemon = world.daemon().await;
    world.until_copied("photo").await;
    assert_eq!(world.bucket("wasabi").get("theirs").unwrap(), "keep me");
}

#[tokio::test]
async fn a_page_that_asks_to_sign_in_does_not_make_a_bucket_an_empty_one() {
    let world = World::new().await;
    let wasabi = world.bucket("wasabi");
    wasabi.put("photo", "theirs");
    world.upload("photo", "bytes").await;
    let portal = "<html><body>Please sign in</body></html>";
    let portal = wasabi.order(Fault::Page(portal.into()), When::op(Op::ListObjectsV2));
    let daemon = world.daemon().await;
    daemon
        .until_logged(
            "Not copying to wasabi: its bucket could not be listed: ListObjectsV2: 200: the answer is a <html>",
        )
        .await;
    world.until("SELECT scw IS NOT NULL FROM copyhold.object_copies").await;
    portal.clear();
    daemon.until_logged("Not copying to wasabi: its bucket already holds data").await;
    assert_eq!(wasabi.get("photo").unwrap(), "theirs");
}

#[tokio::test]
async fn adopting_records_what_is_equal_and_leaves_alone_what_is_not() {
    let mut world = World::new().await;
    world.bucket("wasabi").put("equal", "bytes");
    world.bucket("wasabi").put("different", "theirs");
    let section = "[replicas.wasabi]";
    world.rewrite(|text| text.replace(section, &format!("{section}\nexisting = \"adopt\"")));
    world.upload("equal", "bytes").await;
    world.upload("different", "ours").await;
    let _daemon = world.daemon().await;
    world.until_copied("equal").await;
    assert_eq!(world.bucket("wasabi").calls(Op::PutObject), 0);
    world
        .until("SELECT due_wasabi = 9000000000000000000 FROM copyhold.object_copies WHERE object_key = 'different'")
        .await;
    assert_eq!(world.bucket("wasabi").get("different").unwrap(), "theirs");
}

#[tokio::test]
async fn another_bucket_under_the_same_name_is_not_used() {
    let mut world = World::new().await;
    world.upload("photo", "bytes").await;
    let mut daemon = world.daemon().await;
    world.until_copied("photo").await;
    daemon.kill().await;
    world.s3.create_bucket("another", copyhold_sandbox::s3::BucketOptions::default());
    world.rewrite(|text| text.replace("photos-wasabi", "another"));
    world.upload("second", "bytes").await;
    let daemon = world.daemon().await;
    daemon.until_logged("Not using wasabi: its recorded copies are in bucket photos-wasabi").await;
    world.until("SELECT scw IS NOT NULL FROM copyhold.object_copies WHERE object_key = 'second'").await;
    assert!(world.s3.bucket("another").keys().is_empty());
    assert_eq!(
        world.value("SELECT wasabi IS NULL FROM copyhold.object_copies WHERE object_key = 'second'").await.unwrap(),
        "true"
    );
}

#[tokio::test]
async fn an_object_without_a_time_at_the_primary_is_proven_there_by_reading_it() {
    let world = World::with(Begin::Migrated, "").await;
    world.bucket("b2").put("photo", "bytes");
    world.sql("INSERT INTO copyhold.object_copies (object_key) VALUES ($1)", "photo").await;
    let _daemon = world.daemon().await;
    world.until_copied("photo").await;
    assert_eq!(world.bucket("b2").calls(Op::PutObject), 0);
}
