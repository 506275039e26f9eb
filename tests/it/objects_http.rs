//! Objects are registered over HTTP: all of a request or none, and only with the right to.

use serde_json::json;

use crate::{
    harness::{Begin, DaemonProcess, Harness, eventually},
    http::{Answer, Http, TOKEN, WITHOUT_TOKEN, settings},
    rules::wanted,
};

const PATH: &str = "/v1/objects";

async fn harness() -> (Harness, DaemonProcess, Http) {
    let harness = Harness::with(
        Begin::Migrated,
        &settings("[[rules]]\nprefix = \"p/\"\nmin_size = \"10B\"\nreplicas = [\"scw\"]\n"),
    )
    .await;
    copyhold_db::schema::migrate(&harness.config).await.unwrap();
    let daemon = harness.daemon().await;
    let http = Http::of(&harness, &daemon).await;
    (harness, daemon, http)
}

async fn post(http: Http, body: &str) -> Answer {
    http.ask("POST", PATH, &[], body.to_owned()).await.unwrap()
}

#[tokio::test]
async fn objects_are_registered_as_the_rules_or_the_request_want_and_copied() {
    let (harness, _daemon, http) = harness().await;
    harness.bucket("b2").put("a", "bytes");
    let answer = post(http, r#"{"key": "a", "size": 5}"#).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    assert_eq!(answer.json().await["registered"], 1);
    harness.until_copied("a").await;
    let lines = "{\"key\": \"p/1\", \"size\": 10}\n{\"key\": \"p/2\", \"size\": 9, \"replicas\": [\"wasabi\"]}\n\
                 {\"key\": \"p/3\"}\n{\"key\": \"p/1\", \"size\": 11}\n";
    let said = post(http, lines).await.json().await;
    for (key, at) in [("p/1", "b2,scw"), ("p/2", "b2,wasabi"), ("p/3", "b2,scw,wasabi")] {
        assert_eq!(wanted(&harness, key).await, at, "{key}");
    }
    let generations =
        "SELECT json_agg(generation ORDER BY object_key) FROM copyhold.object_copies WHERE object_key LIKE 'p/%'";
    let kept: Vec<i64> = serde_json::from_str(&harness.value(generations).await.unwrap()).unwrap();
    assert_eq!(said, json!({ "registered": 4, "generations": [kept[0], kept[1], kept[2], kept[0]] }));
}

#[tokio::test]
async fn a_request_with_one_bad_object_registers_none() {
    let (harness, _daemon, http) = harness().await;
    let answer = post(http, r#"[{"key": "a"}, {"key": "b", "size": -5}]"#).await;
    assert_eq!(answer.status, 400);
    let said = answer.json().await;
    assert_eq!(said["index"], 1);
    assert!(said["error"].as_str().unwrap().contains("nothing was registered"), "{said}");
    let large = format!("{{\"key\": \"{}\"}}", "x".repeat(1 << 20));
    assert_eq!(post(http, &large).await.status, 413);
    assert_eq!(http.ask("GET", PATH, &[], "").await.unwrap().status, 405);
    assert_eq!(http.ask("POST", PATH, &[("content-encoding", "gzip")], "x").await.unwrap().status, 415);
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies").await.unwrap(), "0");
}

#[tokio::test]
async fn where_there_is_a_token_its_holders_alone_register() {
    let (harness, _daemon, http) = harness().await;
    let ask = async |headers: &[(&str, &str)]| http.ask("POST", PATH, headers, r#"{"key": "a"}"#).await.unwrap().status;
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(ask(&[WITHOUT_TOKEN]).await, 401);
    assert_eq!(ask(&[WITHOUT_TOKEN, ("host", "localhost")]).await, 401);
    assert_eq!(ask(&[WITHOUT_TOKEN, ("host", "evil.example")]).await, 401);
    assert_eq!(ask(&[WITHOUT_TOKEN, ("x-forwarded-for", "10.0.0.7")]).await, 401);
    assert_eq!(ask(&[WITHOUT_TOKEN, ("origin", "https://evil.example")]).await, 401);
    assert_eq!(ask(&[("authorization", "Bearer wrong")]).await, 401);
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies").await.unwrap(), "0");
    assert_eq!(ask(&[("host", "evil.example"), ("authorization", &bearer)]).await, 200);
}

#[tokio::test]
async fn where_there_is_no_token_this_machine_registers() {
    let harness = Harness::with(Begin::Migrated, &settings("").replace("token", "# token")).await;
    let daemon = harness.daemon().await;
    let http = Http::of(&harness, &daemon).await;
    let ask = async |headers: &[(&str, &str)]| http.ask("POST", PATH, headers, r#"{"key": "a"}"#).await.unwrap().status;
    assert_eq!(ask(&[WITHOUT_TOKEN]).await, 200);
    assert_eq!(ask(&[WITHOUT_TOKEN, ("host", "evil.example")]).await, 403);
    assert_eq!(ask(&[WITHOUT_TOKEN, ("x-forwarded-for", "10.0.0.7")]).await, 403);
    assert_eq!(ask(&[WITHOUT_TOKEN, ("origin", "https://evil.example")]).await, 403);
}

#[tokio::test]
async fn while_postgresql_is_unavailable_nothing_is_registered_and_the_answer_says_so() {
    let (harness, _daemon, http) = harness().await;
    let database = harness.value("SELECT current_database()").await.unwrap();
    let admin = sqlx::PgPool::connect(&crate::harness::cluster().await.url("postgres")).await.unwrap();
    let run = async |sql: String| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&admin).await.unwrap();
    };
    run(format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false")).await;
    run(format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")).await;
    let answer = post(http, r#"{"key": "a"}"#).await;
    assert!(answer.status == 503 || answer.status == 500, "{}", answer.status);
    run(format!("ALTER DATABASE {database} ALLOW_CONNECTIONS true")).await;
    eventually("it registers again", async || post(http, r#"{"key": "a"}"#).await.status == 200).await;
}
