//! Transactions of the application that are committed in two phases: PREPARE TRANSACTION refuses those that have notified.

use copyhold_db::schema::migrate;
use copyhold_sandbox::postgres::{Cluster, Options};

use crate::harness::Harness;

async fn prepared(harness: &Harness, statement: &str, name: &str) -> Result<(), String> {
    let prepare = format!("BEGIN; {statement}; PREPARE TRANSACTION '{name}'");
    let mut connection = harness.pool.acquire().await.unwrap();
    let sql = |text: String| sqlx::raw_sql(sqlx::AssertSqlSafe(text));
    let outcome = sql(prepare).execute(&mut *connection).await.map_err(|error| error.to_string());
    let end = if outcome.is_ok() { format!("COMMIT PREPARED '{name}'") } else { "ROLLBACK".to_owned() };
    sql(end).execute(&mut *connection).await.unwrap();
    outcome.map(drop)
}

const INSERT: &str =
    "INSERT INTO copyhold.object_copies (object_key, b2) VALUES ('one', copyhold.now_utc_micro_seconds())";

#[tokio::test]
async fn what_is_registered_in_two_phases_is_copied_and_never_refused_while_daemons_sleep() {
    let cluster = Cluster::start(Options::for_tests().with("max_prepared_transactions", "5")).await.unwrap();
    cluster.create_database("app", None).await.unwrap();
    let mut harness = Harness::at(cluster.url("app"), "").await;
    migrate(&harness.config).await.unwrap();
    for key in ["one", "two"] {
        harness.bucket("b2").put(key, "bytes");
    }
    let daemon = harness.daemon().await;
    daemon.until_logged("Looking for new objects every second: the server allows prepared transactions").await;
    daemon.until_logged("Copying to scw").await;
    harness.until("SELECT bool_and(wakeup LIKE 'poll%PREPARE TRANSACTION%') FROM copyhold.daemons").await;
    prepared(&harness, INSERT, "x1").await.unwrap();
    harness.until_copied("one").await;
    prepared(&harness, "SELECT copyhold.register('two')", "x2").await.unwrap();
    harness.until_copied("two").await;
    prepared(&harness, "SELECT copyhold.append_event('{\"kind\": \"mine\"}')", "x3").await.unwrap();
    harness.until("SELECT EXISTS (SELECT FROM copyhold.log WHERE event_data ->> 'kind' = 'mine')").await;
    assert_eq!(
        harness.value("SELECT bool_or(sleeping OR inbox_sleeping) FROM copyhold.daemons").await.unwrap(),
        "false"
    );
    // A configuration that asks for notifications all the same gets PostgreSQL's refusal.
    drop(daemon);
    harness.rewrite(|text| text.replace("[database]\n", "[database]\nwakeup = \"notify\"\n"));
    harness.execute("DELETE FROM copyhold.daemons").await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Listening for new objects").await;
    harness.until("SELECT bool_or(sleeping) FROM copyhold.daemons").await;
    let refused = prepared(&harness, "SELECT copyhold.register('two')", "x4").await.unwrap_err();
    assert!(refused.contains("cannot PREPARE"), "{refused}");
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_sleeps_through_the_restart_that_allows_it_wants_no_notices_any_more() {
    let mut cluster = Cluster::start(Options::for_tests()).await.unwrap();
    cluster.create_database("app", None).await.unwrap();
    let harness = Harness::at(cluster.url("app"), "").await;
    migrate(&harness.config).await.unwrap();
    let daemon = harness.daemon().await;
    daemon.until_logged("Listening for new objects").await;
    harness.until("SELECT bool_and(sleeping AND inbox_sleeping) FROM copyhold.daemons").await;
    harness.execute("ALTER SYSTEM SET max_prepared_transactions = 5").await;
    cluster.restart().await.unwrap();
    harness.until("SELECT bool_and(wakeup LIKE 'poll%PREPARE TRANSACTION%') FROM copyhold.daemons").await;
    harness.until("SELECT NOT bool_or(sleeping OR inbox_sleeping) FROM copyhold.daemons").await;
    prepared(&harness, INSERT, "x1").await.unwrap();
    cluster.stop().await.unwrap();
}
