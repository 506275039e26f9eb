//! The statements of the hot paths cost what they touch, whatever the table's size, backlog or statistics.

use copyhold_db::{HotStatement, schema::lane_index, sql::PLANNER_SETTINGS};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use crate::harness::{Harness, replica};

const ROWS: u64 = 1_000_000;
/// Fewer than one sweep takes.
const LEASED: u64 = 300;

/// One plan, flattened.
struct Plan {
    nodes: Vec<Value>,
    buffers: u64,
}

impl Plan {
    fn types(&self) -> Vec<&str> {
        self.nodes.iter().map(|n| n["Node Type"].as_str().unwrap()).collect()
    }

    fn scan_of(&self, index: &str) -> &Value {
        let found = self.nodes.iter().find(|n| n["Index Name"] == index);
        found.unwrap_or_else(|| panic!("no scan of {index} in {:?}", self.types()))
    }

    /// Objects are only ever reached through an index; a bitmap, which takes all that its condition lets through,
    /// only by keys.
    fn assert_scans_no_table(&self, what: &str) {
        for node in &self.nodes {
            let whole_table = node["Node Type"] == "Seq Scan" && node["Relation Name"] == "object_copies";
            let wide = node["Node Type"] == "Bitmap Index Scan"
                && !["object_copies_pkey", "copy_failures_pkey"].contains(&node["Index Name"].as_str().unwrap());
            assert!(!whole_table && !wide, "{what}: {node:#}");
        }
    }
}

/// Explains a statement by running it with `arguments`, and takes back what it did.
async fn plan(connection: &mut PgConnection, settings: &str, statement: &str, arguments: &str) -> Plan {
    let mut transaction = connection.begin().await.unwrap();
    let run = |sql: String| sqlx::raw_sql(AssertSqlSafe(sql));
    run(format!("{settings}; PREPARE hot AS {statement}")).execute(&mut *transaction).await.unwrap();
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE hot{arguments}");
    let row = match run(explain.clone()).fetch_one(&mut *transaction).await {
        Ok(row) => row,
        Err(error) => panic!("{explain}: {error}"),
    };
    // Sent as a simple query, every value comes as text; its type is json.
    let text: String = row.try_get_unchecked(0).unwrap();
    run("DEALLOCATE hot".into()).execute(&mut *transaction).await.unwrap();
    transaction.rollback().await.unwrap();
    let explained: Value = serde_json::from_str(&text).unwrap();
    let root = &explained[0]["Plan"];
    let count = |what: &str| root[what].as_u64().unwrap();
    let mut nodes = Vec::new();
    flatten(root, &mut nodes);
    Plan { nodes, buffers: count("Shared Hit Blocks") + count("Shared Read Blocks") }
}

fn function_settings() -> String {
    PLANNER_SETTINGS.map(|(name, value)| format!("SET LOCAL {name} = {value}")).join("; ")
}

fn flatten(node: &Value, into: &mut Vec<Value>) {
    let mut alone = node.clone();
    let children = alone.as_object_mut().unwrap().remove("Plans");
    into.push(alone);
    for child in children.iter().filter_map(Value::as_array).flatten() {
        flatten(child, into);
    }
}

/// What a hot statement is executed with: 64 keys or so.
fn arguments(name: &str) -> String {
    let keys = format!("'{{{}}}'::text[]", (1..=64).map(|i| format!("k{i}")).collect::<Vec<_>>().join(","));
    let same = |value: &str| format!("array_fill({value}, ARRAY[64])");
    let arguments = match name {
        "renew" => format!("{keys}, {}, {}, 1000000", same("77::bigint"), same("1::bigint")),
        "release" => format!("{keys}, {}", same("77::bigint")),
        "claim_these" => format!("{keys}, 1000000, 5"),
        "reclaim" => "'lock of this test', 1000000".to_owned(),
        "claim_unsettled" => "16, 1000000, '{b2,wasabi,scw}'".to_owned(),
        seek if seek.starts_with("seek_") => "256, -9223372036854775808, 0".to_owned(),
        "begin_generation" => {
            "'{k1}', '{77}'::bigint[], '{1}'::bigint[], 5, 7, 'b2', 1, false, 'changed', 6, 8".to_owned()
        }
        "next_due" => String::new(),
        "unclaim" => "77".to_owned(),
        look if look.starts_with("check_uploads_") => {
            format!("'{}', 1000000", look.trim_start_matches("check_uploads_"))
        }
        "recorded_page" => "'k', 'l', NULL, 0".to_owned(),
        "recorded_sample" => "'k', 'l', -9200000000000000000, 7".to_owned(),
        "revoke" => "'k5', 1, false, '{}', '{}', '{}', '{}', '{}', 1, false, NULL, NULL, NULL, NULL".to_owned(),
        "complete" => {
            let (numbers, none) = (same("77::bigint"), "'{}'::text[]");
            let (bytes, change) = ("'{}'::bigint[]", format!("{}, {}", same("1::bigint"), same("1::bigint")));
            format!(
                "{keys}, {numbers}, {numbers}, {numbers}, {numbers}, {yes}, {numbers}, {}, {numbers}, {numbers}, {yes}, \
                 {none}, {none}, {none}, {none}, '{{}}'::bool[], {none}, {bytes}, {none}, {none}, \
                 {none}, {none}, {bytes}, {bytes}, {bytes}, {bytes}, {}, {change}, {change}, {change}",
                same("'b2'::text"),
                same("NULL::text"),
                yes = same("true"),
            )
        }
        claim => {
            let known = claim.starts_with("claim_") || claim.starts_with("fresh_claim_");
            assert!(known, "a hot statement that is not looked at: {claim}");
            let floor = if claim.starts_with("claim_") { ", -9223372036854775808, 0" } else { "" };
            format!("32, 1000000, 5{floor}")
        }
    };
    if arguments.is_empty() { arguments } else { format!("({arguments})") }
}

/// Uploads of these objects that it is time to look at.
const UPLOADS: &str = "INSERT INTO copyhold.multipart_uploads
     (object_key, replica, generation, size_bytes, part_bytes, origin, last_at, look_at)
 SELECT 'k' || i, replica, 1, 1, 1, 'b2', 1, 1 FROM generate_series(1, 64) i, unnest(ARRAY['wasabi', 'scw']) AS replica";

#[tokio::test]
async fn hot_statements_stay_on_their_indexes_at_a_million_rows() {
    let harness = Harness::new().await;
    // The lane of wasabi is all due, that of scw all waiting.
    harness
        .execute(&format!(
            "ALTER TABLE copyhold.object_copies SET (autovacuum_enabled = false);
             INSERT INTO copyhold.object_copies (object_key, b2, due_scw)
             SELECT 'k' || i, 1, copyhold.now_utc_micro_seconds() + 3600000000 FROM generate_series(1, {ROWS}) i;
             UPDATE copyhold.object_copies SET lock = 1, lease = 77
             WHERE object_key IN (SELECT 'k' || i FROM generate_series(1, {LEASED}) i)"
        ))
        .await;
    harness.execute(UPLOADS).await;
    let queue = harness.queue();
    let mut connection = harness.pool.acquire().await.unwrap();
    let generic = "SET LOCAL plan_cache_mode = force_generic_plan";
    let all = queue.statements();
    // A sweep, or freeing a claim whose answer was lost, leaves entries at the front of the lanes when taken back: it comes last.
    let (last, first): (Vec<_>, Vec<_>) = all.into_iter().partition(|hot| hot.name.ends_with("claim"));
    for (analysed, settings, statements) in [
        (false, "SELECT 1", &first),
        (false, generic, &first),
        (false, "SELECT 1", &last),
        (false, generic, &last),
        (true, "SELECT 1", &first),
        (true, generic, &first),
        (true, "SELECT 1", &last),
        (true, generic, &last),
    ] {
        if analysed && settings != generic {
            harness.execute("VACUUM (ANALYZE, INDEX_CLEANUP ON) copyhold.object_copies").await;
        }
        let what = format!("analysed {analysed}, {settings}");
        for HotStatement { name, sql, by_function } in statements {
            let arguments = arguments(name);
            let settings = if *by_function { &format!("{settings}; {}", function_settings()) } else { settings };
            let plan = plan(&mut connection, settings, sql, &arguments).await;
            plan.assert_scans_no_table(&format!("{name}, {what}"));
            // A row is found, locked and written, and its lanes' entries with it: 20 to 35 buffers.
            let rows = match name.as_str() {
                "reclaim" | "unclaim" => LEASED,
                seek if seek.starts_with("seek_") => 256,
                // Read by the key, or only looked at.
                "recorded_page" | "recorded_sample" => 32,
                _ => 64,
            };
            assert!(plan.buffers < rows * 64, "{name}, {what}: {} buffers for {rows} rows at most", plan.buffers);
            match name.as_str() {
                "reclaim" | "unclaim" => {
                    plan.scan_of("object_copies_leased");
                }
                "claim_wasabi" | "claim_scw" | "fresh_claim_wasabi" | "fresh_claim_scw" | "seek_wasabi"
                | "seek_scw" => {
                    let (_, lane) = name.rsplit_once('_').unwrap();
                    let lane = lane_index(&replica(lane));
                    let scan = plan.scan_of(&lane);
                    assert_eq!(scan["Node Type"], "Index Scan", "{name}, {what}");
                    let condition = scan["Index Cond"].as_str().unwrap_or_default();
                    assert!(condition.contains("due_") && condition.contains("<="), "{name}, {what}: {scan:#}");
                    assert!(!plan.types().contains(&"Sort"), "{name}, {what}: {:?}", plan.types());
                }
                _ => {}
            }
            // Three lanes are looked at by one of them.
            if let Some(most) = [("claim_scw", 10), ("fresh_claim_scw", 10), ("seek_scw", 10), ("next_due", 3 * 10)]
                .iter()
                .find(|(n, _)| name == n)
            {
                assert!(plan.buffers <= most.1, "{name}: {} buffers for nothing due, {what}", plan.buffers);
            }
        }
    }
}

/// Calls a function under `settings`, rolls it back, and returns how many buffers it took.
async fn buffers(connection: &mut PgConnection, settings: &str, call: &str) -> (u64, u64) {
    let mut transaction = connection.begin().await.unwrap();
    let run = |sql: String| sqlx::raw_sql(AssertSqlSafe(sql));
    // Without a plan that was kept from before.
    run(format!("DISCARD PLANS; {settings}")).execute(&mut *transaction).await.unwrap();
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM copyhold.{call}");
    let row = run(explain).fetch_one(&mut *transaction).await.unwrap();
    let text: String = row.try_get_unchecked(0).unwrap();
    transaction.rollback().await.unwrap();
    let explained: Value = serde_json::from_str(&text).unwrap();
    let root = &explained[0]["Plan"];
    let count = |what: &str| root[what].as_u64().unwrap();
    let temporary = count("Temp Read Blocks") + count("Temp Written Blocks");
    // With decimals from PostgreSQL 18 on.
    let rows = format!("{:.0}", root["Actual Rows"].as_f64().unwrap()).parse().unwrap();
    (count("Shared Hit Blocks") + count("Shared Read Blocks") + temporary, rows)
}

/// Each of these made today's statement read the whole backlog, or the whole table, for 64 rows.
#[tokio::test]
async fn a_claim_reads_what_it_takes_whatever_the_statistics_or_the_settings_of_the_session_say() {
    const BACKLOG: u64 = 100_000;
    let harness = Harness::new().await;
    harness
        .execute(
            "ALTER TABLE copyhold.object_copies SET (autovacuum_enabled = false);
             INSERT INTO copyhold.object_copies (object_key, b2) SELECT 'tried ' || i, 1 FROM generate_series(1, 10000) i;
             UPDATE copyhold.object_copies SET wasabi = 1, scw = 1 WHERE object_key > 'tried 2';
             ANALYZE copyhold.object_copies;
             TRUNCATE copyhold.object_copies",
        )
        .await;
    // Looked at while the load is not yet committed: pages, and no rows.
    let mut load = harness.pool.begin().await.unwrap();
    let insert = format!(
        "INSERT INTO copyhold.object_copies (object_key, b2) SELECT 'k' || i, 1 FROM generate_series(1, {BACKLOG}) i"
    );
    sqlx::raw_sql(AssertSqlSafe(insert)).execute(&mut *load).await.unwrap();
    harness.execute("ANALYZE copyhold.object_copies").await;
    load.commit().await.unwrap();
    let beliefs =
        "SELECT reltuples = 0 AND relpages > 100 FROM pg_class WHERE oid = 'copyhold.object_copies'::regclass";
    assert_eq!(harness.value(beliefs).await.unwrap(), "true", "the state that this is about");

    harness.execute(UPLOADS).await;
    let mut connection = harness.pool.acquire().await.unwrap();
    let claim = harness.queue().statements().into_iter().find(|hot| hot.name == "claim_wasabi").unwrap();
    let lane = "64, 1000000, 5, -9223372036854775808, 0";
    let sorting = plan(&mut connection, "SELECT 1", &claim.sql, &format!("({lane})")).await;
    assert!(sorting.types().contains(&"Sort"), "without the function's settings it is fine too: {:?}", sorting.types());

    for statistics in ["SELECT 1", "ANALYZE copyhold.object_copies", "DELETE FROM pg_statistic"] {
        harness.execute(statistics).await;
        // Those that find their rows by key need no function.
        for hot in harness.queue().statements().iter().filter(|hot| !hot.by_function) {
            let plan = plan(&mut connection, "SELECT 1", &hot.sql, &arguments(&hot.name)).await;
            let what = format!("{}, {statistics}", hot.name);
            plan.assert_scans_no_table(&what);
            assert!(plan.buffers < 64 * 64, "{what}: {} buffers", plan.buffers);
        }
        for settings in [
            "SELECT 1",
            "SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off",
            "SET LOCAL random_page_cost = 1000000",
            "SET LOCAL seq_page_cost = 0; SET LOCAL cpu_tuple_cost = 0; SET LOCAL cpu_operator_cost = 0",
            "SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL work_mem = '64kB'",
            "SET LOCAL jit = on; SET LOCAL jit_above_cost = 0",
        ] {
            let calls = [(format!("claim_wasabi({lane})"), 64), ("fresh_claim_scw(16, 1000000, 5)".into(), 16)];
            for (call, expected) in
                calls.into_iter().chain([("next_due()".into(), 3), ("seek_scw(64, 0, 0)".into(), 64)])
            {
                let (buffers, rows) = buffers(&mut connection, settings, &call).await;
                assert_eq!(rows, expected, "{call}");
                // Some 20 for each row, and the catalogue. The whole backlog has 1,600.
                let most = 22 * expected + 200;
                assert!(buffers < most, "{call}, {statistics}, {settings}: {buffers} buffers");
            }
        }
    }
}

#[tokio::test]
async fn objects_that_want_no_copy_there_cost_a_claim_nothing() {
    let harness = Harness::new().await;
    harness
        .execute(
            "INSERT INTO copyhold.object_copies (object_key, b2, due_wasabi)
             SELECT 'k' || i, 1, CASE WHEN i % 2000 = 0 THEN 1 END FROM generate_series(1, 200000) i",
        )
        .await;
    let mut connection = harness.pool.acquire().await.unwrap();
    for statistics in ["SELECT 1", "ANALYZE copyhold.object_copies"] {
        harness.execute(statistics).await;
        for (call, rows) in [
            ("claim_wasabi(64, 1000000, 5, -9223372036854775808, 0)", 64),
            ("claim_wasabi(128, 1000000, 5, -9223372036854775808, 0)", 100),
            ("fresh_claim_wasabi(16, 1000000, 5)", 16),
        ] {
            let (buffers, found) = buffers(&mut connection, "SELECT 1", call).await;
            assert_eq!(found, rows, "{call}");
            // Each of them lies on a page of its own. The whole table has thousands.
            assert!(buffers < 40 * rows + 200, "{call}, {statistics}: {buffers} buffers");
        }
    }
    // And it is not counted.
    assert_eq!(
        harness.value("SELECT objects FROM copyhold.backlog_exact WHERE replica = 'wasabi'").await.unwrap(),
        "100"
    );
}
