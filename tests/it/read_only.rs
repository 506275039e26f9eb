//! A read-only PostgreSQL is reported and not used, and work resumes as soon as a server can be written to.

use copyhold_db::{
    connections::{Access, Pools},
    schema::migrate,
    server::probe,
};
use copyhold_sandbox::postgres::{Cluster, Options};
use tokio::process::Command;

use crate::{
    harness::{Harness, eventually, printed, replica},
    http::{self, Http},
    outages::with_own_cluster,
};

/// From its next start on the server follows one that does not exist, until it is promoted.
async fn demote(cluster: &mut Cluster) {
    cluster.kill_server().await.unwrap();
    let data = cluster.folder().join("data");
    let files = [data.join("PG_VERSION"), data.join("standby.signal")];
    assert!(Command::new("cp").arg("-a").args(files).status().await.unwrap().success());
    cluster.restart().await.unwrap();
}

async fn readiness(harness: &Harness) -> String {
    match Http(harness.config.http.listen).get("/readyz", &[]).await {
        Some(mut answer) => answer.line().await.unwrap_or_default(),
        None => String::new(),
    }
}

#[tokio::test]
async fn a_read_only_database_is_named_and_work_goes_on_when_it_can_be_written_to() {
    let (cluster, mut harness) = with_own_cluster().await;
    harness.rewrite(|text| {
        text.replace("listen = \"127.0.0.1:0\"", &format!("listen = \"127.0.0.1:{}\"", http::free_port()))
    });
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    harness.upload("before", "bytes").await;
    harness.until_copied("before").await;
    // Sessions that are there become read-only too.
    harness.execute("ALTER SYSTEM SET default_transaction_read_only = on").await;
    harness.execute("SELECT pg_reload_conf()").await;
    daemon.until_logged("is read-only: default_transaction_read_only is on").await;
    eventually("/readyz says so", async || readiness(&harness).await.contains("PostgreSQL is read-only")).await;
    let check = harness.run(&["check"]).await;
    assert!(!check.status.success(), "{}", printed(&check));
    let address = format!("the server at 127.0.0.1:{} is read-only", cluster.port());
    assert!(printed(&check).contains(&address), "{}", printed(&check));
    let status = harness.run(&["status"]).await;
    assert!(status.status.success() && printed(&status).contains(&address), "{}", printed(&status));
    harness.execute("ALTER SYSTEM RESET default_transaction_read_only").await;
    harness.execute("SELECT pg_reload_conf()").await;
    let writable =
        async || harness.value("SELECT current_setting('transaction_read_only')").await.as_deref() == Some("off");
    eventually("it can be written to", writable).await;
    harness.upload("after", "bytes").await;
    harness.until_copied("after").await;
    eventually("/readyz says so", async || readiness(&harness).await == "ready").await;
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_was_started_on_a_standby_begins_when_that_is_promoted() {
    let (mut cluster, mut harness) = with_own_cluster().await;
    harness.rewrite(|text| {
        text.replace("listen = \"127.0.0.1:0\"", &format!("listen = \"127.0.0.1:{}\"", http::free_port()))
    });
    harness.upload("photo", "bytes").await;
    demote(&mut cluster).await;
    let daemon = harness.daemon_unawaited();
    daemon.until_logged("is in recovery and so read-only").await;
    let said = async || match Http(harness.config.http.listen).get("/v1/events?after=0", &[]).await {
        Some(mut answer) => answer.line().await.unwrap_or_default(),
        None => String::new(),
    };
    eventually("readers of events hear so", async || {
        said().await.contains("PostgreSQL is in recovery and so read-only")
    })
    .await;
    let promoted = async || {
        let promoted = sqlx::query_scalar("SELECT pg_promote()").fetch_one(&harness.pool).await;
        matches!(promoted, Ok(true))
    };
    eventually("it is promoted", promoted).await;
    harness.until_copied("photo").await;
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn of_several_servers_the_one_that_can_be_written_to_is_used() {
    let (primary, mut harness) = with_own_cluster().await;
    let mut standby = Cluster::start(Options::for_tests()).await.unwrap();
    standby.create_database("app", None).await.unwrap();
    demote(&mut standby).await;
    let folders = [standby.folder().display().to_string(), primary.folder().display().to_string()].join(",");
    let url = format!("postgres:///app?user=postgres&host={folders}&port={},{}", standby.port(), primary.port());
    let before = harness.database_url();
    harness.rewrite(|text| text.replace(&before, &url));
    let daemon = harness.daemon().await;
    harness.upload("photo", "bytes").await;
    harness.until_copied("photo").await;
    assert!(!daemon.log().contains("in recovery"), "{}", daemon.log());
    // When the other is the primary, it is found.
    drop(daemon);
    let pools = Pools::new(&harness.config.database);
    assert_eq!(probe(&pools.work).await.unwrap(), None);
    let mut primary = primary;
    primary.kill_server().await.unwrap();
    let error = probe(&pools.work).await.unwrap_err().to_string();
    assert!(error.contains("is in recovery") && error.contains("cannot reach PostgreSQL at"), "{error}");
    let reads = Pools::with(&harness.config.database, Access::Any);
    assert!(probe(&reads.work).await.unwrap().is_some_and(|server| server.at.contains(&standby.port().to_string())));
    primary.stop().await.unwrap();
    standby.stop().await.unwrap();
}

#[tokio::test]
async fn a_connection_that_answers_that_it_can_only_be_read_is_not_used_again() {
    let harness = Harness::new().await;
    let pools = Pools::new(&harness.config.database);
    let backend =
        async || -> i32 { sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&pools.work).await.unwrap() };
    let first = backend().await;
    assert_eq!(backend().await, first);
    let sql = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY";
    sqlx::query(sql).execute(&pools.work).await.unwrap();
    assert_eq!(backend().await, first);
    let refused = sqlx::query("CREATE TABLE copyhold.t (i int)").execute(&pools.work).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("25006"));
    assert_ne!(backend().await, first);
    sqlx::query("CREATE TABLE copyhold.t (i int)").execute(&pools.work).await.unwrap();
    // One that answers an ordinary error is.
    let second = backend().await;
    assert!(sqlx::query("SELECT 1 / 0").execute(&pools.work).await.is_err());
    assert_eq!(backend().await, second);
}

#[tokio::test]
async fn a_transaction_that_does_not_end_ends_with_its_connection() {
    let harness = Harness::new().await;
    let pools = Pools::new(&harness.config.database);
    let mut transaction = pools.heartbeat.begin().await.unwrap();
    sqlx::query("CREATE TABLE copyhold.t (i int)").execute(&mut *transaction).await.unwrap();
    drop(transaction);
    harness
        .until(
            "SELECT to_regclass('copyhold.t') IS NULL AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.database = \
                (SELECT oid FROM pg_database WHERE datname = current_database()) AND mode = 'AccessExclusiveLock')",
        )
        .await;
    let transaction = pools.heartbeat.begin().await.unwrap();
    transaction.commit().await.unwrap();
    assert!(
        harness
            .queue()
            .claim(&harness.enlist(60).await, &replica("scw"), 1, copyhold_db::lease::LanePosition::BEGINNING)
            .await
            .is_ok()
    );
    migrate(&harness.config).await.unwrap();
}
