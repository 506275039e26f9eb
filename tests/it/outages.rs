//! PostgreSQL and stores may be unavailable, at the start or later: daemons wait and resume.

use copyhold_db::schema::migrate;
use copyhold_sandbox::postgres::{Cluster, Options};
use copyhold_sandbox::s3::{Fault, Op, PauseGate, When};

use crate::{
    harness::{Harness, at_least_once, soon},
    wakeup::LISTENING,
};

/// A cluster of its own, because it is to be stopped; durable, because what was committed must still be there.
/// Its leases outlast the outage, however slow the machine is.
pub async fn with_own_cluster() -> (Cluster, Harness) {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.create_database("app", None).await.unwrap();
    let harness = Harness::at(cluster.url("app"), "[lease]\ntimeout = \"1m\"\n").await;
    migrate(&harness.config).await.unwrap();
    (cluster, harness)
}

#[tokio::test]
async fn daemons_wait_for_a_database_that_becomes_unavailable_and_lose_nothing() {
    let (mut cluster, harness) = with_own_cluster().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    harness.upload("before", "bytes").await;
    harness.until_copied("before").await;
    cluster.kill_server().await.unwrap();
    // The claimer may have been asleep when PostgreSQL became unavailable.
    daemon.until_logged("Could not look for work").await;
    cluster.restart().await.unwrap();
    harness.upload("after", "bytes").await;
    harness.until_copied("after").await;
    daemon.until_logged("PostgreSQL is back").await;
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_result_that_was_proven_while_the_database_was_unavailable_is_recorded_when_it_is_back() {
    let (mut cluster, harness) = with_own_cluster().await;
    let gate = PauseGate::new();
    harness.bucket("scw").order(Fault::Hold(gate.clone()), When::op(Op::PutObject).next(1));
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    harness.upload("photo", "bytes").await;
    soon("the copy is under way", gate.holds(1)).await;
    cluster.kill_server().await.unwrap();
    gate.open();
    daemon.until_logged("Could not record results").await;
    cluster.restart().await.unwrap();
    harness.until_copied("photo").await;
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_daemon_started_before_its_database_begins_when_that_comes() {
    let (mut cluster, harness) = with_own_cluster().await;
    cluster.kill_server().await.unwrap();
    let daemon = harness.daemon_unawaited();
    daemon.until_logged("Could not look at the schema").await;
    cluster.restart().await.unwrap();
    harness.upload("photo", "bytes").await;
    harness.until_copied("photo").await;
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn daemons_wait_for_stores_that_are_unavailable_at_the_start() {
    let harness = Harness::new().await;
    harness.upload("photo", "bytes").await;
    harness.s3.close().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Not copying to wasabi: its bucket could not be listed").await;
    harness.s3.open().await.unwrap();
    harness.until_copied("photo").await;
}

#[tokio::test]
async fn a_store_that_does_not_answer_keeps_no_other_from_being_used() {
    at_least_once("the silence of wasabi's bucket is not waited for", async || {
        let harness = Harness::new().await;
        harness.execute("UPDATE copyhold.replicas SET existing = 'empty', writable_at = 1 WHERE name = 'scw'").await;
        harness.bucket("wasabi").order(Fault::Stall, When::op(Op::ListObjectsV2));
        harness.upload("photo", "bytes").await;
        let daemon = harness.daemon().await;
        harness.until("SELECT scw IS NOT NULL FROM copyhold.object_copies").await;
        let waited_for = daemon.log().contains("no answer within");
        daemon.until_logged("Not copying to wasabi: its bucket could not be listed: no answer within").await;
        !waited_for
    })
    .await;
}

#[tokio::test]
async fn a_broken_listening_connection_is_noticed_and_made_anew() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Listening").await;
    harness.until(&format!("SELECT count(pg_terminate_backend(pid)) > 0 {LISTENING}")).await;
    daemon.until_logged("Lost LISTEN connection").await;
    harness.upload("photo", "bytes").await;
    harness.until_copied("photo").await;
    harness.until(&format!("SELECT count(*) = 1 {LISTENING}")).await;
}
