//! `replica remove` leaves nothing of a replica, is refused while it is needed, and can die at any point.

use std::process::Stdio;

use copyhold_core::domain::Generation;
use copyhold_db::{lease::UploadIntent, schema::migrate};
use copyhold_sandbox::s3::BucketOptions;
use rustix::process::Signal;
use tokio::process::Child;

use crate::harness::{Harness, key, printed, replica, soon};

/// True while no session of this database holds an advisory lock: migrations and removals hold one.
const MIGRATION_LOCK_IS_FREE: &str = "SELECT count(*) = 0 FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                               WHERE l.locktype = 'advisory' AND d.datname = current_database()";

async fn said(harness: &Harness, arguments: &[&str]) -> (i32, String) {
    let output = harness.run(arguments).await;
    (output.status.code().unwrap(), printed(&output))
}

/// Takes a replica's section out of the configuration.
fn without(harness: &mut Harness, name: &str) {
    harness.rewrite(|text| {
        let from = text.find(&format!("[replicas.{name}]")).unwrap();
        let to = from + 1 + text[from + 1..].find("\n[").unwrap();
        format!("{}{}", &text[..from], &text[to + 1..])
    });
}

/// scw is drained and in no configuration any more; both objects are everywhere.
async fn about_to_leave() -> Harness {
    let mut harness = Harness::new().await;
    let mut daemon = harness.daemon().await;
    for key in ["a", "b"] {
        harness.upload(key, "bytes").await;
        harness.until_copied(key).await;
    }
    assert_eq!(said(&harness, &["replica", "drain", "scw"]).await.0, 0);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
    without(&mut harness, "scw");
    harness
}

fn removing(harness: &Harness) -> Child {
    harness
        .program(&["replica", "remove", "scw", "--yes"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Nothing in the schema knows it any more.
async fn assert_gone(harness: &Harness) {
    for there_is in [
        "SELECT string_agg(attname, ' ') FROM pg_attribute
          WHERE attrelid = 'copyhold.object_copies'::regclass AND attname LIKE '%scw%' AND NOT attisdropped",
        "SELECT string_agg(relname, ' ') FROM pg_class WHERE relnamespace = 'copyhold'::regnamespace AND relname LIKE '%scw%'",
        "SELECT string_agg(proname, ' ') FROM pg_proc
          WHERE pronamespace = 'copyhold'::regnamespace AND (proname LIKE '%scw%' OR prosrc LIKE '%scw%')",
        "SELECT string_agg(name, ' ') FROM copyhold.replicas WHERE name = 'scw'",
        "SELECT string_agg(object_key, ' ') FROM copyhold.copy_failures WHERE replica = 'scw'",
        "SELECT string_agg(object_key, ' ') FROM copyhold.multipart_uploads WHERE replica = 'scw'",
        "SELECT string_agg(replica, ' ') FROM copyhold.backlog WHERE replica = 'scw'",
    ] {
        assert_eq!(harness.value(there_is).await, None, "{there_is}");
    }
    let told = "SELECT count(*) FROM copyhold.log WHERE event_data ->> 'kind' = 'replica.removed'";
    assert_eq!(harness.value(told).await.unwrap(), "1");
}

#[tokio::test]
async fn a_removed_replica_leaves_nothing_behind_and_the_others_go_on() {
    let mut harness = about_to_leave().await;
    harness
        .execute(
            "INSERT INTO copyhold.copy_failures
             SELECT 'k' || i, r, 1, 1, 'denied', 'no', 1, 1 FROM generate_series(1, 1500) i, unnest(ARRAY['scw', 'wasabi']) r",
        )
        .await;
    let (a, scw) = (key("a"), replica("scw"));
    let intent =
        UploadIntent { key: &a, generation: Generation(0), replica: &scw, size_bytes: 1, part_bytes: 1, origin: "b2" };
    harness.queue().intend_upload(&intent).await.unwrap();
    let (code, text) = said(&harness, &["replica", "remove", "scw", "--check"]).await;
    assert_eq!(
        (code, text.as_str()),
        (0, "nothing is in the way of removing scw: each of its 2 copies is elsewhere as well\n")
    );
    // The others' work goes on all the while.
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to wasabi").await;
    let (code, text) = said(&harness, &["replica", "remove", "scw", "--yes"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("scw is removed, and all that was on record of it; its bucket is as it was"), "{text}");
    assert!(text.contains("1 upload in parts was not finished there"), "{text}");
    assert_gone(&harness).await;
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.copy_failures").await.unwrap(), "1500");
    harness.upload("c", "bytes").await;
    harness.value("SELECT copyhold.register('a')").await;
    for key in ["a", "c"] {
        harness
            .until(&format!(
                "SELECT wasabi IS NOT NULL AND lock IS NULL FROM copyhold.object_copies WHERE object_key = '{key}'"
            ))
            .await;
    }
    assert_eq!(harness.bucket("scw").keys(), ["a", "b"]);
    assert!(said(&harness, &["status", "--exact"]).await.1.contains("wasabi"));
    let (code, text) = said(&harness, &["replica", "remove", "scw", "--yes"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("there is no replica \"scw\"; the database has b2, wasabi"), "{text}");
    drop(daemon);

    // One that is called the same inherits nothing.
    harness.s3.create_bucket("new", BucketOptions::default());
    harness.rewrite(|text| {
        let from = text.find("[replicas.wasabi]").unwrap();
        let to = from + 1 + text[from + 1..].find("\n[").unwrap();
        let section = text[from..=to].replace("wasabi", "scw").replace("photos-scw", "new");
        format!("{}{section}{}", &text[..from], &text[from..])
    });
    migrate(&harness.config).await.unwrap();
    let row = "SELECT count(*) FROM copyhold.object_copies WHERE scw IS NULL AND due_scw = 0";
    assert_eq!(harness.value(row).await.unwrap(), "3");
    assert_eq!(
        harness.value("SELECT pinned_at IS NULL FROM copyhold.replicas WHERE name = 'scw'").await.unwrap(),
        "true"
    );
    let _daemon = harness.daemon().await;
    for key in ["a", "b", "c"] {
        harness.until_copied(key).await;
        assert_eq!(harness.s3.bucket("new").get(key).unwrap(), "bytes");
    }
}

#[tokio::test]
async fn what_is_in_the_way_of_a_removal_is_said_with_what_to_do() {
    let mut harness = Harness::new().await;
    let mut daemon = harness.daemon().await;
    harness.upload("a", "bytes").await;
    harness.until_copied("a").await;
    let refused = async |harness: &Harness, why: &[&str]| {
        for arguments in [["replica", "remove", "scw", "--check"].as_slice(), &["replica", "remove", "scw", "--yes"]] {
            let (code, text) = said(harness, arguments).await;
            assert_eq!(code, 1, "{arguments:?}: {text}");
            for why in why {
                assert!(text.contains(why), "no {why} in\n{text}");
            }
        }
        let columns =
            "SELECT count(*) FROM pg_attribute WHERE attrelid = 'copyhold.object_copies'::regclass AND attname = 'scw'";
        assert_eq!(harness.value(columns).await.unwrap(), "1");
        let left = "SELECT to_regclass('copyhold.object_copies_scw_only') IS NULL";
        assert_eq!(harness.value(left).await.unwrap(), "true");
    };
    refused(&harness, &["this configuration still names it: take [replicas.scw] out"]).await;
    without(&mut harness, "scw");
    let served = "daemon 1 would go on using it: take [replicas.scw] out of the configuration of every daemon";
    refused(&harness, &["scw is not draining: `copyhold replica drain scw` first", served]).await;
    assert_eq!(said(&harness, &["replica", "drain", "scw"]).await.0, 0);
    refused(&harness, &[served]).await;
    daemon.kill().await;
    harness.execute("UPDATE copyhold.daemons SET alive_until = 1").await;
    harness.execute("INSERT INTO copyhold.rules (position, prefix, replicas) VALUES (2, 'x', ARRAY['scw'])").await;
    refused(&harness, &["rule 2 in force names it: take it out of [[rules]]"]).await;
    harness.execute("DELETE FROM copyhold.rules").await;
    harness.execute("UPDATE copyhold.object_copies SET b2 = NULL, wasabi = NULL").await;
    refused(&harness, &["it is the only holder of 1 object, \"a\": `copyhold explain` tells why"]).await;
    harness.execute("UPDATE copyhold.object_copies SET b2 = 5").await;
    let (code, text) = said(&harness, &["replica", "remove", "b2", "--yes"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("this configuration still names it"), "{text}");
    assert_eq!(said(&harness, &["replica", "remove", "scw", "--yes"]).await.0, 0);
    assert_gone(&harness).await;
}

#[tokio::test]
async fn a_copy_that_a_late_write_may_still_reach_does_not_count_as_one_elsewhere() {
    let harness = about_to_leave().await;
    let unsettled = |replica: &str, settled: &str| {
        format!(
            "INSERT INTO copyhold.unsettled (object_key, replica, verify_at, settled_at)
             SELECT object_key, '{replica}', n, n + {settled} FROM copyhold.object_copies, copyhold.now_utc_micro_seconds() n
              ORDER BY object_key LIMIT 1"
        )
    };
    // Two others have it, and one of them for certain.
    harness.execute(&unsettled("b2", "3600000000")).await;
    let (_, text) = said(&harness, &["replica", "remove", "scw", "--check"]).await;
    assert!(!text.contains("not settled"), "{text}");
    harness.execute(&unsettled("wasabi", "3600000000")).await;
    for arguments in [&["replica", "remove", "scw", "--check"][..], &["replica", "remove", "scw", "--yes"]] {
        let (code, text) = said(&harness, arguments).await;
        assert!(code != 0 && text.contains("are not settled") && text.contains("Try again in 3"), "{text}");
    }
    // What may still arrive at itself.
    harness.execute("DELETE FROM copyhold.unsettled").await;
    harness.execute(&unsettled("scw", "3600000000")).await;
    let (code, text) = said(&harness, &["replica", "remove", "scw", "--check"]).await;
    assert!(code != 0 && text.contains("1 copies elsewhere, or writes to it, are not settled"), "{text}");
    harness.execute("UPDATE copyhold.unsettled SET settled_at = 0").await;
    let (_, text) = said(&harness, &["replica", "remove", "scw", "--check"]).await;
    assert!(!text.contains("not settled"), "{text}");
}

#[tokio::test]
async fn what_becomes_the_only_copy_at_the_last_moment_is_kept() {
    let harness = about_to_leave().await;
    // The application holds the table, so that the removal is about to begin.
    let mut application = harness.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE copyhold.object_copies IN ACCESS SHARE MODE").execute(&mut *application).await.unwrap();
    let removing = removing(&harness);
    harness.until("SELECT to_regclass('copyhold.object_copies_scw_only') IS NOT NULL").await;
    harness
        .until(
            "SELECT coalesce(bool_and(indisvalid), false) FROM pg_index
              WHERE indexrelid = to_regclass('copyhold.object_copies_scw_only')",
        )
        .await;
    harness.execute("UPDATE copyhold.object_copies SET b2 = NULL, wasabi = NULL WHERE object_key = 'b'").await;
    application.rollback().await.unwrap();
    let output = soon("it gives up", removing.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    assert!(printed(&output).contains("it is the only holder of 1 object, \"b\""), "{}", printed(&output));
    assert_eq!(harness.value("SELECT count(scw) FROM copyhold.object_copies").await.unwrap(), "2");
}

#[tokio::test]
async fn a_removal_that_dies_at_any_point_is_safe_to_run_again() {
    let harness = about_to_leave().await;
    // While the index is built: it waits for open writers, and is left invalid.
    let mut writer = harness.pool.begin().await.unwrap();
    sqlx::query("UPDATE copyhold.object_copies SET size_bytes = size_bytes").execute(&mut *writer).await.unwrap();
    let mut dying = removing(&harness);
    harness.until("SELECT to_regclass('copyhold.object_copies_scw_only') IS NOT NULL").await;
    dying.kill().await.unwrap();
    // PostgreSQL notices it at its next write to the connection; here, at once.
    harness.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' AND datname = current_database()").await;
    writer.rollback().await.unwrap();
    harness.until(MIGRATION_LOCK_IS_FREE).await;
    let valid =
        "SELECT bool_and(indisvalid) FROM pg_index WHERE indexrelid = to_regclass('copyhold.object_copies_scw_only')";
    assert_eq!(harness.value(valid).await.unwrap(), "false");

    // When all is prepared, before the columns go: a transaction reads the table.
    harness.execute("INSERT INTO copyhold.copy_failures VALUES ('a', 'scw', 1, 1, 'denied', 'no', 1, 1)").await;
    let mut holder = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM copyhold.copy_failures FOR UPDATE").execute(&mut *holder).await.unwrap();
    let mut dying = removing(&harness);
    harness.until(&format!("SELECT coalesce(({valid}), false)")).await;
    // Not earlier: an index that is built anew waits for readers of the table.
    let mut reader = harness.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE copyhold.object_copies IN ACCESS SHARE MODE").execute(&mut *reader).await.unwrap();
    holder.rollback().await.unwrap();
    harness.until("SELECT NOT EXISTS (SELECT FROM copyhold.copy_failures)").await;
    dying.kill().await.unwrap();
    reader.rollback().await.unwrap();
    harness.until(MIGRATION_LOCK_IS_FREE).await;
    // PostgreSQL may have gone through with what it was sent: then all of it is done.
    let (code, text) = said(&harness, &["replica", "remove", "scw", "--yes"]).await;
    assert!(code == 0 || text.contains("the database has b2, wasabi"), "{text}");
    assert_gone(&harness).await;
}

#[tokio::test]
async fn of_two_removals_at_once_one_does_it_and_the_other_says_so() {
    let harness = about_to_leave().await;
    let mut reader = harness.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE copyhold.object_copies IN ACCESS SHARE MODE").execute(&mut *reader).await.unwrap();
    let both = [removing(&harness), removing(&harness)];
    // One waits for the table, the other for that one.
    harness.until("SELECT to_regclass('copyhold.object_copies_scw_only') IS NOT NULL").await;
    reader.rollback().await.unwrap();
    let mut said = Vec::new();
    for removing in both {
        let output = soon("it ends", removing.wait_with_output()).await.unwrap();
        said.push((output.status.success(), printed(&output)));
    }
    assert!(said.iter().any(|(done, text)| *done && text.contains("scw is removed, and all")), "{said:?}");
    assert_gone(&harness).await;
}

#[tokio::test]
async fn nothing_is_removed_while_a_write_may_be_under_way_that_a_crash_or_a_death_has_hidden() {
    let harness = about_to_leave().await;
    // As crash recovery leaves it. No daemon runs, so none has noted it.
    harness.execute("TRUNCATE copyhold.claims_intact").await;
    for command in [["replica", "remove", "scw", "--yes"], ["replica", "remove", "scw", "--check"]] {
        let (code, text) = said(&harness, &command).await;
        assert!(
            code != 0 && text.contains("PostgreSQL has crashed lately") && text.contains("Try again in "),
            "{text}"
        );
    }
    harness.execute("UPDATE copyhold.claims_intact SET unsettled_until = copyhold.now_utc_micro_seconds() - 1").await;
    harness.execute("UPDATE copyhold.object_copies SET lock = 1, lease = 1 WHERE object_key = 'a'").await;
    let (code, text) = said(&harness, &["replica", "remove", "scw", "--yes"]).await;
    assert!(code != 0 && text.contains("1 leases have run out"), "{text}");
    // A claim outlives its daemon's entry by up to a heartbeat.
    harness
        .execute(
            "UPDATE copyhold.object_copies SET lock = copyhold.now_utc_micro_seconds() + 20000000, lease = 7::bigint << 40
             WHERE object_key = 'a'",
        )
        .await;
    let (code, text) = said(&harness, &["replica", "remove", "scw", "--yes"]).await;
    assert!(code != 0 && text.contains("or their daemons are gone"), "{text}");
    harness.execute("UPDATE copyhold.object_copies SET lock = NULL, lease = NULL").await;
    let (code, text) = said(&harness, &["replica", "remove", "scw", "--yes"]).await;
    assert_eq!(code, 0, "{text}");
    assert_gone(&harness).await;
}
