//! The database's clock was ahead, and is set back: what waits for the time that it showed is pulled in.

use std::time::Duration;

use copyhold_core::domain::{BreakerScope, FailureClass};
use copyhold_sandbox::s3::{Fault, Op, When};

use crate::harness::{Harness, replica};

/// The clock of the schema, and of its figures, from now on: so many seconds ahead of the server's.
async fn set_clock(harness: &Harness, ahead_s: i64) {
    harness
        .execute(&format!(
            "CREATE OR REPLACE FUNCTION copyhold.now_utc_micro_seconds() RETURNS bigint
                 LANGUAGE sql STABLE PARALLEL SAFE
                 AS $$ SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint + {ahead_s} * 1000000::bigint $$"
        ))
        .await;
}

const HOURS: i64 = 2 * 3600;
const LATEST: &str =
    "SELECT bool_and(due_scw <= copyhold.now_utc_micro_seconds() + 31000000) FROM copyhold.object_copies
     WHERE scw IS NULL";

#[tokio::test]
async fn what_waits_for_the_time_of_a_clock_that_was_ahead_is_copied_when_that_is_set_back() {
    let harness = Harness::new().await;
    set_clock(&harness, HOURS).await;
    let daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    harness.bucket("scw").order(Fault::internal_error(), When::op(Op::PutObject));
    for i in 0..20 {
        harness.upload(&format!("photo {i}"), "bytes").await;
    }
    // While others are due, it is the store's fault. With nothing left to compare with, the objects are charged.
    harness
        .until(
            "SELECT EXISTS (SELECT FROM copyhold.copy_failures WHERE replica = 'scw')
                 OR EXISTS (SELECT FROM copyhold.replicas WHERE breaker_opened_at IS NOT NULL)",
        )
        .await;
    set_clock(&harness, 0).await;
    harness.bucket("scw").clear_faults();
    for i in 0..20 {
        harness.until_copied(&format!("photo {i}")).await;
    }
    harness.until("SELECT count(breaker_opened_at) = 0 FROM copyhold.replicas").await;
}

#[tokio::test]
async fn every_kind_of_time_in_the_future_is_pulled_in_once() {
    let harness = Harness::new().await;
    let queue = harness.queue();
    let lease = Duration::from_secs(3);
    set_clock(&harness, HOURS).await;
    let daemon = harness.enlist(3).await;
    for i in 0..30 {
        harness.insert(&format!("k{i:02}")).await;
    }
    harness.insert("parked").await;
    harness
        .execute("UPDATE copyhold.object_copies SET due_scw = 9000000000000000000 WHERE object_key = 'parked'")
        .await;
    let leases = harness.claim(&daemon, "scw", 5).await;
    queue.open_breaker(&replica("wasabi"), BreakerScope::All, FailureClass::Full, "full").await.unwrap();
    harness
        .execute(
            "INSERT INTO copyhold.unsettled (object_key, replica, verify_at, settled_at)
             SELECT 'k20', 'scw', now + 10000000, now + 600000000 FROM copyhold.now_utc_micro_seconds() now;
             INSERT INTO copyhold.multipart_uploads (object_key, replica, generation, size_bytes, part_bytes, origin)
             VALUES ('k21', 'scw', 1, 1, 1, '');
             INSERT INTO copyhold.backlog VALUES ('scw', 30, 0, 0, NULL, 0, 0, 0, now() + interval '2 hours', interval '1 ms')",
        )
        .await;
    // With the right clock, the same is nothing to be pulled in.
    set_clock(&harness, 0).await;
    let pulled = queue.pull_in(false, lease).await.unwrap().expect("the clock was ahead");
    assert!(pulled.ahead > Duration::from_secs(7100), "{pulled:?}");
    assert!(pulled.copies >= 30, "{pulled:?}");
    let state = "SELECT (SELECT bool_and(due_scw <= n + 31000000) FROM copyhold.object_copies WHERE object_key <> 'parked')
        AND (SELECT due_scw = 9000000000000000000 FROM copyhold.object_copies WHERE object_key = 'parked')
        AND (SELECT bool_and(lock <= n + 4000000) FROM copyhold.object_copies WHERE lock IS NOT NULL)
        AND (SELECT probe_at <= n AND breaker_opened_at <= n FROM copyhold.replicas WHERE name = 'wasabi')
        AND (SELECT noted_at <= n AND verify_at BETWEEN n AND n + 10000000 AND settled_at BETWEEN n + 590000000 AND n + 600000000
               FROM copyhold.unsettled)
        AND (SELECT begun_at <= n AND last_at <= n AND look_at <= n + 600000000 FROM copyhold.multipart_uploads)
        AND (SELECT bool_and(alive_until <= n + lease_timeout_us) FROM copyhold.daemons)
        AND (SELECT bool_and(as_of <= now()) FROM copyhold.backlog)
        FROM copyhold.now_utc_micro_seconds() n";
    assert_eq!(harness.value(state).await.as_deref(), Some("true"));
    assert_eq!(
        harness.value(LATEST.replace("scw IS NULL", "object_key <> 'parked'").as_str()).await.as_deref(),
        Some("true")
    );
    assert_eq!(queue.pull_in(false, lease).await.unwrap(), None);
    assert!(queue.refresh_backlog().await.unwrap());
    // A holder that lives goes on.
    let held: Vec<_> = leases.iter().map(|l| (l.key.clone(), l.fence, l.generation)).collect();
    assert_eq!(queue.renew(&held, Duration::from_mins(1)).await.unwrap().len(), 5);
}

#[tokio::test]
async fn a_wait_that_a_failure_asks_for_is_left_as_it_is() {
    let harness = Harness::new().await;
    let queue = harness.queue();
    for key in ["soon", "never"] {
        harness.insert(key).await;
    }
    let wait = |key: &str, minutes: i64| {
        format!(
            "UPDATE copyhold.object_copies SET due_scw = copyhold.now_utc_micro_seconds() + {minutes} * 60000000::bigint
             WHERE object_key = '{key}'"
        )
    };
    harness.execute(&wait("soon", 72)).await;
    assert_eq!(queue.pull_in(false, Duration::from_secs(3)).await.unwrap(), None);
    // Beyond what any failure asks for, it is a wrong clock's.
    harness.execute(&wait("never", 120)).await;
    assert_eq!(queue.pull_in(false, Duration::from_secs(3)).await.unwrap().map(|pulled| pulled.copies), Some(1));
    let far = "SELECT due_scw > copyhold.now_utc_micro_seconds() + 3600000000 FROM copyhold.object_copies WHERE object_key = 'soon'";
    assert_eq!(harness.value(far).await.as_deref(), Some("true"));
}
