//! Rows, tables and rights that are changed by hand under a running daemon.

use copyhold_db::schema::migrate;
use copyhold_sandbox::s3::{Fault, Op, PauseGate, When};

use crate::{
    harness::{Begin, Harness, eventually, soon},
    rights::with_roles,
};

/// An object whose copy to wasabi is held at the store, and scw's is recorded.
async fn under_way(harness: &Harness, name: &str) -> PauseGate {
    let gate = PauseGate::new();
    harness.bucket("wasabi").order(Fault::Hold(gate.clone()), When::op(Op::PutObject).key(name).next(1));
    harness.upload(name, "bytes").await;
    soon("the copy is under way", gate.holds(1)).await;
    harness.until(&format!("SELECT scw IS NOT NULL FROM copyhold.object_copies WHERE object_key = '{name}'")).await;
    gate
}

#[tokio::test]
async fn a_row_that_is_deleted_under_a_copy_stops_it_and_nothing_else() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    let gate = under_way(&harness, "deleted").await;
    harness.execute("DELETE FROM copyhold.object_copies WHERE object_key = 'deleted'").await;
    daemon.until_logged("The lease of deleted is lost").await;
    gate.open();
    harness.upload("other", "bytes").await;
    harness.until_copied("other").await;
    for table in ["object_copies WHERE object_key = 'deleted'", "copy_failures", "swept_leases"] {
        assert_eq!(harness.value(&format!("SELECT count(*) FROM copyhold.{table}")).await.unwrap(), "0", "{table}");
    }
    // Inserted again it is another object, and copied as such.
    harness.upload("deleted", "new bytes").await;
    harness.until_copied("deleted").await;
    assert_eq!(harness.bucket("wasabi").get("deleted").unwrap(), "new bytes");
}

#[tokio::test]
async fn a_row_that_the_application_locks_for_longer_than_the_lease_is_given_up_and_copied_later() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    let gate = under_way(&harness, "locked").await;
    let mut application = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT * FROM copyhold.object_copies WHERE object_key = 'locked' FOR UPDATE")
        .execute(&mut *application)
        .await
        .unwrap();
    daemon.until_logged("Could not renew leases in time; their copies stop").await;
    gate.open();
    // Others are copied meanwhile, and nothing of this one is recorded.
    harness.upload("other", "bytes").await;
    harness.until_copied("other").await;
    harness
        .until(
            "SELECT wasabi IS NULL AND lock < copyhold.now_utc_micro_seconds() FROM copyhold.object_copies
             WHERE object_key = 'locked'",
        )
        .await;
    application.commit().await.unwrap();
    harness.until_copied("locked").await;
    assert_eq!(harness.bucket("wasabi").get("locked").unwrap(), "bytes");
}

#[tokio::test]
async fn a_row_that_is_locked_while_it_is_given_back_is_given_back_a_moment_later() {
    let harness = Harness::with(Begin::Migrated, "[lease]\ntimeout = \"1m\"\nheartbeat = \"1s\"\n").await;
    let daemon = harness.daemon().await;
    let gate = under_way(&harness, "photo").await;
    harness.value("SELECT copyhold.register('photo')").await;
    daemon.until_logged("The lease of photo is lost, or the key was registered again; its copy stops").await;
    let mut application = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT * FROM copyhold.object_copies FOR UPDATE").execute(&mut *application).await.unwrap();
    daemon.until_logged("Row of photo is locked by another transaction; retrying release").await;
    application.commit().await.unwrap();
    gate.open();
    harness.until_copied("photo").await;
    // No sweeper had to do it, which would have taken it for a death.
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.swept_leases").await.unwrap(), "0");
}

#[tokio::test]
async fn a_recorded_time_set_by_hand_is_believed_and_one_cleared_by_hand_is_copied_again() {
    let harness = Harness::new().await;
    harness.upload("believed", "bytes").await;
    harness.execute("UPDATE copyhold.object_copies SET wasabi = -5").await;
    let _daemon = harness.daemon().await;
    harness.until_copied("believed").await;
    assert_eq!(harness.value("SELECT wasabi FROM copyhold.object_copies").await.unwrap(), "-5");
    assert_eq!(harness.bucket("wasabi").writes("believed"), 0);
    harness.execute("UPDATE copyhold.object_copies SET wasabi = NULL, scw = NULL").await;
    harness.until_copied("believed").await;
    assert_eq!((harness.bucket("wasabi").writes("believed"), harness.bucket("scw").writes("believed")), (1, 2));
    // Under a copy: what the holder has proven stands in the end.
    let gate = under_way(&harness, "photo").await;
    harness.execute("UPDATE copyhold.object_copies SET wasabi = 7, scw = NULL WHERE object_key = 'photo'").await;
    gate.open();
    harness.until_copied("photo").await;
    harness.until("SELECT wasabi > 7 FROM copyhold.object_copies WHERE object_key = 'photo'").await;
}

#[tokio::test]
async fn a_column_dropped_by_hand_is_named_with_what_to_do_and_migrate_restores_it() {
    let harness = Harness::new().await;
    let mut daemon = harness.daemon().await;
    harness.upload("before", "bytes").await;
    harness.until_copied("before").await;
    let gate = under_way(&harness, "under way").await;
    harness.execute("ALTER TABLE copyhold.object_copies DROP COLUMN scw CASCADE").await;
    gate.open();
    harness.upload("after", "bytes").await;
    daemon.until_logged("scw does not exist; run `copyhold migrate` with this configuration").await;
    daemon.until_logged("Could not record results; trying again").await;
    migrate(&harness.config).await.unwrap();
    for name in ["before", "under way", "after"] {
        harness.until_copied(name).await;
        assert_eq!(harness.bucket("scw").get(name).unwrap(), "bytes");
    }
    let said = daemon.log().matches("Could not record results; trying again").count();
    assert!(said <= 3, "it says so {said} times");
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
}

#[tokio::test]
async fn the_rights_that_a_role_has_lost_are_reported_and_work_resumes_when_it_has_them_again() {
    let (harness, _application) = with_roles("rights_lost").await;
    let daemon = harness.daemon().await;
    harness.upload("before", "bytes").await;
    harness.until_copied("before").await;
    for right in ["UPDATE", "SELECT"] {
        let logged = daemon.log().len();
        harness.execute(&format!("REVOKE {right} ON copyhold.object_copies FROM rights_lost_daemon")).await;
        harness.upload(right, "bytes").await;
        let told = async || {
            daemon.log()[logged..].contains(
                "permission denied for table object_copies; docs/postgresql.md lists what the daemon's role needs",
            )
        };
        eventually("the daemon says what it may not", told).await;
        harness.execute(&format!("GRANT {right} ON copyhold.object_copies TO rights_lost_daemon")).await;
        harness.until_copied(right).await;
    }
}
