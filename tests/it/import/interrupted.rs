//! Whatever ends an import, the same command resumes it, with the same result.

use std::time::Duration;

use copyhold::import::{ImportContext, ImportOptions, check};
use copyhold_core::domain::Fence;
use copyhold_db::import::{BatchEnd, ImportPlan, TimeUnit};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::process::Child;

use super::{AS_IN_THE_ESSAY, assert_equal, imported, report, with_rows};
use crate::{
    harness::{Harness, printed, replica, soon},
    outages::with_own_cluster,
};

fn begin(harness: &Harness, arguments: &[&str]) -> Child {
    let mut command = harness.program(&[&["import", "--table", "object_copies"], arguments].concat());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap())).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Another transaction that registers this key, and has not ended.
async fn registering(harness: &Harness, key: &str) -> PgConnection {
    let mut other = PgConnection::connect(&harness.database_url()).await.unwrap();
    let key = key.replace('\'', "''");
    let sql = format!("BEGIN; INSERT INTO copyhold.object_copies (object_key, b2) VALUES ('{key}', 1)");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut other).await.unwrap();
    other
}

/// The key that has so many before it.
async fn key_at(harness: &Harness, place: u32) -> String {
    harness
        .value(&format!("SELECT object_key FROM object_copies ORDER BY object_key OFFSET {place} LIMIT 1"))
        .await
        .unwrap()
}

const READ: &str = "coalesce((SELECT (tally ->> 'read')::bigint FROM copyhold.imports), 0)";

async fn plan(harness: &Harness) -> ImportPlan {
    let queue = harness.queue();
    let table = queue.source_table("object_copies").await.unwrap().unwrap();
    let names: Vec<_> = harness.config.replicas.iter().map(|r| r.name.clone()).collect();
    let (rows, primary) = (queue.replica_rows().await.unwrap(), replica("b2"));
    let ground = ImportContext { schema: "copyhold", replicas: &names, rows: &rows, primary: &primary, may: None };
    check(table, &ImportOptions { map: None, unit: TimeUnit::Micros, assume_primary: false }, &ground).unwrap()
}

#[tokio::test]
async fn killed_again_and_again_it_takes_each_row_over_once() {
    let harness = with_rows(30_000).await;
    for kill in 1..=8 {
        let mut child = begin(&harness, &["--batch", "40"]);
        harness.until(&format!("SELECT {READ} > {}", kill * 2_500)).await;
        child.kill().await.unwrap();
        // It is dead, and its successor need not wait whether it is.
        harness.execute("UPDATE copyhold.imports SET alive_until = 0").await;
    }
    let before: u64 = harness.value(&format!("SELECT {READ}")).await.unwrap().parse().unwrap();
    assert!((20_000..30_000).contains(&before), "{before}");
    let (code, found) = report(&harness, &["--batch", "1000"]).await;
    assert_eq!((code, &found["read"], &found["imported"]), (0, &30_000.into(), &30_000.into()), "{found}");
    assert_eq!((&found["already_registered"], &found["read_before"]), (&0.into(), &before.into()));
    assert_equal(&harness, AS_IN_THE_ESSAY).await;
}

#[tokio::test]
async fn of_two_at_once_one_is_refused_and_a_dead_one_is_waited_for() {
    let harness = with_rows(1_000).await;
    let other = registering(&harness, &key_at(&harness, 500).await).await;
    let mut child = begin(&harness, &["--batch", "100"]);
    harness.until(&format!("SELECT {READ} >= 400")).await;
    let (code, text) = imported(&harness, &[]).await;
    assert_eq!(code, 1);
    assert!(text.contains("is at work on an import of this table") && text.contains(", process "), "{text}");
    child.kill().await.unwrap();
    other.close().await.unwrap();
    // Within the ten seconds until which it counts as alive.
    let (code, found) = report(&harness, &[]).await;
    assert_eq!((code, &found["imported"]), (0, &1_000.into()), "{found}");
    assert!(found["read_before"].as_u64().unwrap() >= 400, "{found}");
    assert_equal(&harness, AS_IN_THE_ESSAY).await;
}

#[tokio::test]
async fn what_another_transaction_is_registering_is_waited_for_without_holding_anything() {
    let harness = with_rows(300).await;
    let key = key_at(&harness, 150).await;
    let mut other = registering(&harness, &key).await;
    let child = begin(&harness, &["--batch", "100"]);
    harness.until(&format!("SELECT {READ} >= 149")).await;
    // The application continues with keys around it, in the same transaction even: none of them waits.
    let next = key_at(&harness, 151).await;
    let sql = format!(
        "SET statement_timeout = '5s'; INSERT INTO copyhold.object_copies (object_key, b2) VALUES ('{next}', 1)"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut other).await.unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    let output = soon("it ends", child.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert!(printed(&output).contains("298 objects registered, 2 already registered"), "{}", printed(&output));
}

#[tokio::test]
async fn told_to_stop_it_ends_after_a_batch_and_goes_on_from_there() {
    let harness = with_rows(1_000).await;
    let other = registering(&harness, &key_at(&harness, 500).await).await;
    let child = begin(&harness, &["--batch", "100"]);
    harness.until(&format!("SELECT {READ} >= 400")).await;
    signal(&child, Signal::INT);
    let output = soon("it ends", child.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    assert!(printed(&output).contains("told to stop; the same command goes on"), "{}", printed(&output));
    other.close().await.unwrap();
    let (code, text) = imported(&harness, &["--assume-primary"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("was begun with other arguments") && text.contains("--anew"), "{text}");
    let (code, found) = report(&harness, &[]).await;
    assert_eq!((code, &found["imported"]), (0, &1_000.into()), "{found}");
    assert!(found["read_before"].as_u64().unwrap() >= 400, "{found}");
    let (code, found) = report(&harness, &["--anew", "--assume-primary"]).await;
    assert_eq!((code, &found["read_before"], &found["already_registered"]), (0, &0.into(), &1_000.into()), "{found}");
}

#[tokio::test]
async fn a_place_in_a_table_that_was_made_anew_is_none() {
    let harness = with_rows(300).await;
    let plan = plan(&harness).await;
    let queue = harness.queue();
    assert!(queue.claim_import(&plan, Fence(1), "test", None, true).await.unwrap());
    let bound = queue.import_bound(&plan, None, 200).await.unwrap();
    queue.import_batch(&plan, Fence(1), None, &bound).await.unwrap().unwrap();
    queue.release_import(&plan, Fence(1)).await.unwrap();
    harness.execute("CREATE TABLE anew (LIKE object_copies INCLUDING ALL); INSERT INTO anew SELECT * FROM object_copies; DROP TABLE object_copies; ALTER TABLE anew RENAME TO object_copies").await;
    let (code, found) = report(&harness, &[]).await;
    assert_eq!((code, &found["read"], &found["already_registered"]), (0, &300.into(), &200.into()), "{found}");
    assert_equal(&harness, AS_IN_THE_ESSAY).await;
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_not_done_twice() {
    let harness = with_rows(300).await;
    let (queue, plan) = (harness.queue(), plan(&harness).await);
    assert!(queue.claim_import(&plan, Fence(1), "test", None, true).await.unwrap());
    let bound = queue.import_bound(&plan, None, 100).await.unwrap();
    assert_eq!(queue.import_batch(&plan, Fence(1), None, &bound).await.unwrap().unwrap().imported(), 100);
    // The same again, and by a run that does not hold it.
    assert!(queue.import_batch(&plan, Fence(1), None, &bound).await.unwrap().is_none());
    assert!(queue.import_batch(&plan, Fence(2), bound.key(), &BatchEnd::End).await.unwrap().is_none());
    // No other run takes it while its holder lives, and a holder that has lost it learns that.
    assert!(!queue.claim_import(&plan, Fence(2), "other", Some(Fence(1)), false).await.unwrap());
    harness.execute("UPDATE copyhold.imports SET alive_until = 0").await;
    assert!(!queue.claim_import(&plan, Fence(2), "other", None, false).await.unwrap());
    assert!(queue.claim_import(&plan, Fence(2), "other", Some(Fence(1)), false).await.unwrap());
    assert!(!queue.renew_import(&plan, Fence(1)).await.unwrap());
    assert!(queue.import_batch(&plan, Fence(1), bound.key(), &BatchEnd::End).await.unwrap().is_none());
    let tally = queue.import_batch(&plan, Fence(2), bound.key(), &BatchEnd::End).await.unwrap().unwrap();
    assert_eq!((tally.read(), tally.imported(), tally.registered()), (300, 300, 0));
    assert_eq!(harness.value("SELECT ended_at IS NOT NULL FROM copyhold.imports").await.unwrap(), "true");
}

#[tokio::test]
async fn an_import_waits_for_a_database_that_is_unavailable_for_a_moment() {
    let (mut cluster, harness) = with_own_cluster().await;
    harness.execute(super::ESSAY).await;
    harness
        .execute("INSERT INTO object_copies SELECT md5(i::text), 1704067200000000 FROM generate_series(1, 5000) i")
        .await;
    let other = registering(&harness, &key_at(&harness, 2_500).await).await;
    let child = begin(&harness, &["--batch", "100"]);
    harness.until(&format!("SELECT {READ} >= 2400")).await;
    cluster.kill_server().await.unwrap();
    drop(other);
    // Long enough for it to notice.
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.restart().await.unwrap();
    let output = soon("it ends", child.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert!(printed(&output).contains("5000 objects registered, 0 already"), "{}", printed(&output));
    assert_equal(&harness, AS_IN_THE_ESSAY).await;
    cluster.stop().await.unwrap();
}
