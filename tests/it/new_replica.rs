//! A replica is added to a table of any size at once, and `migrate` states its cost before.

use copyhold_db::schema::migrate;
use copyhold_sandbox::s3::BucketOptions;

use crate::harness::{Harness, bucket, printed, replica};

/// The configuration gets a replica `cold`, and these rules.
fn add_cold(harness: &mut Harness, rules: &str) {
    harness.s3.create_bucket(&bucket("cold"), BucketOptions::default());
    let section = format!(
        "[replicas.cold]\nendpoint = \"{}\"\nregion = \"us-east-1\"\nbucket = \"{}\"\npath_style = true\n\
         access_key_id = \"sandbox\"\nsecret_access_key = \"sandbox-secret\"\n",
        harness.s3.endpoint(),
        bucket("cold")
    );
    harness.rewrite(|text| format!("{text}\n{section}{rules}"));
}

/// Six objects: three each below `docs/` and `pics/`, of 40 bytes, all copied.
async fn six(harness: &Harness) {
    harness
        .execute(
            "INSERT INTO copyhold.object_copies (object_key, size_bytes, b2, wasabi, scw)
             SELECT p || i, 40, 1, 1, 1 FROM unnest('{docs/,pics/}'::text[]) p, generate_series(1, 3) i",
        )
        .await;
}

async fn due(harness: &Harness) -> String {
    let keys = "SELECT coalesce(string_agg(object_key, ' ' ORDER BY object_key), '-') FROM copyhold.object_copies WHERE due_cold IS NOT NULL";
    harness.value(keys).await.unwrap()
}

const DOCS: &str = "[[rules]]\nprefix = \"docs/\"\nreplicas = [\"b2\", \"cold\"]\n";
const DOCS_NOT_COLD: &str = "[[rules]]\nprefix = \"docs/\"\nreplicas = [\"b2\", \"scw\"]\n";
const STATE: &str = "SELECT version || '/' || applied || newcomers::text FROM copyhold.rules_state";

#[tokio::test]
async fn without_rules_everything_is_wanted_at_a_new_replica_at_once_and_its_cost_is_told() {
    let mut harness = Harness::new().await;
    six(&harness).await;
    harness
        .execute(
            "INSERT INTO copyhold.object_copies (object_key, b2) VALUES ('unknown', 1); ANALYZE copyhold.object_copies",
        )
        .await;
    add_cold(&mut harness, "");
    let foreseen = printed(&harness.run(&["migrate", "--dry-run"]).await);
    let expected = "replica cold is to get 7 objects, 240 B and 1 of unknown size: 7 GETs at the sources, 7 PUTs there; no copy \
                    was made in the last hour, so how long that takes is unknown";
    assert!(foreseen.contains(expected), "{foreseen}");
    assert!(foreseen.contains("replica cold would be added") && foreseen.contains("nothing was done"), "{foreseen}");
    assert!(foreseen.contains("index object_copies_cold_lane would be built"), "{foreseen}");
    let columns = "SELECT count(*) FROM pg_attribute WHERE attname = 'due_cold'";
    assert_eq!(harness.value(columns).await.unwrap(), "0");
    let filenode = "SELECT pg_relation_filenode('copyhold.object_copies')";
    let before = harness.value(filenode).await;
    let done = harness.run(&["migrate"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", printed(&done));
    assert!(printed(&done).contains(expected), "{}", printed(&done));
    // Nothing was written over.
    assert_eq!(harness.value(filenode).await, before);
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies WHERE due_cold = 0").await.unwrap(), "7");
    assert_eq!(harness.value(STATE).await.unwrap(), "0/0{}");
    harness.insert("new").await;
    assert_eq!(
        harness.value("SELECT due_cold > 0 FROM copyhold.object_copies WHERE object_key = 'new'").await.unwrap(),
        "true"
    );
    let again = printed(&harness.run(&["migrate", "--dry-run"]).await);
    assert!(again.contains("is up to date") && !again.contains("is to get"), "{again}");
}

#[tokio::test]
async fn where_a_rule_names_a_new_replica_it_gets_what_that_rule_fits() {
    let mut harness = Harness::new().await;
    six(&harness).await;
    add_cold(&mut harness, DOCS);
    let told = printed(&harness.run(&["migrate"]).await);
    assert!(told.contains("replica cold is to get 3 objects, 120 B"), "{told}");
    assert!(told.contains("3 objects fit no rule and are not copied there"), "{told}");
    assert!(told.contains("replica cold: the rules want 3 objects of 6 there"), "{told}");
    assert_eq!(due(&harness).await, "docs/1 docs/2 docs/3");
    // The rules are new too: what they take away elsewhere is the operator's decision.
    assert_eq!(harness.value("SELECT count(due_wasabi) FROM copyhold.object_copies").await.unwrap(), "6");
    assert_eq!(harness.value(STATE).await.unwrap(), "2/0{}");
    // An INSERT that names no replica wants all of them, whatever the rules are.
    harness.insert("pics/new").await;
    harness.execute("SELECT copyhold.register('docs/new')").await;
    assert_eq!(due(&harness).await, "docs/1 docs/2 docs/3 docs/new pics/new");
    assert_eq!(
        harness
            .value("SELECT due_wasabi IS NULL FROM copyhold.object_copies WHERE object_key = 'docs/new'")
            .await
            .unwrap(),
        "true"
    );
}

#[tokio::test]
async fn with_rules_that_were_applied_nothing_is_left_to_be_judged_when_it_is_filled() {
    let mut harness = Harness::new().await;
    six(&harness).await;
    crate::rules::in_force(&mut harness, DOCS_NOT_COLD).await;
    assert!(harness.run(&["rules", "apply"]).await.status.success());
    add_cold(&mut harness, "");
    // As the file goes, the section stands behind the rules, which is all the same.
    let told = printed(&harness.run(&["migrate"]).await);
    // None of them names it: it gets what none of them fits.
    assert!(told.contains("replica cold: the rules want 3 objects of 6 there"), "{told}");
    assert_eq!(due(&harness).await, "pics/1 pics/2 pics/3");
    assert_eq!(harness.value(STATE).await.unwrap(), "2/2{}");
}

#[tokio::test]
async fn what_a_migration_that_was_killed_has_not_filled_the_rules_fill_when_they_are_applied() {
    for (rules, filled) in [(DOCS, "docs/1 docs/2 docs/3"), (DOCS_NOT_COLD, "pics/1 pics/2 pics/3")] {
        let mut harness = Harness::new().await;
        six(&harness).await;
        add_cold(&mut harness, rules);
        // As `copyhold run --migrate` does it, or a migration that died before it filled anything.
        migrate(&harness.config).await.unwrap();
        assert_eq!(due(&harness).await, "-");
        let status = printed(&harness.run(&["status"]).await);
        assert!(status.contains("are not judged by them yet"), "{status}");
        let applied = harness.run(&["rules", "apply"]).await;
        assert_eq!(applied.status.code(), Some(0), "{}", printed(&applied));
        assert_eq!(due(&harness).await, filled);
        assert_eq!(harness.value(STATE).await.unwrap(), "2/2{}");
    }
}

#[tokio::test]
async fn a_daemon_that_migrates_says_that_the_rules_are_still_to_be_applied() {
    let mut harness = Harness::new().await;
    six(&harness).await;
    add_cold(&mut harness, DOCS);
    let mut command = harness.program(&["run", "--migrate"]);
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut daemon = command.stderr(log.reopen().unwrap()).spawn().unwrap();
    let said = "registered before the rules changed are not judged by them yet";
    crate::harness::eventually(said, async || std::fs::read_to_string(log.path()).unwrap().contains(said)).await;
    assert_eq!(due(&harness).await, "-");
    daemon.kill().await.unwrap();
}

#[tokio::test]
async fn the_pace_of_the_last_hour_tells_how_long_it_takes() {
    let mut harness = Harness::new().await;
    six(&harness).await;
    harness
        .execute(
            "SELECT copyhold.append_log(array_agg(jsonb_build_object('kind', 'object.copied', 'size_bytes', 40,
                                                                    'replicas', '[\"scw\", \"wasabi\"]'::jsonb)))
             FROM generate_series(1, 60)",
        )
        .await;
    add_cold(&mut harness, "");
    let told = printed(&harness.run(&["migrate", "--dry-run"]).await);
    // 2 copies and 80 bytes per second: 6 objects of 240 bytes.
    assert!(told.contains("; 3s at the pace of the busiest minute of the last hour, 2 copies/s"), "{told}");
}

#[tokio::test]
async fn what_is_wanted_at_the_new_replica_is_copied_and_nothing_else() {
    let mut harness = Harness::new().await;
    for key in ["docs/1", "pics/1"] {
        harness.bucket("b2").put(key, "bytes");
        harness.execute(&format!("INSERT INTO copyhold.object_copies (object_key, b2, due_wasabi, due_scw) VALUES ('{key}', 1, NULL, NULL)")).await;
    }
    add_cold(&mut harness, DOCS);
    assert!(harness.run(&["migrate"]).await.status.success());
    let _daemon = harness.daemon().await;
    harness
        .until("SELECT cold IS NOT NULL AND lock IS NULL FROM copyhold.object_copies WHERE object_key = 'docs/1'")
        .await;
    assert_eq!(harness.bucket("cold").get("docs/1").unwrap(), "bytes");
    assert_eq!(harness.bucket("cold").get("pics/1"), None);
    assert!(harness.queue().has_copyable_objects(&replica("cold")).await.is_ok_and(|more| !more));
}
