//! The figures of the backlog are counted by one daemon at a time, and only when that is due.

use crate::harness::Harness;

#[tokio::test]
async fn a_daemon_that_is_not_to_count_the_backlog_counts_nothing() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    assert!(harness.queue().refresh_backlog().await.unwrap());
    // From now on counting is an error.
    harness
        .execute(
            "CREATE FUNCTION counted(text) RETURNS boolean LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'a count is running'; END $$;
             CREATE OR REPLACE VIEW copyhold.backlog_exact AS
             SELECT r AS replica, b.* FROM unnest(ARRAY['scw', 'wasabi']) r,
                    LATERAL (SELECT count(*) AS objects, 0::bigint AS bytes, 0::bigint AS objects_of_unknown_size,
                                    to_timestamp(min(created_at) / 1e6) AS oldest_registration, 0::bigint AS in_flight,
                                    0::bigint AS waiting, 0::bigint AS parked
                             FROM copyhold.object_copies WHERE counted(object_key)) b",
        )
        .await;
    let mut other = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('copyhold:backlog', 0))")
        .execute(&mut *other)
        .await
        .unwrap();
    assert!(!harness.queue().refresh_backlog().await.unwrap());
    other.commit().await.unwrap();
    harness.execute("DELETE FROM copyhold.backlog").await;
    let error = harness.queue().refresh_backlog().await.unwrap_err();
    assert!(error.to_string().contains("a count is running"), "{error}");
}
