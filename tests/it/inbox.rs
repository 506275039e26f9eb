//! Events of other programs come into the log in their order, soon, and once.

use std::time::Duration;

use sqlx::Connection as _;

use crate::harness::{Harness, soon};

/// Everything that other programs have appended, as the log has it.
const FOREIGN: &str = "SELECT coalesce(string_agg(event_data ->> 'n', ' ' ORDER BY id), '') FROM copyhold.log
                       WHERE event_data ->> 'kind' = 'door.opened'";

async fn append(harness: &Harness, n: usize) {
    harness.value(&format!("SELECT copyhold.append_event('{{\"kind\": \"door.opened\", \"n\": {n}}}')")).await;
}

fn numbers(range: std::ops::Range<usize>) -> String {
    range.map(|n| n.to_string()).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn what_is_appended_is_moved_at_once_and_not_when_the_poll_comes_round() {
    let harness = Harness::new().await;
    let daemons = [harness.daemon().await, harness.daemon().await];
    harness.until("SELECT bool_and(inbox_sleeping) FROM copyhold.daemons").await;
    let woken = || daemons.iter().map(|daemon| daemon.logged("Woken by a notification for the inbox")).sum::<usize>();
    let before = woken();
    for n in 0..20 {
        append(&harness, n).await;
        let all = numbers(0..n + 1);
        harness.until(&format!("SELECT ({FOREIGN}) = '{all}'")).await;
    }
    assert!(woken() > before, "the poll found all of them");
    // Single ones do not make it say that it is awake, and asleep again.
    assert_eq!(harness.value("SELECT bool_and(inbox_sleeping) FROM copyhold.daemons").await.unwrap(), "true");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.log_inbox").await.unwrap(), "0");
}

#[tokio::test]
async fn many_events_are_moved_in_their_order_and_once_by_several_daemons() {
    let harness = Harness::new().await;
    let appended = "INSERT INTO copyhold.log_inbox (event_data)
                    SELECT jsonb_build_object('kind', 'door.opened', 'n', n) FROM generate_series(0, 2999) n";
    harness.execute(appended).await;
    let _daemons = (harness.daemon().await, harness.daemon().await, harness.daemon().await);
    harness.until("SELECT NOT EXISTS (SELECT FROM copyhold.log_inbox)").await;
    assert_eq!(harness.value(FOREIGN).await.unwrap(), numbers(0..3000));
}

#[tokio::test]
async fn an_event_is_seen_when_its_transaction_has_committed_and_one_that_is_rolled_back_never() {
    let harness = Harness::new().await;
    let _daemon = harness.daemon().await;
    let mut slow = harness.pool.acquire().await.unwrap().detach();
    let mut slow = slow.begin().await.unwrap();
    sqlx::raw_sql("SELECT copyhold.append_event('{\"kind\": \"door.opened\", \"n\": 0}')")
        .execute(&mut *slow)
        .await
        .unwrap();
    append(&harness, 1).await;
    // The one that is not committed holds up none that is.
    harness.until(&format!("SELECT ({FOREIGN}) = '1'")).await;
    let mut undone = harness.pool.acquire().await.unwrap().detach();
    let mut undone = undone.begin().await.unwrap();
    sqlx::raw_sql("SELECT copyhold.append_event('{\"kind\": \"door.opened\", \"n\": 2}')")
        .execute(&mut *undone)
        .await
        .unwrap();
    undone.rollback().await.unwrap();
    slow.commit().await.unwrap();
    harness.until(&format!("SELECT ({FOREIGN}) = '1 0'")).await;
}

#[tokio::test]
async fn while_a_session_holds_the_log_events_wait_and_then_come_in_order() {
    let harness = Harness::new().await;
    let _daemon = harness.daemon().await;
    harness.until("SELECT inbox_sleeping FROM copyhold.daemons").await;
    let mut holder = harness.pool.acquire().await.unwrap().detach();
    let mut holder = holder.begin().await.unwrap();
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('copyhold:log', 0))";
    sqlx::raw_sql(lock).execute(&mut *holder).await.unwrap();
    for n in 0..3 {
        append(&harness, n).await;
    }
    // Several tries of 200 ms.
    let waits =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'advisory' AND query LIKE '%log::move_inbox%'
                                AND datname = current_database())";
    harness.until(waits).await;
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.log_inbox").await.unwrap(), "3");
    holder.rollback().await.unwrap();
    harness.until(&format!("SELECT ({FOREIGN}) = '0 1 2'")).await;
}

#[tokio::test]
async fn a_move_that_another_session_is_at_is_left_to_it() {
    let harness = Harness::new().await;
    append(&harness, 0).await;
    let mut other = harness.pool.acquire().await.unwrap().detach();
    let mut other = other.begin().await.unwrap();
    let moves = "SELECT copyhold.move_inbox(10)";
    assert_eq!(sqlx::query_scalar::<_, i32>(moves).fetch_one(&mut *other).await.unwrap(), 1);
    assert_eq!(harness.value(moves).await, None);
    other.rollback().await.unwrap();
    assert_eq!(harness.value(moves).await.unwrap(), "1");
    assert_eq!(harness.value(moves).await.unwrap(), "0");
}

#[tokio::test]
async fn a_daemon_killed_while_it_moves_loses_no_event_and_doubles_none() {
    let harness = Harness::new().await;
    let writing = tokio::spawn({
        let pool = harness.pool.clone();
        async move {
            for n in 0..400 {
                let event = format!("SELECT copyhold.append_event('{{\"kind\": \"door.opened\", \"n\": {n}}}')");
                sqlx::raw_sql(sqlx::AssertSqlSafe(event)).execute(&pool).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    for _ in 0..3 {
        let mut daemon = harness.daemon().await;
        let before = harness.value("SELECT count(*) FROM copyhold.log").await.unwrap();
        harness.until(&format!("SELECT count(*) > {before} OR count(*) >= 400 FROM copyhold.log")).await;
        daemon.kill().await;
    }
    let _last = harness.daemon().await;
    soon("all are appended", writing).await.unwrap();
    harness.until("SELECT NOT EXISTS (SELECT FROM copyhold.log_inbox)").await;
    assert_eq!(harness.value(FOREIGN).await.unwrap(), numbers(0..400));
}
