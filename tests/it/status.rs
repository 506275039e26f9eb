//! `status` never fails, and derives no figure from others.

use serde_json::Value;

use crate::harness::{Harness, printed};

async fn document(harness: &Harness, more: &[&str]) -> Value {
    let arguments: Vec<_> = ["status", "--json"].iter().chain(more).copied().collect();
    let output = harness.run(&arguments).await;
    assert!(output.status.success(), "{}", printed(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn text(harness: &Harness, more: &[&str]) -> String {
    let arguments: Vec<_> = ["status"].iter().chain(more).copied().collect();
    let output = harness.run(&arguments).await;
    assert!(output.status.success(), "{}", printed(&output));
    printed(&output)
}

/// Recorded, not wanted, missing.
fn figures(status: &Value, replica: &str) -> [Option<i64>; 3] {
    let of = status["replicas"].as_array().unwrap().iter().find(|r| r["replica"] == replica).unwrap();
    ["recorded", "not_wanted", "backlog_objects"].map(|figure| of[figure].as_i64())
}

/// So many objects that the table's pages are not all read: the primary has all, nothing is at scw, wasabi wants every second one.
async fn large(harness: &Harness) -> i64 {
    harness
        .execute(
            "ALTER TABLE copyhold.object_copies DISABLE TRIGGER USER;
             INSERT INTO copyhold.object_copies (object_key, size_bytes, b2, due_wasabi, not_carried)
             SELECT 'k' || i, 5, 1, CASE WHEN i % 2 = 0 THEN 0 END, ARRAY[repeat('x', 1400)] FROM generate_series(1, 50000) i;
             ANALYZE copyhold.object_copies",
        )
        .await;
    let size = "SELECT pg_relation_size('copyhold.object_copies') > 64 * 1024 * 1024";
    assert_eq!(harness.value(size).await.as_deref(), Some("true"));
    50_000
}

#[tokio::test]
async fn what_is_not_wanted_is_neither_recorded_nor_missing() {
    let harness = Harness::new().await;
    harness
        .execute(
            "INSERT INTO copyhold.object_copies (object_key, b2, wasabi, due_scw)
             SELECT 'k' || i, 1, CASE WHEN i <= 3 THEN 1 END, CASE WHEN i <= 4 THEN 0 END FROM generate_series(1, 10) i;
             UPDATE copyhold.object_copies SET due_wasabi = NULL WHERE object_key IN ('k9', 'k10')",
        )
        .await;
    let status = document(&harness, &[]).await;
    assert_eq!((&status["objects"], &status["estimated"]), (&10.into(), &false.into()));
    assert_eq!(figures(&status, "b2"), [Some(10), Some(0), Some(0)]);
    assert_eq!(figures(&status, "wasabi"), [Some(3), Some(2), Some(5)]);
    assert_eq!(figures(&status, "scw"), [Some(0), Some(6), Some(4)]);
    let text = text(&harness, &[]).await;
    assert!(text.contains("not wanted there by the rules: 6 objects at scw, 2 objects at wasabi"), "{text}");
}

#[tokio::test]
async fn figures_of_a_large_table_are_of_one_count_and_unknown_before_it() {
    let harness = Harness::new().await;
    let objects = large(&harness).await;
    let status = document(&harness, &[]).await;
    for replica in ["b2", "wasabi", "scw"] {
        assert_eq!(figures(&status, replica), [None, None, None], "{status}");
    }
    let told = text(&harness, &[]).await;
    let row = told.lines().find(|line| line.trim_start().starts_with("scw")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["scw", "?", "?", "?", "0", "?"], "{told}");
    assert!(told.contains("b2, scw, wasabi are not counted yet"), "{told}");

    let counted = |status: &Value| {
        assert_eq!(figures(status, "scw"), [Some(0), Some(0), Some(objects)], "{status}");
        assert_eq!(figures(status, "b2")[1..], [Some(0), Some(0)], "{status}");
        let near = |figure: Option<i64>, about: i64| (figure.unwrap() - about).abs() < about / 5;
        assert!(near(figures(status, "b2")[0], objects), "{status}");
        let [recorded, not_wanted, missing] = figures(status, "wasabi");
        assert!(recorded == Some(0) && near(not_wanted, objects / 2) && missing == Some(objects / 2), "{status}");
        assert_eq!(status["replicas"][0]["recorded_estimated"], true, "{status}");
    };
    counted(&document(&harness, &["--exact"]).await);
    assert!(harness.queue().refresh_backlog().await.unwrap());
    counted(&document(&harness, &[]).await);
    let told = text(&harness, &[]).await;
    assert!(told.contains("about 50000 objects") && told.contains("~50000"), "{told}");

    // A program that knows nothing of them has counted the backlog since: they are of another moment.
    harness.execute("UPDATE copyhold.backlog SET objects = objects - 1, as_of = as_of + interval '1 s'").await;
    let status = document(&harness, &[]).await;
    assert_eq!(figures(&status, "scw"), [None, None, Some(objects - 1)], "{status}");
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_hides_nothing_else() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    harness
        .execute(
            "INSERT INTO copyhold.copy_failures SELECT object_key, 'scw', generation, 1, 'denied', 'no', 1, 1
             FROM copyhold.object_copies",
        )
        .await;
    assert!(harness.queue().refresh_backlog().await.unwrap());
    let mut other = harness.pool.begin().await.unwrap();
    for table in ["copy_failures", "object_copies", "log_inbox", "rules"] {
        let lock = format!("LOCK TABLE copyhold.{table} IN ACCESS EXCLUSIVE MODE");
        sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut *other).await.unwrap();
    }
    let status = document(&harness, &[]).await;
    let unread: Vec<_> =
        status["not_known"].as_array().unwrap().iter().map(|part| part["what"].as_str().unwrap()).collect();
    assert!(unread.contains(&"failing copies") && unread.contains(&"the log"), "{status}");
    for part in ["objects", "failing", "failing_count", "log", "daemons"] {
        assert!(status[part].is_null(), "{part}: {status}");
    }
    assert!(status["replicas"][0]["failing"].is_null(), "{status}");
    assert_eq!(figures(&status, "scw"), [Some(0), Some(0), Some(1)], "as they were counted before: {status}");
    let told = text(&harness, &[]).await;
    assert!(told.contains("not known: failing copies: ") && told.contains("? objects"), "{told}");
    other.rollback().await.unwrap();
    let status = document(&harness, &[]).await;
    assert_eq!((&status["failing"][0]["copies"], &status["not_known"]), (&1.into(), &Value::Array(Vec::new())));
}

#[tokio::test]
async fn more_failures_than_can_be_compared_are_counted_all_the_same() {
    let harness = Harness::new().await;
    harness
        .execute(
            "ALTER TABLE copyhold.object_copies DISABLE TRIGGER USER;
             INSERT INTO copyhold.object_copies (object_key, b2) SELECT 'k' || i, 1 FROM generate_series(1, 20001) i;
             INSERT INTO copyhold.copy_failures SELECT object_key, 'scw', generation, 1,
                    CASE object_key WHEN 'k20001' THEN 'refused' ELSE 'denied' END, 'no', 1, 1 FROM copyhold.object_copies;
             INSERT INTO copyhold.copy_failures SELECT object_key, 'wasabi', generation - 1, 1, 'denied', 'earlier', 1, 1
             FROM copyhold.object_copies LIMIT 1",
        )
        .await;
    let status = document(&harness, &[]).await;
    assert_eq!(status["failing_count"], "with_earlier_contents");
    let failing: Vec<_> = status["failing"].as_array().unwrap().iter().map(|f| (&f["class"], &f["copies"])).collect();
    let told =
        [("denied", 20_000), ("refused", 1), ("denied", 1)].map(|(class, n)| (Value::from(class), Value::from(n)));
    assert_eq!(failing, told.each_ref().map(|(class, n)| (class, n)), "{status}");
    assert_eq!(status["failing"][1]["example_key"], "k20001");
    let text = text(&harness, &[]).await;
    assert!(text.contains("scw: denied: ~20000 copies, the last "), "{text}");
    // Of as many as can be compared, those of an earlier content are left out.
    harness.execute("DELETE FROM copyhold.copy_failures WHERE object_key LIKE 'k1%' AND replica = 'scw'").await;
    let status = document(&harness, &[]).await;
    assert_eq!(status["failing_count"], "exact");
    assert!(status["failing"].as_array().unwrap().iter().all(|f| f["replica"] == "scw"), "{status}");
}
