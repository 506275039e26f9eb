//! The log is kept as long and as large as configured, and its partitions are there when they are needed.

use std::time::Duration;

use copyhold_db::{
    Database,
    log::{LogDuty, Retention},
};
use sqlx::Connection as _;

use crate::harness::{Harness, soon};

const SPAN: i64 = 1 << 20;
const DAY: Duration = Duration::from_hours(24);
const KEEP_ALL: Retention = Retention { keep_for: DAY, keep_bytes: 1 << 40 };

/// A migrated database whose log never had an event.
async fn harness() -> Harness {
    let harness = Harness::new().await;
    harness.execute("TRUNCATE copyhold.log; ALTER SEQUENCE copyhold.log_ids RESTART").await;
    harness
}

/// Everything that a sweep does, until there is nothing more to do.
async fn sweep(queue: &Database, retention: Retention) {
    for duty in LogDuty::ALL {
        while queue.tidy_log(duty, retention).await.unwrap() {}
    }
}

async fn append(harness: &Harness, events: usize) {
    let sql = format!(
        "SELECT copyhold.append_log(ARRAY(SELECT jsonb_build_object('kind', 'a', 'x', repeat('x', 100))
                                          FROM generate_series(1, {events})))"
    );
    harness.value(&sql).await.unwrap();
}

/// The first ids of the partitions, in spans.
async fn partitions(harness: &Harness) -> String {
    harness
        .value(&format!(
            "SELECT coalesce(string_agg((substr(c.relname, 5)::bigint / {SPAN})::text, ' ' ORDER BY substr(c.relname, 5)::bigint), '')
             FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE inhparent = 'copyhold.log'::regclass"
        ))
        .await
        .unwrap()
}

#[tokio::test]
async fn what_is_older_than_it_is_kept_goes_partition_by_partition() {
    let (harness, keep) = (harness().await, Retention { keep_for: 8 * DAY, ..KEEP_ALL });
    let queue = harness.queue();
    append(&harness, 3).await;
    // A partition is turned when an eighth of the time has passed since it was begun, and not before.
    sweep(&queue, keep).await;
    assert_eq!(partitions(&harness).await, "0 1 2");
    harness.execute("UPDATE copyhold.log SET date_created = now() - interval '25 hours'").await;
    sweep(&queue, keep).await;
    append(&harness, 2).await;
    assert_eq!(harness.value("SELECT array_agg(id) FROM copyhold.log").await.unwrap(), "{1,2,3,1048576,1048577}");
    sweep(&queue, keep).await;
    assert_eq!(partitions(&harness).await, "0 1 2 3");
    harness.execute("UPDATE copyhold.log SET date_created = now() - interval '8 days 1 hour' WHERE id <= 2").await;
    sweep(&queue, keep).await;
    assert_eq!(partitions(&harness).await, "0 1 2 3", "one event in it is not old enough");
    harness.execute("UPDATE copyhold.log SET date_created = now() - interval '8 days 1 hour' WHERE id = 3").await;
    sweep(&queue, keep).await;
    assert_eq!(partitions(&harness).await, "1 2 3");
    assert_eq!(harness.value("SELECT dropped_through FROM copyhold.log_state").await.unwrap(), "3");
    // The partition that is written to stays, whatever its age, until it has been turned.
    harness.execute("UPDATE copyhold.log SET date_created = now() - interval '100 days'").await;
    while queue.tidy_log(LogDuty::Drop, keep).await.unwrap() {}
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.log").await.unwrap(), "2");
    sweep(&queue, keep).await;
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.log").await.unwrap(), "0");
    assert_eq!(harness.value("SELECT dropped_through FROM copyhold.log_state").await.unwrap(), "1048577");
    append(&harness, 1).await;
    assert_eq!(harness.value("SELECT id FROM copyhold.log").await.unwrap(), (2 * SPAN).to_string());
}

#[tokio::test]
async fn what_is_more_than_is_kept_goes_oldest_first() {
    let (harness, keep) = (harness().await, Retention { keep_bytes: 8 << 20, ..KEEP_ALL });
    let queue = harness.queue();
    for round in 1..=20 {
        // Some 0.9 MiB with its index: a partition is turned when it has more than an eighth of what is kept.
        append(&harness, 5000).await;
        sweep(&queue, keep).await;
        let bytes = queue.log_bytes().await.unwrap();
        assert!(bytes <= keep.keep_bytes, "{bytes} after round {round}");
    }
    let (first, last): (i64, i64) =
        sqlx::query_as("SELECT min(id), max(id) FROM copyhold.log").fetch_one(&harness.pool).await.unwrap();
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM copyhold.log").fetch_one(&harness.pool).await.unwrap();
    // Not much less is kept than may be, and it is the latest.
    assert!((15_000..=45_000).contains(&kept), "{kept}");
    assert!(last / SPAN > first / SPAN, "all that is kept is in one partition");
    let dropped: i64 =
        sqlx::query_scalar("SELECT dropped_through FROM copyhold.log_state").fetch_one(&harness.pool).await.unwrap();
    assert!(dropped < first && dropped > first - SPAN, "{dropped} {first}");
}

#[tokio::test]
async fn after_a_month_without_a_sweeper_an_append_makes_the_partition_that_is_missing() {
    let harness = harness().await;
    append(&harness, 1).await;
    // All that were made ahead are used up, in one jump. The id that found no partition is lost.
    harness.execute(&format!("SELECT setval('copyhold.log_ids', {})", 9 * SPAN - 10)).await;
    append(&harness, 2).await;
    assert_eq!(partitions(&harness).await, "0 1 2 8 9 10");
    // A batch that begins in one partition and ends in the next, and the next is missing.
    harness.execute("DROP TABLE copyhold.log_9437184, copyhold.log_10485760").await;
    append(&harness, 8).await;
    assert_eq!(partitions(&harness).await, "0 1 2 8 9 10 11");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.log").await.unwrap(), "11");
    assert_eq!(
        harness.value("SELECT min(id) FROM copyhold.log WHERE id > 9437182").await.unwrap(),
        (9 * SPAN + 1).to_string()
    );
    // Others' events come the same way.
    harness.execute(&format!("SELECT setval('copyhold.log_ids', {})", 20 * SPAN)).await;
    harness.value("SELECT copyhold.append_event('{\"kind\": \"a\"}')").await;
    assert_eq!(harness.value("SELECT copyhold.move_inbox(10)").await.unwrap(), "1");
}

#[tokio::test]
async fn a_partition_that_was_detached_by_hand_is_attached_again_with_what_is_in_it() {
    let harness = harness().await;
    append(&harness, 2).await;
    // The one that is written, and one that will be.
    harness
        .execute(
            "ALTER TABLE copyhold.log DETACH PARTITION copyhold.log_0;
             ALTER TABLE copyhold.log DETACH PARTITION copyhold.log_1048576",
        )
        .await;
    append(&harness, 1).await;
    assert_eq!(partitions(&harness).await, "0 1 2");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.log").await.unwrap(), "3");
    // Who wants to be rid of one gives it another name.
    harness
        .execute("ALTER TABLE copyhold.log DETACH PARTITION copyhold.log_0; ALTER TABLE copyhold.log_0 RENAME TO kept")
        .await;
    append(&harness, 1).await;
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.log").await.unwrap(), "1");
    assert_eq!(partitions(&harness).await, "0 1 2");
    let left = "SELECT count(*) FROM pg_constraint WHERE conname = 'attached'";
    assert_eq!(harness.value(left).await.unwrap(), "0");
}

#[tokio::test]
async fn a_daemon_copies_on_and_tells_of_it_although_all_partitions_are_used_up() {
    let harness = harness().await;
    harness.execute("DROP TABLE copyhold.log_0, copyhold.log_1048576, copyhold.log_2097152").await;
    let daemon = harness.daemon().await;
    harness.upload("photo", "bytes").await;
    harness.until_copied("photo").await;
    harness.until("SELECT count(*) >= 3 FROM pg_inherits WHERE inhparent = 'copyhold.log'::regclass").await;
    assert!(!daemon.log().contains("Could not maintain the log"), "{}", daemon.log());
}

#[tokio::test]
async fn an_open_reader_delays_the_drop_and_appends_for_moments_only() {
    let (harness, keep) = (harness().await, Retention { keep_for: Duration::from_hours(1), ..KEEP_ALL });
    let queue = harness.queue();
    append(&harness, 10).await;
    harness.execute("UPDATE copyhold.log SET date_created = now() - interval '1 day'").await;
    for duty in [LogDuty::Make, LogDuty::Turn] {
        queue.tidy_log(duty, keep).await.unwrap();
    }
    let mut reader = harness.pool.acquire().await.unwrap().detach();
    let mut reading = reader.begin().await.unwrap();
    assert_eq!(
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM copyhold.log").fetch_one(&mut *reading).await.unwrap(),
        10
    );
    let mut gave_way = 0;
    for _ in 0..20 {
        let dropping = queue.tidy_log(LogDuty::Drop, keep);
        let appending = async {
            // While it waits for the reader.
            let mut connection = harness.pool.acquire().await.unwrap();
            sqlx::raw_sql("SELECT copyhold.append_log(ARRAY['{}'::jsonb])").execute(&mut *connection).await.unwrap();
        };
        // Behind a drop that waits for its reader it would never end.
        let (dropped, ()) = tokio::join!(dropping, soon("an append", appending));
        match dropped {
            Err(error) => gave_way += usize::from(error.sqlstate().as_deref() == Some("55P03")),
            // The one before has reported that it gave up, and has not quite ended.
            Ok(done) => assert!(!done, "it was dropped under its reader"),
        }
    }
    assert!(gave_way > 0, "it never met the reader");
    // It is still all there for the reader; when that is gone, it goes.
    assert_eq!(
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM copyhold.log WHERE id <= 10")
            .fetch_one(&mut *reading)
            .await
            .unwrap(),
        10
    );
    reading.commit().await.unwrap();
    assert!(queue.tidy_log(LogDuty::Drop, keep).await.unwrap());
    assert_eq!(harness.value("SELECT min(id) FROM copyhold.log").await.unwrap(), SPAN.to_string());
}

#[tokio::test]
async fn two_sweepers_and_an_appender_at_once_keep_the_log_whole() {
    let (harness, keep) = (harness().await, Retention { keep_for: Duration::from_hours(1), ..KEEP_ALL });
    let old = |sql: &str| format!("{sql}; UPDATE copyhold.log SET date_created = now() - interval '2 hours'");
    harness.execute(&old("SELECT copyhold.append_log(ARRAY['{}'::jsonb])")).await;
    let sweeping = async |queue: Database| {
        for _ in 0..40 {
            for duty in LogDuty::ALL {
                match queue.tidy_log(duty, keep).await {
                    Ok(_) => {}
                    // It gave way to the other, or to the appender.
                    Err(error) => assert_eq!(error.sqlstate().as_deref(), Some("55P03"), "{error}"),
                }
            }
        }
    };
    let appending = async {
        let mut last = 0;
        for _ in 0..60 {
            let appended = "SELECT copyhold.append_log(ARRAY['{}', '{}']::jsonb[])";
            let id: i64 = sqlx::query_scalar(appended).fetch_one(&harness.pool).await.unwrap();
            assert!(id > last, "{id} after {last}");
            last = id;
            harness.execute("UPDATE copyhold.log SET date_created = now() - interval '2 hours'").await;
        }
        last
    };
    let ((), (), last) = tokio::join!(sweeping(harness.queue()), sweeping(harness.queue()), appending);
    sweep(&harness.queue(), keep).await;
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.log").await.unwrap(), "0");
    assert_eq!(harness.value("SELECT dropped_through FROM copyhold.log_state").await.unwrap(), last.to_string());
    assert_eq!(partitions(&harness).await.split(' ').count(), 3, "three are ready");
}

#[tokio::test]
async fn a_daemon_keeps_the_log_within_its_retention() {
    let mut harness = harness().await;
    harness.rewrite(|text| text + "[events]\nkeep_for = \"1h\"\n");
    append(&harness, 10).await;
    harness.execute("UPDATE copyhold.log SET date_created = now() - interval '2 hours'").await;
    // Before the event of the daemon's start, in the same partition.
    let keep = Retention { keep_for: Duration::from_hours(1), ..KEEP_ALL };
    assert!(harness.queue().tidy_log(LogDuty::Turn, keep).await.unwrap());
    let _daemon = harness.daemon().await;
    harness.until("SELECT dropped_through = 10 FROM copyhold.log_state").await;
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.log WHERE id <= 10").await.unwrap(), "0");
}
