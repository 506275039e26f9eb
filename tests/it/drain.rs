//! A draining replica gets no more copies and counts as missing nowhere, and loses nothing when the drain is undone.

use copyhold_sandbox::s3::{Fault, Op, PauseGate, When};

use crate::harness::{Harness, printed, replica, soon};

async fn said(harness: &Harness, arguments: &[&str]) -> (i32, String) {
    let output = harness.run(arguments).await;
    (output.status.code().unwrap(), printed(&output))
}

#[tokio::test]
async fn a_draining_replica_gets_no_copies_and_undraining_loses_none() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    harness.upload("before", "bytes").await;
    harness.until_copied("before").await;
    let (code, text) = said(&harness, &["replica", "drain", "scw", "--because", "its contract ends"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("scw is draining since 20") && text.contains(" (its contract ends)"), "{text}");
    daemon.until_logged("Not copying to scw: it is draining since").await;
    for key in ["meanwhile 1", "meanwhile 2"] {
        harness.upload(key, "bytes").await;
    }
    let elsewhere = "SELECT count(*) = 2 FROM copyhold.object_copies
                      WHERE object_key LIKE 'meanwhile%' AND wasabi IS NOT NULL AND scw IS NULL AND due_scw > 1";
    harness.until(elsewhere).await;
    // Another registration of what it has makes it lack that as well, and it is still a source.
    harness.value("SELECT copyhold.register('before')").await;
    harness.bucket("b2").order(Fault::internal_error(), When::op(Op::GetObject).key("from scw"));
    harness.bucket("scw").put("from scw", "bytes");
    harness.bucket("b2").put("from scw", "bytes");
    harness
        .execute(
            "INSERT INTO copyhold.object_copies (object_key, b2, scw) VALUES
             ('from scw', copyhold.now_utc_micro_seconds(), copyhold.now_utc_micro_seconds())",
        )
        .await;
    harness.until("SELECT wasabi IS NOT NULL FROM copyhold.object_copies WHERE object_key = 'from scw'").await;
    harness.until("SELECT wasabi IS NOT NULL FROM copyhold.object_copies WHERE object_key = 'before'").await;
    assert_eq!(harness.bucket("scw").keys(), ["before", "from scw"]);

    let (code, text) = said(&harness, &["replica", "undrain", "scw"]).await;
    assert_eq!((code, text.as_str()), (0, "scw is copied to again: all that it lacks is due\n"));
    for key in ["before", "meanwhile 1", "meanwhile 2"] {
        harness.until_copied(key).await;
    }
    let (code, text) = said(&harness, &["replica", "undrain", "scw"]).await;
    assert_eq!((code, text.as_str()), (0, "scw was not draining\n"));
    let kinds = "SELECT string_agg(event_data ->> 'kind', ' ' ORDER BY id) FROM copyhold.log
                  WHERE event_data ->> 'kind' IN ('replica.draining', 'replica.undrained')";
    assert_eq!(harness.value(kinds).await.unwrap(), "replica.draining replica.undrained");
}

#[tokio::test]
async fn what_a_draining_replica_lacks_is_counted_only_on_request() {
    let harness = Harness::new().await;
    for key in ["a", "b"] {
        harness.insert(key).await;
    }
    harness
        .execute(
            "INSERT INTO copyhold.copy_failures SELECT 'a', r, generation, 1, 'denied', 'no', 1, 1
             FROM copyhold.object_copies, unnest(ARRAY['scw', 'wasabi']) r WHERE object_key = 'a'",
        )
        .await;
    let queue = harness.queue();
    assert!(queue.refresh_backlog().await.unwrap());
    let counted = "SELECT string_agg(replica || ' ' || objects, ', ' ORDER BY replica) FROM copyhold.";
    let backlog = format!("{counted}backlog");
    assert_eq!(harness.value(&backlog).await.unwrap(), "b2 0, scw 2, wasabi 2");
    assert_eq!(said(&harness, &["replica", "drain", "scw"]).await.0, 0);
    assert_eq!(said(&harness, &["replica", "drain", "scw", "--because", "later"]).await.0, 0);
    harness.execute("UPDATE copyhold.backlog SET as_of = now() - interval '1 hour'").await;
    assert!(queue.refresh_backlog().await.unwrap());
    assert_eq!(harness.value(&backlog).await.unwrap(), "b2 0, wasabi 2");
    assert_eq!(harness.value(&format!("{counted}backlog_exact")).await.unwrap(), "b2 0, wasabi 2");
    let (_, text) = said(&harness, &["status"]).await;
    assert!(
        text.contains("scw is draining since ")
            && text.contains(" (later): nothing is copied to it, and it is not counted"),
        "{text}"
    );
    assert!(text.contains("(--exact counts what it lacks); `copyhold replica undrain scw` ends it"), "{text}");
    assert!(text.lines().filter(|line| line.contains("denied")).count() == 1, "{text}");
    let (_, text) = said(&harness, &["status", "--exact"]).await;
    assert!(text.contains("(it lacks 2 copies)"), "{text}");
    let scw = &queue.missing_at(&[replica("scw")]).await.unwrap()[0];
    assert_eq!((scw.objects, scw.objects_of_unknown_size, scw.parked), (2, 2, 0));
    let (_, text) = said(&harness, &["explain", "a"]).await;
    assert!(text.contains("scw is draining since 20") && text.contains("(later): nothing is copied to it"), "{text}");
}

#[tokio::test]
async fn an_object_that_only_a_draining_replica_lacks_is_complete() {
    let harness = Harness::new().await;
    assert_eq!(said(&harness, &["replica", "drain", "scw"]).await.0, 0);
    let _daemon = harness.daemon().await;
    harness.upload("photo", "bytes").await;
    let complete = "SELECT event_data ->> 'replicas' || (event_data ->> 'complete') FROM copyhold.log
                     WHERE event_data ->> 'kind' = 'object.copied' ORDER BY id DESC LIMIT 1";
    harness.until(&format!("SELECT ({complete}) = '[\"wasabi\"]true'")).await;
    // And incomplete again, until the copy is made.
    assert_eq!(said(&harness, &["replica", "undrain", "scw"]).await.0, 0);
    harness.until_copied("photo").await;
    harness.until(&format!("SELECT ({complete}) = '[\"scw\"]true'")).await;
}

#[tokio::test]
async fn what_is_under_way_to_it_is_finished() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    let gate = PauseGate::new();
    harness.bucket("scw").order(Fault::Hold(gate.clone()), When::op(Op::PutObject).next(1));
    harness.upload("photo", "bytes").await;
    soon("the copy is under way", gate.holds(1)).await;
    assert_eq!(said(&harness, &["replica", "drain", "scw"]).await.0, 0);
    daemon.until_logged("Not copying to scw: it is draining").await;
    gate.open();
    harness.until_copied("photo").await;
}

#[tokio::test]
async fn the_primary_in_force_cannot_leave_and_a_misspelt_one_is_named() {
    let harness = Harness::new().await;
    let (code, text) = said(&harness, &["replica", "drain", "b2"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("b2 is the primary in force") && text.contains("`copyhold promote` another"), "{text}");
    for verb in ["drain", "undrain"] {
        let (code, text) = said(&harness, &["replica", verb, "swc"]).await;
        assert_eq!(code, 1);
        assert!(text.contains("there is no replica \"swc\"; the database has b2, scw, wasabi"), "{text}");
    }
    assert_eq!(
        harness.value("SELECT count(*) FROM copyhold.replicas WHERE draining_since IS NOT NULL").await.unwrap(),
        "0"
    );
}
