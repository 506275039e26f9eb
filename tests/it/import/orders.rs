//! The table is read in the order of its own index, whatever that is.

use super::{AS_IN_THE_ESSAY, ESSAY, SINCE, assert_equal, report};
use crate::harness::Harness;

/// Keys that byte order, dictionaries and pattern indexes put in different places.
fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    for stem in ["a", "A", "b", "B", "ä", "Z", "z", "ﬁ", "é", "e\u{301}"] {
        for tail in ["", "-", "_", "/", " ", ".", "!", "a", "A", "1", "10", "9", "~", "\u{200b}"] {
            keys.push(format!("{stem}{tail}"));
            keys.push(format!("{tail}{stem}x"));
        }
    }
    keys.retain(|key| !key.is_empty());
    keys.sort();
    keys.dedup();
    keys
}

async fn fill(harness: &Harness, keys: &[String]) {
    let sql = format!(
        "INSERT INTO object_copies (object_key, b2, wasabi) SELECT k, {SINCE}, {SINCE} FROM unnest($1::text[]) WITH ORDINALITY AS u(k, i)"
    );
    sqlx::query(sqlx::AssertSqlSafe(sql)).bind(keys).execute(&harness.pool).await.unwrap();
}

/// Each batch ends at another key.
async fn assert_all_taken_over(harness: &Harness, keys: &[String], equal: &str) {
    for batch in ["1", "3", "7"] {
        let (code, found) = report(harness, &["--batch", batch]).await;
        assert_eq!((code, &found["read"], &found["imported"]), (0, &keys.len().into(), &keys.len().into()), "{found}");
        assert_equal(harness, equal).await;
        harness.execute("DELETE FROM copyhold.object_copies").await;
    }
}

#[tokio::test]
async fn a_dictionarys_order_is_followed() {
    for collation in ["en-US-x-icu", "sv-x-icu", "C"] {
        let (harness, keys) = (Harness::new().await, keys());
        harness.execute(&ESSAY.replace("TEXT PRIMARY KEY", &format!("TEXT COLLATE \"{collation}\" PRIMARY KEY"))).await;
        fill(&harness, &keys).await;
        let theirs = "SELECT string_agg(object_key, '|' ORDER BY object_key) FROM object_copies";
        let is_ours = harness.value(theirs).await.unwrap() == keys.join("|");
        assert_eq!(is_ours, collation == "C", "a place compared byte by byte would do in {collation}");
        assert_all_taken_over(&harness, &keys, AS_IN_THE_ESSAY).await;
    }
}

#[tokio::test]
async fn keys_that_are_equal_to_a_dictionary_are_different_objects() {
    let (harness, keys) = (Harness::new().await, keys());
    harness
        .execute(
            "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
             CREATE TABLE object_copies (object_key text COLLATE loose, b2 bigint, wasabi bigint, scw bigint);
             CREATE INDEX ON object_copies (object_key)",
        )
        .await;
    fill(&harness, &keys).await;
    assert_all_taken_over(&harness, &keys, AS_IN_THE_ESSAY).await;
}

#[tokio::test]
async fn any_index_that_begins_with_the_key_will_do() {
    for index in [
        "UNIQUE INDEX ON object_copies (object_key DESC)",
        "INDEX ON object_copies (object_key DESC NULLS LAST)",
        "INDEX ON object_copies (object_key ASC NULLS FIRST, b2)",
        "INDEX ON object_copies (object_key text_pattern_ops)",
        "INDEX ON object_copies (object_key COLLATE \"de-x-icu\" DESC)",
    ] {
        let (harness, keys) = (Harness::new().await, keys());
        harness.execute(&ESSAY.replace("TEXT PRIMARY KEY", "varchar(2000) COLLATE \"en-US-x-icu\"")).await;
        harness.execute(&format!("CREATE {index}")).await;
        fill(&harness, &keys).await;
        assert_all_taken_over(&harness, &keys, AS_IN_THE_ESSAY).await;
    }
}

#[tokio::test]
async fn a_partitioned_table_is_one_table() {
    let (harness, keys) = (Harness::new().await, keys());
    harness
        .execute(
            "CREATE TABLE object_copies (object_key text COLLATE \"en-US-x-icu\" PRIMARY KEY, b2 bigint, wasabi bigint, scw bigint)
             PARTITION BY HASH (object_key);
             CREATE TABLE p0 PARTITION OF object_copies FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE p1 PARTITION OF object_copies FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        )
        .await;
    fill(&harness, &keys).await;
    assert_all_taken_over(&harness, &keys, AS_IN_THE_ESSAY).await;
}

#[tokio::test]
async fn a_batch_reads_the_table_by_its_index_whatever_postgresql_believes_of_it() {
    let harness = super::with_rows(20_000).await;
    harness.execute("ANALYZE object_copies; UPDATE pg_class SET reltuples = 1, relpages = 1 WHERE relname = 'object_copies' AND relnamespace = 'public'::regnamespace").await;
    assert_eq!(report(&harness, &["--batch", "500"]).await.0, 0);
    // The statistics of this database come late, so they are waited for.
    harness.until("SELECT coalesce(sum(idx_scan), 0) >= 80 FROM pg_stat_user_indexes WHERE relname = 'object_copies' AND schemaname = 'public'").await;
    let scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'object_copies' AND schemaname = 'public'";
    let sampled = 1;
    // ANALYZE is none, the primary key's making is one.
    let scans: u32 = harness.value(scans).await.unwrap().parse().unwrap();
    assert!(scans <= 1 + sampled, "{scans} scans of the whole table");
}
