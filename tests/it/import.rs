//! `copyhold import`: the objects of another program's table are registered, each as it stands there.

mod interrupted;
mod orders;
mod refused;

use serde_json::Value;

use crate::harness::{Harness, printed};

/// As the first essay has it.
const ESSAY: &str =
    "CREATE TABLE object_copies (object_key TEXT PRIMARY KEY, b2 BIGINT, wasabi BIGINT, scw BIGINT, lock BIGINT)";
/// And as its descendant has it.
const HEIR: &str = "CREATE TABLE object_copies (
    object_key TEXT PRIMARY KEY,
    b2 BIGINT, want_b2 BOOLEAN NOT NULL,
    wasabi BIGINT, want_wasabi BOOLEAN NOT NULL,
    scw BIGINT, want_scw BOOLEAN NOT NULL,
    last_attempt BIGINT NOT NULL DEFAULT 0)";
/// 2024-01-01 in µs, and so many seconds.
const SINCE: &str = "1704067200000000 + 1000000::bigint * i";

/// Runs it to its end: its exit code, and all that it printed.
async fn imported(harness: &Harness, arguments: &[&str]) -> (i32, String) {
    let output = harness.run(&[&["import", "--table", "object_copies"], arguments].concat()).await;
    (output.status.code().unwrap(), printed(&output))
}

/// The same as a document.
async fn report(harness: &Harness, arguments: &[&str]) -> (i32, Value) {
    let output = harness.run(&[&["import", "--table", "object_copies", "--json"], arguments].concat()).await;
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", printed(&output)));
    (output.status.code().unwrap(), document)
}

fn of<'a>(report: &'a Value, replica: &str) -> &'a Value {
    report["replicas"].as_array().unwrap().iter().find(|r| r["replica"] == replica).unwrap()
}

/// A harness with another program's table of that many rows, some with a copy missing.
async fn with_rows(rows: u32) -> Harness {
    let harness = Harness::new().await;
    harness.execute(ESSAY).await;
    harness
        .execute(&format!(
            "INSERT INTO object_copies SELECT md5(i::text), {SINCE}, CASE WHEN i % 7 > 0 THEN {SINCE} + 5 END,
             CASE WHEN i % 11 > 0 THEN {SINCE} + 9 END FROM generate_series(1, {rows}) i"
        ))
        .await;
    harness
}

/// The imported table and ours have the same contents: compared both ways, row by row.
async fn assert_equal(harness: &Harness, theirs: &str) {
    let ours = "SELECT object_key, b2, due_b2 IS NOT NULL, wasabi, due_wasabi IS NOT NULL, scw, due_scw IS NOT NULL
                FROM copyhold.object_copies";
    let theirs = format!("SELECT object_key COLLATE \"C\", {theirs} FROM object_copies");
    for (one, other) in [(ours, theirs.as_str()), (&theirs, ours)] {
        let more = format!("SELECT string_agg(x::text, ' ') FROM (({one}) EXCEPT ALL ({other})) x");
        assert_eq!(harness.value(&more).await, None);
    }
    let due_later = "SELECT count(*) FROM copyhold.object_copies
                     WHERE greatest(due_b2, due_wasabi, due_scw) > copyhold.now_utc_micro_seconds()";
    assert_eq!(harness.value(due_later).await.unwrap(), "0");
}

const AS_IN_THE_ESSAY: &str = "b2, true, wasabi, true, scw, true";

#[tokio::test]
async fn the_essays_table_is_taken_over_row_by_row() {
    let harness = with_rows(1_000).await;
    harness.execute("UPDATE object_copies SET lock = 1 WHERE object_key < '1'").await;
    let held = harness.value("SELECT count(*) FROM object_copies WHERE lock = 1").await.unwrap();
    let (code, found) = report(&harness, &["--batch", "64"]).await;
    assert_eq!(code, 0, "{found}");
    assert_equal(&harness, AS_IN_THE_ESSAY).await;
    assert_eq!(
        (&found["outcome"], &found["read"], &found["imported"]),
        (&"complete".into(), &1000.into(), &1000.into())
    );
    assert_eq!((&of(&found, "b2")["recorded"], &of(&found, "b2")["wanted"]), (&1000.into(), &0.into()));
    assert_eq!((&of(&found, "wasabi")["recorded"], &of(&found, "wasabi")["wanted"]), (&858.into(), &142.into()));
    assert_eq!((&of(&found, "scw")["wanted"], &of(&found, "scw")["not_wanted"]), (&90.into(), &0.into()));
    assert_eq!(found["oddities"]["held"]["count"].to_string(), held);
    // Neither held nor read by us, nor taken for new.
    let rows =
        "SELECT bool_and(lock IS NULL AND lease IS NULL AND size_bytes IS NULL AND created_at = b2 AND due_scw = b2)
                FROM copyhold.object_copies";
    assert_eq!(harness.value(rows).await.unwrap(), "true");
    assert_eq!(harness.value("SELECT count(*) FROM object_copies WHERE lock = 1").await.unwrap(), held);
}

#[tokio::test]
async fn what_its_descendant_does_not_want_is_not_wanted() {
    let harness = Harness::new().await;
    harness.execute(HEIR).await;
    harness
        .execute(&format!(
            "INSERT INTO object_copies SELECT 'files/' || i, {SINCE}, true,
             CASE WHEN i % 3 = 0 THEN {SINCE} END, i % 5 > 0, CASE WHEN i % 4 = 0 THEN {SINCE} END, i % 7 > 0, 0
             FROM generate_series(1, 500) i;
             UPDATE object_copies SET last_attempt = copyhold.now_utc_micro_seconds() - 1000000
             WHERE object_key IN ('files/1', 'files/12')"
        ))
        .await;
    let (code, found) = report(&harness, &[]).await;
    assert_eq!(code, 0, "{found}");
    assert_equal(&harness, "b2, want_b2, wasabi, want_wasabi, scw, want_scw").await;
    // The other one lacks nothing.
    assert_eq!(found["oddities"]["held"], serde_json::json!({ "count": 1, "example_key": "files/1" }));
    let not_wanted = "SELECT count(*) FROM object_copies WHERE wasabi IS NULL AND NOT want_wasabi";
    assert_eq!(of(&found, "wasabi")["not_wanted"].to_string(), harness.value(not_wanted).await.unwrap());
}

#[tokio::test]
async fn a_dry_run_counts_the_same_and_writes_nothing() {
    let harness = with_rows(300).await;
    harness.insert(&harness.value("SELECT min(object_key) FROM object_copies").await.unwrap()).await;
    let (_, counted) = report(&harness, &["--batch", "50", "--dry-run"]).await;
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies").await.unwrap(), "1");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.imports").await.unwrap(), "0");
    let (_, did) = report(&harness, &["--batch", "50"]).await;
    for what in ["read", "imported", "already_registered", "replicas", "oddities"] {
        assert_eq!(counted[what], did[what], "{what}");
    }
    assert_eq!(did["already_registered"], 1);
}

#[tokio::test]
async fn columns_are_given_the_replica_they_stand_for_and_others_are_wanted_everywhere() {
    let mut harness = Harness::new().await;
    harness
        .execute(&format!(
            "CREATE TABLE object_copies (object_key varchar PRIMARY KEY, \"Hot one\" timestamptz, cold bigint, \"want_cold\" boolean);
             INSERT INTO object_copies SELECT 'k' || i, to_timestamp(({SINCE}) / 1e6), NULL, i <> 2 FROM generate_series(1, 3) i"
        ))
        .await;
    // One that only the schema knows.
    harness.rewrite(|text| text + "[replicas.old]\nendpoint = \"http://127.0.0.1:1\"\nregion = \"x\"\nbucket = \"old\"\naccess_key_id = \"a\"\nsecret_access_key = \"b\"\n");
    copyhold_db::schema::migrate(&harness.config).await.unwrap();
    harness.rewrite(|text| text[..text.find("[replicas.old]").unwrap()].to_owned());
    let (code, text) = imported(&harness, &["--map", "Hot one=b2,cold=scw"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("no column stands for wasabi: all that was registered is wanted there"), "{text}");
    let rows = "SELECT string_agg(concat_ws(' ', object_key, b2 - 1704067200000000, scw IS NULL, due_scw IS NULL, wasabi IS NULL,
                       due_wasabi IS NULL, old IS NULL, due_old IS NULL), ', ' ORDER BY object_key) FROM copyhold.object_copies";
    let expected = "k1 1000000 t f t f t f, k2 2000000 t t t f t f, k3 3000000 t f t f t f";
    assert_eq!(harness.value(rows).await.unwrap(), expected);
    // In no lane do they stand before what the application registers meanwhile, which is asked for by the latest due.
    let in_order = "SELECT bool_and(due_wasabi = created_at AND due_old = created_at AND created_at = b2) FROM copyhold.object_copies";
    assert_eq!(harness.value(in_order).await.unwrap(), "true");
}

#[tokio::test]
async fn the_primary_that_is_not_in_the_table_has_everything_if_an_argument_says_so() {
    let harness = Harness::new().await;
    harness
        .execute(
            "CREATE TABLE object_copies (object_key text PRIMARY KEY, wasabi bigint, scw bigint);
             INSERT INTO object_copies VALUES ('a', 1704067200000000, NULL), ('b', NULL, NULL)",
        )
        .await;
    let (code, text) = imported(&harness, &[]).await;
    assert_eq!(code, 1);
    assert!(
        text.contains("no column stands for b2, the primary in force") && text.contains("--assume-primary"),
        "{text}"
    );
    let (code, found) = report(&harness, &["--assume-primary"]).await;
    assert_eq!((code, &of(&found, "b2")["recorded"]), (0, &2.into()), "{found}");
    let rows = "SELECT string_agg(concat_ws(' ', object_key, b2 <= copyhold.now_utc_micro_seconds(), created_at < b2 OR wasabi IS NULL,
                       wasabi, due_scw <= copyhold.now_utc_micro_seconds()), ', ' ORDER BY object_key) FROM copyhold.object_copies";
    assert_eq!(harness.value(rows).await.unwrap(), "a t t 1704067200000000 t, b t t t");
}

#[tokio::test]
async fn what_is_recorded_nowhere_is_left_out_and_told() {
    let harness = with_rows(50).await;
    harness.execute("INSERT INTO object_copies VALUES ('lost'), ('lost too'), ('known')").await;
    harness.insert("known").await;
    let (code, text) = imported(&harness, &[]).await;
    assert_eq!(code, 1);
    assert!(
        text.contains("2 objects of which the table says that no replica has a copy") && text.contains("\"lost\""),
        "{text}"
    );
    assert!(text.contains("50 objects registered, 1 already registered and left as they are, 2 LEFT OUT"), "{text}");
    assert!(text.contains("the same with --assume-primary"), "{text}");
    let (code, found) = report(&harness, &["--assume-primary"]).await;
    assert_eq!((code, &found["imported"], &found["already_registered"]), (0, &2.into(), &51.into()), "{found}");
}

#[tokio::test]
async fn keys_that_no_store_has_are_counted_with_an_example() {
    let harness = Harness::new().await;
    harness
        .execute(
            "CREATE TABLE object_copies (object_key text, b2 bigint);
             CREATE INDEX ON object_copies (object_key);
             INSERT INTO object_copies SELECT k, 1704067200000000 FROM unnest(ARRAY['a', '', NULL, NULL,
                 repeat('ä', 513), repeat('k', 1025), repeat('k', 1024), E'esc\\x1b[2J']) k",
        )
        .await;
    let (code, found) = report(&harness, &["--batch", "2"]).await;
    assert_eq!(
        (code, &found["imported"], &found["left_out"], &found["read"]),
        (1, &3.into(), &5.into(), &8.into()),
        "{found}"
    );
    let odd = &found["oddities"];
    assert_eq!(
        (&odd["null_key"]["count"], &odd["empty_key"]["count"], &odd["long_key"]["count"]),
        (&2.into(), &1.into(), &2.into())
    );
    assert_eq!(odd["long_key"]["example_key"].as_str().unwrap().chars().count(), 200);
    let (_, text) = imported(&harness, &[]).await;
    assert!(text.contains("2 rows without a key: left out") && text.contains("3 already registered"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[tokio::test]
async fn of_rows_with_one_key_a_copy_counts_only_where_all_of_them_say_so() {
    let harness = Harness::new().await;
    harness
        .execute(
            "CREATE TABLE object_copies (object_key text, b2 bigint, wasabi bigint, scw bigint, want_scw boolean);
             CREATE INDEX ON object_copies (object_key, b2 DESC);
             INSERT INTO object_copies VALUES
                 ('one', 1704067200000005, 1704067200000007, NULL, false),
                 ('one', 1704067200000003, NULL, NULL, true),
                 ('one', 1704067200000009, 1704067200000001, NULL, false),
                 ('two', 1704067200000001, 1704067200000001, NULL, false);
             INSERT INTO object_copies SELECT 'many', 1704067200000000 + i, 1704067200000000 + i, NULL, false
             FROM generate_series(1, 100) i",
        )
        .await;
    // Its rows are more than a batch, and go into one all the same.
    let (code, found) = report(&harness, &["--batch", "2"]).await;
    assert_eq!(code, 0, "{found}");
    assert_eq!((&found["imported"], &found["read"]), (&3.into(), &104.into()));
    assert_eq!(found["oddities"]["repeated_key"], serde_json::json!({ "count": 101, "example_key": "many" }));
    let rows =
        "SELECT string_agg(concat_ws(' ', object_key, b2 % 1000, wasabi % 1000, wasabi IS NULL, due_scw IS NULL), ', '
                       ORDER BY object_key) FROM copyhold.object_copies";
    assert_eq!(harness.value(rows).await.unwrap(), "many 1 1 f t, one 3 t f, two 1 1 f t");
}

#[tokio::test]
async fn a_time_that_proves_nothing_is_none_and_is_told() {
    let harness = with_rows(60).await;
    harness
        .execute(
            "INSERT INTO object_copies SELECT k, 1704067200000000, t, NULL, NULL FROM (VALUES
                 ('minus', -5), ('zero', 0), ('later', 4102444800000000), ('old', 1), ('far', 9223372036854775807)) v(k, t)",
        )
        .await;
    let (code, text) = imported(&harness, &[]).await;
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("2 rows with a time of 1970 or earlier: the copy is not taken for recorded (\"minus\")"),
        "{text}"
    );
    assert!(
        text.contains("2 rows with a time that is yet to come: the copy is not taken for recorded (\"far\")"),
        "{text}"
    );
    assert!(text.contains("1 row with a time before the year 2000, which was taken over as it is (\"old\")"), "{text}");
    let rows =
        "SELECT string_agg(concat_ws(' ', object_key, wasabi, due_wasabi = created_at), ', ' ORDER BY object_key)
                FROM copyhold.object_copies WHERE object_key !~ '^[0-9a-f]{32}$'";
    assert_eq!(harness.value(rows).await.unwrap(), "far t, later t, minus t, old 1 t, zero t");
}

#[tokio::test]
async fn times_in_seconds_or_milliseconds_are_recognised_and_taken_over_when_an_argument_says_so() {
    for (unit, divisor) in [("s", 1_000_000), ("ms", 1_000)] {
        let harness = with_rows(40).await;
        harness
            .execute(&format!(
                "UPDATE object_copies SET b2 = b2 / {divisor}, wasabi = wasabi / {divisor}, scw = scw / {divisor}"
            ))
            .await;
        let (code, text) = imported(&harness, &[]).await;
        assert_eq!(code, 1);
        assert!(text.contains(&format!("--unit {unit} says so")) && text.contains("3 things are in the way"), "{text}");
        let (code, text) = imported(&harness, &["--unit", unit]).await;
        assert_eq!(code, 0, "{text}");
        assert_equal(&harness, &format!("b2 * {divisor}, true, wasabi * {divisor}, true, scw * {divisor}, true")).await;
    }
    let harness = with_rows(40).await;
    let (code, text) = imported(&harness, &["--unit", "ms"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("times in microseconds, as it seems, and not in milliseconds"), "{text}");
}

#[tokio::test]
async fn what_is_new_since_is_found_behind_and_between() {
    let harness = with_rows(500).await;
    assert_eq!(imported(&harness, &["--batch", "50"]).await.0, 0);
    // Registered again meanwhile: left as it is.
    harness.execute("SELECT copyhold.register((SELECT min(object_key) FROM object_copies))").await;
    harness
        .execute(&format!(
            "INSERT INTO object_copies SELECT k, {SINCE}, NULL, NULL FROM unnest(ARRAY[' first', '8 between', 'zz last']) k, (VALUES (1)) v(i)"
        ))
        .await;
    let (code, found) = report(&harness, &["--batch", "50"]).await;
    assert_eq!((code, &found["imported"], &found["already_registered"]), (0, &3.into(), &500.into()), "{found}");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies WHERE generation > 500").await.unwrap(), "4");
}

#[tokio::test]
async fn daemons_copy_what_is_missing_while_it_goes_on() {
    let mut harness = Harness::new().await;
    harness.rewrite(|text| text.replace("[replicas.wasabi]", "[replicas.wasabi]\nexisting = \"adopt\""));
    harness.execute(ESSAY).await;
    for i in 0..60 {
        let key = format!("photos/{i:02}");
        harness.bucket("b2").put(&key, format!("bytes of {key}"));
        if i % 2 == 0 {
            harness.bucket("wasabi").put(&key, format!("bytes of {key}"));
        }
    }
    harness
        .execute(&format!(
            "INSERT INTO object_copies SELECT 'photos/' || lpad(i::text, 2, '0'), {SINCE}, CASE WHEN i % 2 = 0 THEN {SINCE} END
             FROM generate_series(0, 59) i"
        ))
        .await;
    let _daemon = harness.daemon().await;
    // What the application registers meanwhile does not wait behind it.
    let (ended, ()) = tokio::join!(imported(&harness, &["--batch", "5"]), async {
        harness.upload("live", "bytes").await;
        harness.until_copied("live").await;
    });
    assert_eq!(ended.0, 0, "{}", ended.1);
    assert!(!ended.1.contains("no daemon is alive"), "{}", ended.1);
    harness
        .until("SELECT count(*) = 61 AND bool_and(b2 IS NOT NULL AND wasabi IS NOT NULL AND scw IS NOT NULL) FROM copyhold.object_copies")
        .await;
    for i in 0..60 {
        let key = format!("photos/{i:02}");
        for replica in ["wasabi", "scw"] {
            assert_eq!(harness.bucket(replica).get(&key).unwrap(), format!("bytes of {key}"));
        }
    }
}

#[tokio::test]
async fn what_is_to_be_done_next_is_said() {
    let harness = with_rows(10).await;
    let (_, text) = imported(&harness, &[]).await;
    for next in [
        "copyhold run ",
        "copyhold status ",
        "copyhold verify ",
        "existing = \"adopt\"",
        "in [replicas.wasabi]",
        "in [replicas.scw]",
    ] {
        assert!(text.contains(next), "no {next} in\n{text}");
    }
}
