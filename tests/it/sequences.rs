//! After a switch-over by logical replication the rows are there and the sequences begin again: nothing gets a number that
//! was given before.

use crate::harness::{Harness, printed};

/// What such a switch-over leaves.
const BEGIN_AGAIN: &str = "DO $$ DECLARE s regclass; BEGIN
    FOR s IN SELECT oid FROM pg_class WHERE relkind = 'S' AND relnamespace = 'copyhold'::regnamespace LOOP
        PERFORM setval(s, 1, false);
    END LOOP;
END $$";

/// Twenty objects that are copied everywhere, and a daemon that has ended.
async fn copied() -> Harness {
    let harness = Harness::new().await;
    for number in 0..20 {
        harness.upload(&format!("before-{number}"), "bytes").await;
    }
    let mut daemon = harness.daemon().await;
    harness.until("SELECT bool_and(wasabi IS NOT NULL AND scw IS NOT NULL) FROM copyhold.object_copies").await;
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
    harness
}

async fn number(harness: &Harness, sql: &str) -> i64 {
    harness.value(sql).await.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_daemon_mends_sequences_that_began_again_before_it_works_and_check_names_them() {
    let harness = copied().await;
    let check = harness.run(&["check"]).await;
    assert!(printed(&check).contains("no sequence gives a number again"), "{}", printed(&check));
    let last = number(&harness, "SELECT max(id) FROM copyhold.log").await;
    let generation = number(&harness, "SELECT max(generation) FROM copyhold.object_copies").await;
    let arrival = number(&harness, "SELECT max(id) FROM copyhold.object_copies").await;
    harness.execute(BEGIN_AGAIN).await;
    let check = harness.run(&["check"]).await;
    let text = printed(&check);
    assert!(!check.status.success(), "{text}");
    for said in
        ["sequences are behind their tables", "log_ids stands at 0", "generations stands at 0", "copyhold migrate"]
    {
        assert!(text.contains(said), "{said} in {text}");
    }
    let daemon = harness.daemon().await;
    daemon.until_logged("Sequences are behind their tables").await;
    harness.upload("after", "bytes").await;
    harness.until_copied("after").await;
    assert!(number(&harness, "SELECT copyhold.register('before-0')").await > generation);
    let first_since = "SELECT min(id) FROM copyhold.log WHERE event_data ->> 'object_key' = 'after'";
    assert!(number(&harness, first_since).await > last);
    assert!(number(&harness, "SELECT id FROM copyhold.object_copies WHERE object_key = 'after'").await > arrival);
    let again = "SELECT count(*) FROM (SELECT FROM copyhold.object_copies GROUP BY generation HAVING count(*) > 1) g";
    assert_eq!(number(&harness, again).await, 0);
    assert!(!daemon.log().contains("refuses the result"), "{}", daemon.log());
}

#[tokio::test]
async fn a_daemon_that_runs_through_a_switch_over_loses_no_event_and_refuses_no_result() {
    let harness = copied().await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    let last = number(&harness, "SELECT max(id) FROM copyhold.log").await;
    harness.execute(BEGIN_AGAIN).await;
    harness.upload("after", "bytes").await;
    harness.until_copied("after").await;
    let first_since = "SELECT min(id) FROM copyhold.log WHERE event_data ->> 'object_key' = 'after'";
    assert!(number(&harness, first_since).await > last);
    assert!(!daemon.log().contains("refuses the result"), "{}", daemon.log());
}

#[tokio::test]
async fn migrate_mends_sequences_too_and_a_second_daemon_gets_a_number_of_its_own() {
    let harness = copied().await;
    let first = harness.daemon().await;
    harness.execute(BEGIN_AGAIN).await;
    let migrated = harness.run(&["migrate"]).await;
    assert!(migrated.status.success(), "{}", printed(&migrated));
    assert!(printed(&migrated).contains("Sequences were behind their tables"), "{}", printed(&migrated));
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.sequences_behind(false)").await.unwrap(), "0");
    harness.execute("SELECT setval('copyhold.daemon_ids', min(id), false) FROM copyhold.daemons").await;
    let second = harness.daemon().await;
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.daemons").await.unwrap(), "2");
    drop((first, second));
}
