//! Daemons that are not configured alike are reported, and do no harm.

use copyhold_sandbox::s3::BucketOptions;

use crate::harness::{Harness, bucket, printed};

const OBJECTS: usize = 24;

async fn upload(harness: &Harness) {
    for i in 0..OBJECTS {
        harness.upload(&format!("photo {i}"), format!("bytes {i}")).await;
    }
}

async fn assert_all_copied(harness: &Harness) {
    for i in 0..OBJECTS {
        let key = format!("photo {i}");
        harness.until_copied(&key).await;
        for replica in ["wasabi", "scw"] {
            assert_eq!(harness.bucket(replica).get(&key).unwrap(), format!("bytes {i}"), "{replica}");
        }
    }
}

#[tokio::test]
async fn a_daemon_that_knows_fewer_replicas_leaves_their_copies_to_one_that_knows_them() {
    let mut harness = Harness::new().await;
    harness.rewrite(|text| {
        let at = text.find("[replicas.scw]").unwrap();
        let end = text[at..].find("[http]").unwrap();
        format!("{}{}", &text[..at], &text[at + end..])
    });
    let fewer = harness.daemon().await;
    fewer.until_logged("no living daemon copies to replica scw").await;
    upload(&harness).await;
    harness.until("SELECT bool_and(wasabi IS NOT NULL) FROM copyhold.object_copies").await;
    assert!(harness.bucket("scw").keys().is_empty());
    harness.rewrite(|text| {
        let wasabi = &text[text.find("[replicas.wasabi]").unwrap()..text.find("[http]").unwrap()];
        let scw = wasabi.replace("wasabi", "scw");
        text.clone() + &scw
    });
    let all = harness.daemon().await;
    assert_all_copied(&harness).await;
    all.until_logged("Daemons and database differ: replica scw is in the configuration of").await;
    fewer.until_logged("No longer so: no living daemon copies to replica scw").await;
    let status = printed(&harness.run(&["status"]).await);
    assert!(status.contains("replica scw is in the configuration of daemon 2, not of daemon 1"), "{status}");
    let json = printed(&harness.run(&["status", "--json"]).await);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["differences"][0]["what"], "replicas", "{json}");
    // Said once, however often it was looked at.
    assert_eq!(all.log().matches("replica scw is in the configuration").count(), 1, "{}", all.log());
}

#[tokio::test]
async fn daemons_whose_leases_last_for_different_times_share_the_work() {
    let mut harness = Harness::unhurried().await;
    let long = harness.daemon().await;
    harness.rewrite(|text| text.replace("timeout = \"1h\"", "timeout = \"30m\""));
    let short = harness.daemon().await;
    for daemon in [&long, &short] {
        daemon.until_logged("lease.timeout is 1800s for daemon 2, 3600s for daemon 1").await;
    }
    upload(&harness).await;
    assert_all_copied(&harness).await;
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.swept_leases").await.unwrap(), "0");
}

#[tokio::test]
async fn one_name_for_two_buckets_gets_nothing_into_the_second() {
    let mut harness = Harness::new().await;
    let first = harness.daemon().await;
    first.until_logged("Copying to wasabi").await;
    harness.s3.create_bucket("elsewhere", BucketOptions::default());
    harness.rewrite(|text| {
        let other = text.replace(&format!("\"{}\"", bucket("wasabi")), "\"elsewhere\"");
        other.replace("primary = \"b2\"", "primary = \"scw\"")
    });
    let second = harness.daemon().await;
    second.until_logged("Not using wasabi: its recorded copies are in bucket photos-wasabi").await;
    upload(&harness).await;
    assert_all_copied(&harness).await;
    assert!(harness.s3.bucket("elsewhere").keys().is_empty());
    first.until_logged("Daemons and database differ: replica wasabi is bucket").await;
    first.until_logged("the primary is b2 for daemon 1, scw for daemon 2; in force is b2").await;
}
