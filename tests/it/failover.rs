//! PostgreSQL fails over to a standby that lacked the last commits. A reader of the lost events gets an error.

use std::{path::Path, time::Duration};

use copyhold::events::{End, Start};
use copyhold_core::domain::Epoch;
use copyhold_db::schema::migrate;
use copyhold_sandbox::postgres::{Cluster, Options};
use tokio::process::Command;

use crate::{
    events_follow::{Followed, SETTINGS, append, end, read_through},
    harness::{Harness, soon},
};

/// What the server has on disk at this moment becomes a standby that receives nothing more.
async fn take_standby(cluster: &mut Cluster, name: &str) {
    cluster.kill_server().await.unwrap();
    copy(&cluster.folder().join("data"), &cluster.folder().join(name)).await;
    cluster.restart().await.unwrap();
}

async fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().await.unwrap().success());
}

/// The server is lost, and this standby is promoted at its address.
async fn fail_over(cluster: &mut Cluster, harness: &Harness, name: &str) {
    cluster.kill_server().await.unwrap();
    let data = cluster.folder().join("data");
    std::fs::rename(&data, cluster.folder().join(format!("lost-to-{name}"))).unwrap();
    std::fs::rename(cluster.folder().join(name), &data).unwrap();
    copy(&data.join("PG_VERSION"), &data.join("standby.signal")).await;
    cluster.restart().await.unwrap();
    let promoted = async {
        // Its connections are those of the server that is gone, at first.
        while !matches!(sqlx::query_scalar("SELECT pg_promote()").fetch_one(&harness.pool).await, Ok(true)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the standby is promoted", promoted).await;
}

#[tokio::test]
async fn a_reader_is_told_when_postgresql_fails_over_to_a_standby_that_lacks_events() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.create_database("app", None).await.unwrap();
    let harness = Harness::at(cluster.url("app"), "").await;
    migrate(&harness.config).await.unwrap();
    let begun = harness.queue().log_head().await.unwrap();
    append(&harness, 1, 20).await;
    take_standby(&mut cluster, "first").await;
    let lost = append(&harness, 21, 20).await;
    let followed = Followed::of(&harness, SETTINGS);
    let mut reader = followed.reader(Start::Earliest);
    read_through(&mut reader, lost).await;
    let seen = reader.cursor().unwrap();
    // A crash loses nothing, and changes no cursor.
    assert_eq!(seen.epoch, Some(begun.epoch));
    copy(&cluster.folder().join("first"), &cluster.folder().join("second")).await;

    fail_over(&mut cluster, &harness, "first").await;
    // The daemon lives on, and the ids are given again before any reader asks.
    let again = append(&harness, 21, 100).await;
    assert!(again > lost);
    let epoch = other_log(end(&mut reader).await);
    let fresh = Followed::of(&harness, SETTINGS);
    for followed in [&followed, &fresh] {
        assert_eq!(end(&mut followed.reader(Start::After(seen))).await, End::OtherLog { epoch });
    }
    let mut reader = fresh.reader(Start::Earliest);
    read_through(&mut reader, again).await;
    let seen = reader.cursor().unwrap();
    assert_eq!(seen.epoch, Some(epoch));
    fresh.end().await;

    // A second standby of the first server: its timeline has the same number as the one that is lost now.
    fail_over(&mut cluster, &harness, "second").await;
    append(&harness, 21, 200).await;
    let second = other_log(end(&mut followed.reader(Start::After(seen))).await);
    assert!(![begun.epoch, epoch].contains(&second));
    followed.end().await;
    cluster.stop().await.unwrap();
}

/// The epoch that a reader with another log's cursor gets.
fn other_log(end: End) -> Epoch {
    match end {
        End::OtherLog { epoch } => epoch,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_standby_hands_out_no_events() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.create_database("app", None).await.unwrap();
    let harness = Harness::at(cluster.url("app"), "").await;
    migrate(&harness.config).await.unwrap();
    append(&harness, 1, 20).await;
    let epoch = harness.queue().log_status().await.unwrap().epoch;
    cluster.kill_server().await.unwrap();
    let data = cluster.folder().join("data");
    copy(&data.join("PG_VERSION"), &data.join("standby.signal")).await;
    cluster.restart().await.unwrap();
    let refused = soon("it answers", async {
        loop {
            match harness.queue().log_head().await {
                Err(error) if error.read_only_server().is_none() && error.is_unavailable() => {}
                answer => break answer,
            }
        }
    });
    let refused = refused.await.unwrap_err();
    assert!(refused.to_string().contains("is in recovery"), "{refused}");
    // An operator may look all the same.
    assert_eq!(harness.looking_queue().log_status().await.unwrap().epoch, epoch);
    cluster.stop().await.unwrap();
}
