//! One row that PostgreSQL refuses, for a foreign trigger or lock, never holds up the others.

use std::time::Duration;

use crate::harness::{World, eventually, key, printed};

/// Refuses, in the application's own words, each update of these rows for which `condition` holds.
async fn refuse(world: &World, key: &str, condition: &str) {
    world
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

async fn relent(world: &World) {
    world.execute("DROP FUNCTION public.no() CASCADE").await;
}

/// `k00` to `k39`, registered in one transaction.
async fn upload_forty(world: &World) {
    for i in 0..40 {
        world.bucket("b2").put(&format!("k{i:02}"), format!("bytes {i}"));
    }
    world.execute("SELECT copyhold.register('k' || to_char(i, 'FM00')) FROM generate_series(0, 39) i").await;
}

const OTHERS: &str = "SELECT count(*) = 39 FROM copyhold.object_copies
     WHERE object_key <> 'k20' AND wasabi IS NOT NULL AND scw IS NOT NULL AND lock IS NULL";

#[tokio::test]
async fn a_result_that_a_trigger_refuses_holds_up_no_other_and_is_explained() {
    let world = World::new().await;
    refuse(&world, "k20", "NEW.scw IS NOT NULL").await;
    let daemon = world.daemon().await;
    upload_forty(&world).await;
    world.until(OTHERS).await;
    world
        .until(
            "SELECT message LIKE '%audit says no%' AND class = 'misconfigured' FROM copyhold.copy_failures
             WHERE object_key = 'k20' AND replica = 'scw'",
        )
        .await;
    // It waits, and is not copied again all the time.
    world
        .until(
            "SELECT scw IS NULL AND lock IS NULL AND due_scw > copyhold.now_utc_micro_seconds() + 60000000
             FROM copyhold.object_copies WHERE object_key = 'k20'",
        )
        .await;
    assert!(daemon.log().contains("PostgreSQL refuses the result for k20"), "{}", daemon.log());
    relent(&world).await;
    let retried = world.run(&["retry", "k20"]).await;
    assert!(retried.status.success(), "{}", printed(&retried));
    world.until_copied("k20").await;
}

#[tokio::test]
async fn a_row_that_a_trigger_does_not_let_be_leased_holds_up_no_other() {
    let world = World::new().await;
    refuse(&world, "k00", "TG_OP = 'UPDATE' AND NEW.lock IS NOT NULL").await;
    upload_forty(&world).await;
    let daemon = world.daemon().await;
    world.until(&OTHERS.replace("k20", "k00")).await;
    daemon.until_logged("PostgreSQL refuses that k00 is leased").await;
    relent(&world).await;
    world.until_copied("k00").await;
}

#[tokio::test]
async fn a_lock_that_a_trigger_waits_for_holds_up_one_row_alone() {
    let world = World::new().await;
    let mut holder = world.pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(77)").execute(&mut *holder).await.unwrap();
    world
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
    let _daemon = world.daemon().await;
    upload_forty(&world).await;
    world.until(OTHERS).await;
    holder.rollback().await.unwrap();
    relent(&world).await;
    let _ = world.run(&["retry", "k20"]).await;
    world.until_copied("k20").await;
}

#[tokio::test]
async fn an_expired_lease_whose_release_a_trigger_refuses_holds_up_no_other() {
    let world = World::new().await;
    upload_forty(&world).await;
    let daemon = world.enlist(60).await;
    assert_eq!(world.claim(&daemon, "scw", 64).await.len(), 40);
    world.execute("UPDATE copyhold.object_copies SET lock = 1").await;
    refuse(&world, "k20", "NEW.lock IS NULL").await;
    let queue = world.queue();
    let freed = queue.reclaim(Duration::from_secs(1)).await.unwrap();
    assert_eq!(freed.len(), 39);
    assert!(freed.iter().all(|one| one.key != key("k20")));
    assert!(queue.reclaim(Duration::from_secs(1)).await.unwrap().is_empty());
    relent(&world).await;
    assert_eq!(queue.reclaim(Duration::from_secs(1)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn leases_are_renewed_and_given_back_beside_one_that_a_trigger_refuses() {
    let world = World::new().await;
    upload_forty(&world).await;
    let daemon = world.enlist(60).await;
    let leases = world.claim(&daemon, "scw", 64).await;
    refuse(&world, "k20", "TG_OP = 'UPDATE'").await;
    let queue = world.queue();
    let held: Vec<_> = leases.iter().map(|l| (l.key.clone(), l.fence, l.generation)).collect();
    assert_eq!(queue.renew(&held, Duration::from_mins(1)).await.unwrap().len(), 39);
    let held: Vec<_> = leases.iter().map(|l| (l.key.clone(), l.fence)).collect();
    assert_eq!(queue.release(&held).await.unwrap().len(), 39);
}

#[tokio::test]
async fn an_event_that_the_log_refuses_holds_up_no_other() {
    let world = World::new().await;
    world
        .execute(
            "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF NEW.event_data ->> 'kind' = 'bad' THEN RAISE EXCEPTION 'audit says no'; END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER audit BEFORE INSERT ON copyhold.log FOR EACH ROW EXECUTE FUNCTION public.no()",
        )
        .await;
    world
        .execute(
            r#"SELECT copyhold.append_event('{"kind": "first"}');
               SELECT copyhold.append_event('{"kind": "bad"}');
               SELECT copyhold.append_event('{"kind": "second"}')"#,
        )
        .await;
    let daemon = world.daemon().await;
    let there = |kind: &str| format!("SELECT count(*) = 1 FROM copyhold.log WHERE event_data ->> 'kind' = '{kind}'");
    world.until(&there("first")).await;
    world.until(&there("second")).await;
    daemon.until_logged("PostgreSQL refuses to put an event").await;
    relent(&world).await;
    world.until(&there("bad")).await;
    world.until("SELECT count(*) = 0 FROM copyhold.log_inbox").await;
}

#[tokio::test]
async fn a_key_that_postgresql_refuses_is_left_out_of_a_scan_by_name() {
    let world = World::new().await;
    for i in 0..40 {
        world.bucket("b2").put(&format!("k{i:02}"), "bytes");
    }
    refuse(&world, "k20", "true").await;
    let scanned = world.run(&["scan"]).await;
    assert!(printed(&scanned).contains("audit says no"), "{}", printed(&scanned));
    world.until("SELECT count(*) = 39 FROM copyhold.object_copies").await;
}

#[tokio::test]
async fn settings_of_the_database_and_the_role_change_nothing() {
    let world = World::new().await;
    let database = world.value("SELECT current_database()").await.unwrap();
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
        world.execute(&format!("ALTER DATABASE \"{database}\" SET {name} = '{value}'")).await;
    }
    let migrated = world.run(&["migrate"]).await;
    assert!(migrated.status.success(), "{}", printed(&migrated));
    let plans = world.run(&["explain", "--plan"]).await;
    assert!(plans.status.success(), "{}", printed(&plans));
    let daemons = [world.daemon().await, world.daemon().await];
    upload_forty(&world).await;
    world.until(&OTHERS.replace("39", "40").replace("object_key <> 'k20' AND ", "")).await;
    eventually("both are at work", async || daemons.iter().all(|daemon| daemon.log().contains("Copying to scw"))).await;
    for daemon in &daemons {
        let log = daemon.log();
        let bad = log.lines().find(|line| line.contains(" ERROR ") || line.contains("Finding the work"));
        assert!(bad.is_none() && !log.contains("could not serialize"), "{log}");
    }
}
