//! Registering objects by SQL: one by one or many at once, where the rules want them or where the caller does.

use sqlx::Row as _;

use crate::{
    harness::{Harness, printed},
    rules::{in_force, wanted},
};

const RULES: &str = "[[rules]]\nprefix = \"big/\"\nmin_size = \"100B\"\nreplicas = [\"wasabi\"]\n\
                     [[rules]]\nprefix = \"big/\"\nreplicas = [\"scw\"]\n\
                     [[rules]]\nprefix = \"tmp%_/\"\nreplicas = [\"b2\"]\n";

async fn harness() -> Harness {
    let mut harness = Harness::new().await;
    in_force(&mut harness, RULES).await;
    harness
}

/// The error's text and hint; empty if there is none.
async fn refusal(harness: &Harness, statement: &'static str) -> String {
    let Err(error) = sqlx::raw_sql(statement).execute(&harness.pool).await else { return String::new() };
    let error = error.as_database_error().unwrap().downcast_ref::<sqlx::postgres::PgDatabaseError>();
    format!("{}: {}", error.message(), error.hint().unwrap_or_default())
}

#[tokio::test]
async fn register_follows_the_rules_unless_the_call_names_replicas() {
    let harness = harness().await;
    for (call, key, at) in [
        ("'big/1', 100", "big/1", "b2,wasabi"),
        ("'big/2', 99", "big/2", "b2,scw"),
        // Unknown sizes are only for rules without sizes.
        ("'big/3'", "big/3", "b2,scw"),
        ("'tmp%_/1'", "tmp%_/1", "b2"),
        // Nothing in a prefix is a pattern.
        ("'tmpXX/1'", "tmpXX/1", "b2,scw,wasabi"),
        ("'other'", "other", "b2,scw,wasabi"),
        ("'big/4', 100, '{scw}'", "big/4", "b2,scw"),
        ("'big/5', 100, '{}'", "big/5", "b2"),
        // Again: the rule that fits decides, and without one what was wanted before.
        ("'big/1', 1", "big/1", "b2,scw"),
        ("'x', NULL, '{wasabi}'", "x", "b2,wasabi"),
        ("'x', 7", "x", "b2,wasabi"),
        ("'x', 7, '{scw}'", "x", "b2,scw"),
    ] {
        harness.execute(&format!("SELECT copyhold.register({call})")).await;
        assert_eq!(wanted(&harness, key).await, at, "register({call})");
    }
    // The primary in force has what is registered.
    assert_eq!(harness.value("SELECT bool_and(b2 IS NOT NULL) FROM copyhold.object_copies").await.unwrap(), "true");
}

#[tokio::test]
async fn a_plain_insert_chooses_its_replicas_by_itself() {
    let harness = harness().await;
    harness.execute("INSERT INTO copyhold.object_copies (object_key, b2) VALUES ('big/1', 1)").await;
    harness.execute("INSERT INTO copyhold.object_copies (object_key, b2, due_scw) VALUES ('big/2', 1, NULL)").await;
    assert_eq!(wanted(&harness, "big/1").await, "b2,scw,wasabi");
    assert_eq!(wanted(&harness, "big/2").await, "b2,wasabi");
}

#[tokio::test]
async fn many_objects_are_registered_by_one_call_in_which_the_last_of_a_key_counts() {
    let harness = harness().await;
    harness.execute("SELECT copyhold.register('b', 1, '{scw}')").await;
    let sql = "SELECT copyhold.register_many('{c,big/1,b,a,big/1,b}', '{1,100,2,NULL,5,3}')";
    let generations: Vec<i64> =
        sqlx::raw_sql(sql).fetch_one(&harness.pool).await.unwrap().try_get_unchecked(0).unwrap();
    let expected = "SELECT json_agg(o.generation ORDER BY g.place) FROM
        unnest('{c,big/1,b,a,big/1,b}'::text[]) WITH ORDINALITY AS g(k, place) JOIN copyhold.object_copies o ON o.object_key = g.k";
    let expected: Vec<i64> = serde_json::from_str(&harness.value(expected).await.unwrap()).unwrap();
    assert_eq!(generations, expected);
    assert_eq!(generations[1], generations[4]);
    let sizes = "SELECT string_agg(object_key || '=' || coalesce(size_bytes::text, '?'), ' ' ORDER BY object_key)
                 FROM copyhold.object_copies";
    assert_eq!(harness.value(sizes).await.unwrap(), "a=? b=3 big/1=5 c=1");
    for (key, at) in [("a", "b2,scw,wasabi"), ("b", "b2,scw"), ("big/1", "b2,scw"), ("c", "b2,scw,wasabi")] {
        assert_eq!(wanted(&harness, key).await, at, "{key}");
    }
    harness.execute("SELECT copyhold.register_many('{b,d}', replicas => '{wasabi}')").await;
    assert_eq!((wanted(&harness, "b").await, wanted(&harness, "d").await), ("b2,wasabi".into(), "b2,wasabi".into()));
    assert_eq!(harness.value("SELECT copyhold.register_many('{}')").await.unwrap(), "{}");
}

#[tokio::test]
async fn many_calls_with_the_same_keys_in_any_order_do_not_deadlock() {
    let harness = harness().await;
    let call = |order: &str| {
        format!(
            "SELECT copyhold.register_many(ARRAY(SELECT 'k' || i FROM generate_series(1, 300) i ORDER BY i {order}))"
        )
    };
    let calls = (0..20).map(|i| {
        let (pool, sql) = (harness.pool.clone(), call(if i % 2 == 0 { "ASC" } else { "DESC" }));
        async move { sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&pool).await }
    });
    for done in futures::future::join_all(calls).await {
        done.unwrap();
    }
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies").await.unwrap(), "300");
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused_with_a_remedy() {
    let harness = harness().await;
    for (statement, says) in [
        ("SELECT copyhold.register('a', 1, '{b2,wasaby}')", "unknown replica 'wasaby': The replicas are"),
        ("SELECT copyhold.register('a', 1, '{NULL}')", "unknown replica NULL"),
        ("SELECT copyhold.register('a', 1, ARRAY['b2,scw'])", "unknown replica 'b2,scw'"),
        ("SELECT copyhold.register_many('{a,b}', '{1}')", "2 keys, but 1 sizes: Give one for each"),
        ("SELECT copyhold.register_many('{a,NULL}')", "null value in column \"object_key\""),
        ("SELECT copyhold.register_many('{a,\"\"}')", "violates check constraint"),
        ("SELECT copyhold.register('a', -1)", "violates check constraint"),
        ("SELECT copyhold.want('a', '{cold}')", "unknown replica 'cold': The replicas are"),
        ("SELECT copyhold.unwant('a', '{b2}')", "the primary always has the object: Name other replicas"),
    ] {
        let refusal = refusal(&harness, statement).await;
        assert!(refusal.contains(says), "{statement}: {refusal}");
    }
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies").await.unwrap(), "0");
}

#[tokio::test]
async fn want_and_unwant_change_what_is_wanted_and_no_proof() {
    let harness = harness().await;
    assert_eq!(harness.value("SELECT copyhold.want('x', '{scw}')").await.unwrap(), "false");
    assert_eq!(harness.value("SELECT copyhold.unwant('x', '{scw}')").await.unwrap(), "false");
    harness
        .execute(
            "INSERT INTO copyhold.object_copies (object_key, b2, wasabi, due_scw) VALUES ('x', 1, 5, 9000000000000000000);
             INSERT INTO copyhold.copy_failures VALUES ('x', 'scw', 1, 1, 'denied', 'no', 1, 1)",
        )
        .await;
    // What is parked stays parked: it is wanted already.
    assert_eq!(harness.value("SELECT copyhold.want('x', '{scw,wasabi}')").await.unwrap(), "true");
    assert_eq!(harness.value("SELECT due_scw FROM copyhold.object_copies").await.unwrap(), "9000000000000000000");
    assert_eq!(harness.value("SELECT copyhold.unwant('x', '{scw,wasabi}')").await.unwrap(), "true");
    assert_eq!(wanted(&harness, "x").await, "b2");
    assert_eq!(harness.value("SELECT wasabi FROM copyhold.object_copies").await.unwrap(), "5");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.copy_failures").await.unwrap(), "0");
    assert_eq!(harness.value("SELECT copyhold.want('x', '{scw}')").await.unwrap(), "true");
    assert_eq!(wanted(&harness, "x").await, "b2,scw");
}

#[tokio::test]
async fn what_becomes_wanted_wakes_a_daemon_that_sleeps_and_is_copied() {
    let harness = harness().await;
    let daemon = harness.daemon().await;
    harness.bucket("b2").put("x", "bytes");
    harness.execute("SELECT copyhold.register('x', 5, '{wasabi}')").await;
    harness.until("SELECT wasabi IS NOT NULL AND lock IS NULL FROM copyhold.object_copies").await;
    assert_eq!(harness.bucket("scw").get("x"), None);
    harness.execute("SELECT copyhold.want('x', '{scw}')").await;
    harness.until_copied("x").await;
    drop(daemon);
}

#[tokio::test]
async fn enqueue_goes_by_the_rules_and_by_the_size_it_is_told() {
    let harness = harness().await;
    assert!(harness.run(&["enqueue", "big/1", "--size", "100"]).await.status.success());
    assert!(harness.run(&["enqueue", "big/2", "other"]).await.status.success());
    assert!(harness.run(&["enqueue", "big/3", "--size", "100", "--replicas", "scw"]).await.status.success());
    for (key, at) in [("big/1", "b2,wasabi"), ("big/2", "b2,scw"), ("other", "b2,scw,wasabi"), ("big/3", "b2,scw")] {
        assert_eq!(wanted(&harness, key).await, at, "{key}");
    }
    let output = harness.run(&["enqueue", "x", "--size", "1k"]).await;
    assert_eq!(output.status.code(), Some(2), "{}", printed(&output));
}
