//! Daemons that are not configured alike are reported, and do no harm.

use copyhold_sandbox::s3::BucketOptions;

use crate::harness::{World, bucket, printed};

const OBJECTS: usize = 24;

async fn upload(world: &World) {
    for i in 0..OBJECTS {
        world.upload(&format!("photo {i}"), format!("bytes {i}")).await;
    }
}

async fn assert_all_copied(world: &World) {
    for i in 0..OBJECTS {
        let key = format!("photo {i}");
        world.until_copied(&key).await;
        for replica in ["wasabi", "scw"] {
            assert_eq!(world.bucket(replica).get(&key).unwrap(), format!("bytes {i}"), "{replica}");
        }
    }
}

#[tokio::test]
async fn a_daemon_that_knows_fewer_replicas_leaves_their_copies_to_one_that_knows_them() {
    let mut world = World::new().await;
    world.rewrite(|text| {
        let at = text.find("[replicas.scw]").unwrap();
        let end = text[at..].find("[http]").unwrap();
        format!("{}{}", &text[..at], &text[at + end..])
    });
    let fewer = world.daemon().await;
    fewer.until_logged("no living daemon copies to replica scw").await;
    upload(&world).await;
    world.until("SELECT bool_and(wasabi IS NOT NULL) FROM copyhold.object_copies").await;
    assert!(world.bucket("scw").keys().is_empty());
    world.rewrite(|text| {
        let wasabi = &text[text.find("[replicas.wasabi]").unwrap()..text.find("[http]").unwrap()];
        let scw = wasabi.replace("wasabi", "scw");
        text.clone() + &scw
    });
    let all = world.daemon().await;
    assert_all_copied(&world).await;
    all.until_logged("Daemons and database differ: replica scw is in the configuration of").await;
    fewer.until_logged("No longer so: no living daemon copies to replica scw").await;
    let status = printed(&world.run(&["status"]).await);
    assert!(status.contains("replica scw is in the configuration of daemon 2, not of daemon 1"), "{status}");
    let json = printed(&world.run(&["status", "--json"]).await);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["differences"][0]["what"], "replicas", "{json}");
    // Said once, however often it was looked at.
    assert_eq!(all.log().matches("replica scw is in the configuration").count(), 1, "{}", all.log());
}

#[tokio::test]
async fn daemons_whose_leases_last_for_different_times_share_the_work() {
    let mut world = World::unhurried().await;
    let long = world.daemon().await;
    world.rewrite(|text| text.replace("timeout = \"1h\"", "timeout = \"30m\""));
    let short = world.daemon().await;
    for daemon in [&long, &short] {
        daemon.until_logged("lease.timeout is 1800s for daemon 2, 3600s for daemon 1").await;
    }
    upload(&world).await;
    assert_all_copied(&world).await;
    assert_eq!(world.value("SELECT count(*) FROM copyhold.swept_leases").await.unwrap(), "0");
}

#[tokio::test]
async fn one_name_for_two_buckets_gets_nothing_into_the_second() {
    let mut world = World::new().await;
    let first = world.daemon().await;
    first.until_logged("Copying to wasabi").await;
    world.s3.create_bucket("elsewhere", BucketOptions::default());
    world.rewrite(|text| {
        let other = text.replace(&format!("\"{}\"", bucket("wasabi")), "\"elsewhere\"");
        other.replace("primary = \"b2\"", "primary = \"scw\"")
    });
    let second = world.daemon().await;
    second.until_logged("Not using wasabi: its recorded copies are in bucket photos-wasabi").await;
    upload(&world).await;
    assert_all_copied(&world).await;
    assert!(world.s3.bucket("elsewhere").keys().is_empty());
    first.until_logged("Daemons and database differ: replica wasabi is bucket").await;
    first.until_logged("the primary is b2 for daemon 1, scw for daemon 2; in force is b2").await;
}
