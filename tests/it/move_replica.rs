//! A replica that is another bucket inherits no proof from the old one.

use std::process::Stdio;

use copyhold_sandbox::s3::{BucketOptions, Op};

use crate::harness::{Harness, printed};

async fn said(harness: &Harness, arguments: &[&str]) -> (i32, String) {
    let output = harness.run(arguments).await;
    (output.status.code().unwrap(), printed(&output))
}

/// A harness whose objects are everywhere; no daemon is alive any more, and the configuration names another bucket for scw.
async fn about_to_move(keys: &[&str]) -> Harness {
    let mut harness = Harness::new().await;
    let mut daemon = harness.daemon().await;
    for key in keys {
        harness.upload(key, format!("bytes of {key}")).await;
        harness.until_copied(key).await;
    }
    harness.s3.create_bucket("another", BucketOptions::default());
    let (code, text) = said(&harness, &["replica", "move", "scw", "--yes"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("as the configuration says: there is nothing to move"), "{text}");
    harness.rewrite(|text| text.replace("photos-scw", "another"));
    let (code, text) = said(&harness, &["replica", "move", "scw", "--yes"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("daemon 1 still uses bucket photos-scw at http://"), "{text}");
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
    harness
}

#[tokio::test]
async fn a_replica_that_moved_is_filled_anew() {
    let harness = about_to_move(&["a", "b"]).await;
    // What is there counts as foreign as long as the configuration does not say what to do with it.
    let daemon = harness.daemon().await;
    daemon.until_logged("Not using scw: its recorded copies are in bucket photos-scw").await;
    let (code, text) = said(&harness, &["replica", "move", "scw", "--yes"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("scw is bucket another at http://") && text.contains("no longer bucket photos-scw"),
        "{text}"
    );
    assert!(text.contains("move of scw: 2 copies were cleared"), "{text}");
    for key in ["a", "b"] {
        harness.until_copied(key).await;
        assert_eq!(harness.s3.bucket("another").get(key).unwrap(), format!("bytes of {key}"));
    }
    assert_eq!(harness.bucket("scw").keys(), ["a", "b"], "the old bucket is left as it was");
    assert_eq!(harness.value("SELECT existing FROM copyhold.replicas WHERE name = 'scw'").await.unwrap(), "empty");
    let told = "SELECT event_data ->> 'bucket' FROM copyhold.log WHERE event_data ->> 'kind' = 'replica.moved'";
    assert_eq!(harness.value(told).await.unwrap(), "another");
}

#[tokio::test]
async fn where_the_same_is_said_to_be_there_it_is_compared_and_nothing_is_written_over() {
    let harness = about_to_move(&["equal", "different", "missing"]).await;
    let another = harness.s3.bucket("another");
    another.put("equal", "bytes of equal");
    another.put("different", "theirs");
    let (code, text) = said(&harness, &["replica", "move", "scw", "--same-content", "--yes"]).await;
    assert_eq!(code, 0, "{text}");
    assert_eq!(harness.value("SELECT count(scw) FROM copyhold.object_copies").await.unwrap(), "0");
    let _daemon = harness.daemon().await;
    for key in ["equal", "missing"] {
        harness.until_copied(key).await;
        assert_eq!(another.get(key).unwrap(), format!("bytes of {key}"));
    }
    assert_eq!(another.calls(Op::PutObject), 1);
    harness
        .until("SELECT due_scw = 9000000000000000000 FROM copyhold.object_copies WHERE object_key = 'different'")
        .await;
    assert_eq!(another.get("different").unwrap(), "theirs");
}

#[tokio::test]
async fn a_move_that_was_killed_goes_on_and_no_proof_survives_it() {
    let harness = about_to_move(&["a", "b"]).await;
    let mut application = harness.pool.begin().await.unwrap();
    let hold = "SELECT FROM copyhold.object_copies WHERE object_key = 'a' FOR UPDATE";
    sqlx::query(hold).execute(&mut *application).await.unwrap();
    let mut moving = harness.program(&["replica", "move", "scw", "--yes"]).stdout(Stdio::null()).spawn().unwrap();
    harness.until("SELECT count(*) = 1 FROM copyhold.object_copies WHERE scw IS NOT NULL").await;
    moving.kill().await.unwrap();
    application.rollback().await.unwrap();
    let (_, text) = said(&harness, &["status"]).await;
    assert!(text.contains("the move of scw, begun ") && text.contains("`copyhold replica move scw` goes on"), "{text}");
    let (code, text) = said(&harness, &["replica", "move", "scw", "--yes"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("the move of scw begun 20") && text.contains("2 copies were cleared"), "{text}");
    let _daemon = harness.daemon().await;
    for key in ["a", "b"] {
        harness.until_copied(key).await;
        assert_eq!(harness.s3.bucket("another").get(key).unwrap(), format!("bytes of {key}"));
    }
}

#[tokio::test]
async fn what_has_nowhere_to_move_is_said() {
    let mut harness = Harness::new().await;
    let (code, text) = said(&harness, &["replica", "move", "scw", "--yes"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("scw was not used yet, so there is nothing to move"), "{text}");
    harness.rewrite(|text| {
        let from = text.find("[replicas.scw]").unwrap();
        let to = from + text[from..].find("[http]").unwrap();
        format!("{}{}", &text[..from], &text[to..])
    });
    let (code, text) = said(&harness, &["replica", "move", "scw", "--yes"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("this configuration has no replica scw"), "{text}");
}
