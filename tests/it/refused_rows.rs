//! One row that PostgreSQL refuses, for a foreign trigger or lock, never holds up the others.

use std::time::Duration;

use crate::harness::{Harness, eventually, key, printed};

/// Refuses, in the application's own words, each update of these rows for which `condition` holds.
async fn refuse(harness: &Harness, key: &str, condition: &str) {
    harness
        .execute(&format!(
            "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF NEW.object_key = '{key}' AND ({condition}) THEN RAISE EXCEPTION 'audit says no'; END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER audit BEFORE INSERT OR UPDATE ON copyhold.object_copies
                 FOR EACH ROW EXECUTE FUNCTION public.no()"
        ))
        .await;
}

async fn relent(harness: &Harness) {
    harness.execute("DROP FUNCTION public.no() CASCADE").await;
}

/// `k00` to `k39`, registered in one transaction.
async fn upload_forty(harness: &Harness) {
    for i in 0..40 {
        harness.bucket("b2").put(&format!("k{i:02}"), format!("bytes {i}"));
    }
    harness.execute("SELECT copyhold.register('k' || to_char(i, 'FM00')) FROM generate_series(0, 39) i").await;
}

const OTHERS: &str = "SELECT count(*) = 39 FROM copyhold.object_copies
     WHERE object_key <> 'k20' AND wasabi IS NOT NULL AND scw IS NOT NULL AND lock IS NULL";

#[tokio::test]
async fn a_result_that_a_trigger_refuses_holds_up_no_other_and_is_explained() {
    let harness = Harness::new().await;
    refuse(&harness, "k20", "NEW.scw IS NOT NULL").await;
    let daemon = harness.daemon().await;
    upload_forty(&harness).await;
    harness.until(OTHERS).await;
    harness
        .until(
            "SELECT message LIKE '%audit says no%' AND class = 'misconfigured' FROM copyhold.copy_failures
             WHERE object_key = 'k20' AND replica = 'scw'",
        )
        .await;
    // It waits, and is not copied again all the time.
    harness
        .until(
            "SELECT scw IS NULL AND lock IS NULL AND due_scw > copyhold.now_utc_micro_seconds() + 60000000
             FROM copyhold.object_copies WHERE object_key = 'k20'",
        )
        .await;
    assert!(daemon.log().contains("PostgreSQL refuses the result for k20"), "{}", daemon.log());
    relent(&harness).await;
    let retried = harness.run(&["retry", "k20"]).await;
    assert!(retried.status.success(), "{}", printed(&retried));
    harness.until_copied("k20").await;
}

#[tokio::test]
async fn a_row_that_a_trigger_does_not_let_be_leased_holds_up_no_other() {
    let harness = Harness::new().await;
    refuse(&harness, "k00", "TG_OP = 'UPDATE' AND NEW.lock IS NOT NULL").await;
    upload_forty(&harness).await;
    let daemon = harness.daemon().await;
    harness.until(&OTHERS.replace("k20", "k00")).await;
    daemon.until_logged("PostgreSQL refuses that k00 is leased").await;
    relent(&harness).await;
    harness.until_copied("k00").await;
}

#[tokio::test]
async fn a_lock_that_a_trigger_waits_for_holds_up_one_row_alone() {
    let harness = Harness::new().await;
    let mut holder = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(77)").execute(&mut *holder).await.unwrap();
    harness
        .execute(
            "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF NEW.object_key = 'k20' AND NEW.scw IS NOT NULL THEN PERFORM pg_advisory_xact_lock(77); END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER audit BEFORE UPDATE ON copyhold.object_copies
                 FOR EACH ROW EXECUTE FUNCTION public.no()",
        )
        .await;
    let _daemon = harness.daemon().await;
    upload_forty(&harness).await;
    harness.until(OTHERS).await;
    holder.rollback().await.unwrap();
    relent(&harness).await;
    let _ = harness.run(&["retry", "k20"]).await;
    harness.until_copied("k20").await;
}

#[tokio::test]
async fn an_expired_lease_whose_release_a_trigger_refuses_holds_up_no_other() {
    let harness = Harness::new().await;
    upload_forty(&harness).await;
    let daemon = harness.enlist(60).await;
    assert_eq!(harness.claim(&daemon, "scw", 64).await.len(), 40);
    harness.execute("UPDATE copyhold.object_copies SET lock = 1").await;
    refuse(&harness, "k20", "NEW.lock IS NULL").await;
    let queue = harness.queue();
    let freed = queue.reclaim(Duration::from_secs(1)).await.unwrap();
    assert_eq!(freed.len(), 39);
    assert!(freed.iter().all(|one| one.key != key("k20")));
    assert!(queue.reclaim(Duration::from_secs(1)).await.unwrap().is_empty());
    relent(&harness).await;
    assert_eq!(queue.reclaim(Duration::from_secs(1)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn leases_are_renewed_and_given_back_beside_one_that_a_trigger_refuses() {
    let harness = Harness::new().await;
    upload_forty(&harness).await;
    let daemon = harness.enlist(60).await;
    let leases = harness.claim(&daemon, "scw", 64).await;
    refuse(&harness, "k20", "TG_OP = 'UPDATE'").await;
    let queue = harness.queue();
    let held: Vec<_> = leases.iter().map(|l| (l.key.clone(), l.fence, l.generation)).collect();
    assert_eq!(queue.renew(&held, Duration::from_mins(1)).await.unwrap().len(), 39);
    let held: Vec<_> = leases.iter().map(|l| (l.key.clone(), l.fence)).collect();
    assert_eq!(queue.release(&held).await.unwrap().len(), 39);
}

#[tokio::test]
async fn an_event_that_the_log_refuses_holds_up_no_other() {
    let harness = Harness::new().await;
    harness
        .execute(
            "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF NEW.event_data ->> 'kind' = 'bad' THEN RAISE EXCEPTION 'audit says no'; END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER audit BEFORE INSERT ON copyhold.log FOR EACH ROW EXECUTE FUNCTION public.no()",
        )
        .await;
    harness
        .execute(
            r#"SELECT copyhold.append_event('{"kind": "first"}');
               SELECT copyhold.append_event('{"kind": "bad"}');
               SELECT copyhold.append_event('{"kind": "second"}')"#,
        )
        .await;
    let daemon = harness.daemon().await;
    let there = |kind: &str| format!("SELECT count(*) = 1 FROM copyhold.log WHERE event_data ->> 'kind' = '{kind}'");
    harness.until(&there("first")).await;
    harness.until(&there("second")).await;
    daemon.until_logged("PostgreSQL refuses to put an event").await;
    relent(&harness).await;
    harness.until(&there("bad")).await;
    harness.until("SELECT count(*) = 0 FROM copyhold.log_inbox").await;
}

#[tokio::test]
async fn a_key_that_postgresql_refuses_is_left_out_of_a_scan_by_name() {
    let harness = Harness::new().await;
    for i in 0..40 {
        harness.bucket("b2").put(&format!("k{i:02}"), "bytes");
    }
    refuse(&harness, "k20", "true").await;
    let scanned = harness.run(&["scan"]).await;
    assert!(printed(&scanned).contains("audit says no"), "{}", printed(&scanned));
    harness.until("SELECT count(*) = 39 FROM copyhold.object_copies").await;
}

#[tokio::test]
async fn settings_of_the_database_and_the_role_change_nothing() {
    let harness = Harness::new().await;
    let database = harness.value("SELECT current_database()").await.unwrap();
    for (name, value) in [
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_deferrable", "on"),
        ("standard_conforming_strings", "off"),
        ("quote_all_identifiers", "on"),
        ("IntervalStyle", "sql_standard"),
        ("DateStyle", "German"),
        ("TimeZone", "Asia/Kathmandu"),
        ("bytea_output", "escape"),
        ("array_nulls", "off"),
        ("transform_null_equals", "on"),
        ("client_min_messages", "debug1"),
        ("idle_session_timeout", "1s"),
        ("search_path", "copyhold"),
        ("enable_indexscan", "off"),
        ("plan_cache_mode", "force_custom_plan"),
        ("row_security", "off"),
        ("lock_timeout", "1h"),
        ("jit", "on"),
    ] {
        harness.execute(&format!("ALTER DATABASE \"{database}\" SET {name} = '{value}'")).await;
    }
    let migrated = harness.run(&["migrate"]).await;
    assert!(migrated.status.success(), "{}", printed(&migrated));
    let plans = harness.run(&["explain", "--plan"]).await;
    assert!(plans.status.success(), "{}", printed(&plans));
    let daemons = [harness.daemon().await, harness.daemon().await];
    upload_forty(&harness).await;
    harness.until(&OTHERS.replace("39", "40").replace("object_key <> 'k20' AND ", "")).await;
    eventually("both are at work", async || daemons.iter().all(|daemon| daemon.log().contains("Copying to scw"))).await;
    for daemon in &daemons {
        let log = daemon.log();
        let bad = log.lines().find(|line| line.contains(" ERROR ") || line.contains("Finding the work"));
        assert!(bad.is_none() && !log.contains("could not serialize"), "{log}");
    }
}
