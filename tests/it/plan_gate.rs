//! A daemon reports at its start what would make claims slow.

use crate::harness::{Harness, printed, soon};

#[tokio::test]
async fn explain_plan_shows_how_work_is_found_and_finds_nothing_wrong_with_what_migrate_has_made() {
    let harness = Harness::new().await;
    let output = harness.run(&["explain", "--plan"]).await;
    let text = printed(&output);
    assert!(output.status.success(), "{text}");
    for shown in [
        "all lanes: good",
        "lane b2: good",
        "lane scw: good",
        "Index Scan using object_copies_wasabi_lane on object_copies",
        "  complete",
        "  reclaim",
        "  unclaim",
    ] {
        assert!(text.contains(shown), "{shown} in\n{text}");
    }
    let one = printed(&harness.run(&["explain", "--plan", "scw"]).await);
    assert!(one.starts_with("lane scw: good") && !one.contains("wasabi_lane"), "{one}");
    let unknown = harness.run(&["explain", "--plan", "glacier"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(printed(&unknown).contains("glacier is no replica"), "{}", printed(&unknown));
}

#[tokio::test]
async fn whatever_was_altered_by_hand_is_named_and_mended_by_migrate() {
    for (altered, named) in [
        ("DROP INDEX copyhold.object_copies_scw_lane", "the index object_copies_scw_lane is missing"),
        (
            "DROP INDEX copyhold.object_copies_scw_lane;
             CREATE INDEX object_copies_scw_lane ON copyhold.object_copies (due_scw) WHERE scw IS NULL",
            "the index object_copies_scw_lane is not the one that claims need",
        ),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'copyhold.object_copies_scw_lane'::regclass",
            "the index object_copies_scw_lane is not valid",
        ),
        ("DROP FUNCTION copyhold.seek_scw", "the function seek_scw is missing"),
        (
            "ALTER FUNCTION copyhold.claim_scw RESET ALL",
            "the function claim_scw has lost its setting enable_seqscan=off",
        ),
        (
            "UPDATE pg_proc SET prosrc = prosrc || ' ' WHERE proname = 'fresh_claim_scw'",
            "the function fresh_claim_scw is not the one that this version makes",
        ),
    ] {
        let harness = Harness::new().await;
        harness.execute(altered).await;
        let output = harness.run(&["explain", "--plan", "scw"]).await;
        let text = printed(&output);
        assert!(text.contains("lane scw: WRONG") && text.contains(named), "{altered}: {text}");
        assert_eq!(output.status.code(), Some(1), "{altered}");
        let mended = harness.run(&["migrate"]).await;
        assert!(mended.status.success(), "{altered}: {}", printed(&mended));
        let output = harness.run(&["explain", "--plan", "scw"]).await;
        assert!(output.status.success(), "{altered}: {}", printed(&output));
    }
}

#[tokio::test]
async fn a_daemon_says_loudly_that_a_lane_is_slow_and_works_all_the_same() {
    let harness = Harness::new().await;
    harness.execute("DROP INDEX copyhold.object_copies_scw_lane").await;
    harness.upload("photo", "bytes").await;
    let daemon = harness.daemon().await;
    daemon.until_logged("the index object_copies_scw_lane is missing").await;
    daemon.until_logged("claim_scw would read the whole table").await;
    harness.until_copied("photo").await;
    assert!(!daemon.log().contains("Finding the work of wasabi"), "{}", daemon.log());
}

#[tokio::test]
async fn without_a_claim_a_daemon_does_not_start_and_says_what_to_do() {
    let harness = Harness::new().await;
    harness.execute("DROP FUNCTION copyhold.claim_wasabi").await;
    let mut daemon = harness.daemon_unawaited();
    assert_eq!(soon("it ends", daemon.exit_code()).await, Some(1));
    let log = daemon.log();
    assert!(log.contains("the function claim_wasabi is missing; run `copyhold migrate`"), "{log}");
}
