//! The log over HTTP: a reader gets each event once and in order from where it left off, or an error that says why not.

use rustix::process::Signal;
use serde_json::json;

use crate::{
    harness::{Begin, DaemonProcess, Harness},
    http::{Answer, Http, append, settings},
};

async fn harness() -> (Harness, DaemonProcess, Http) {
    let harness = Harness::with(Begin::Migrated, &settings("")).await;
    let daemon = harness.daemon().await;
    let http = Http::of(&harness, &daemon).await;
    (harness, daemon, http)
}

const LINES: &str = "/v1/events?kinds=test.tick&format=ndjson";

#[tokio::test]
async fn events_come_as_lines_from_the_beginning_and_then_as_they_are_appended() {
    let harness = Harness::with(Begin::Migrated, &settings("")).await;
    append(&harness, 1, 1300).await;
    let daemon = harness.daemon().await;
    let http = Http::of(&harness, &daemon).await;
    let mut answer = http.read(&format!("{LINES}&after=0")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"));
    assert_eq!((answer.header("cache-control"), answer.header("x-accel-buffering")), ("no-store", "no"));
    assert_eq!(answer.header("copyhold-epoch").len(), 8);
    assert_eq!(answer.numbers(1300).await, (1..=1300).collect::<Vec<_>>());
    append(&harness, 1301, 1302).await;
    assert_eq!(answer.numbers(2).await, [1301, 1302]);
}

#[tokio::test]
async fn server_sent_events_have_ids_that_a_client_comes_back_with() {
    let (harness, _daemon, http) = harness().await;
    let path = "/v1/events?kinds=test.tick&after=0";
    append(&harness, 1, 2).await;
    let mut answer = http.get(path, &[("accept", "text/event-stream")]).await.unwrap();
    assert_eq!(answer.header("content-type"), "text/event-stream");
    let retry = answer.telling().await.unwrap();
    let millis: u64 = retry.strip_prefix("retry: ").unwrap().parse().unwrap();
    assert!((1000..=5000).contains(&millis), "{retry}");
    let first = sse(&mut answer).await;
    let second = sse(&mut answer).await;
    assert_eq!((first.1["event_data"]["n"].as_i64(), second.1["event_data"]["n"].as_i64()), (Some(1), Some(2)));
    assert!(first.0.ends_with(answer.header("copyhold-epoch")), "{}", first.0);
    drop(answer);
    // The browser sends its first URL again, and what it saw last in a header.
    let mut again = http.get(path, &[("last-event-id", &first.0)]).await.unwrap();
    again.telling().await;
    assert_eq!(sse(&mut again).await, second);
}

/// The id and the data of the next event.
async fn sse(answer: &mut Answer) -> (String, serde_json::Value) {
    let mut id = String::new();
    loop {
        let line = answer.telling().await.unwrap();
        match line.split_once(": ").unwrap() {
            ("id", cursor) => id = cursor.to_owned(),
            ("event", "bookmark") => {
                answer.telling().await;
            }
            ("data", data) => return (id, serde_json::from_str(data).unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_long_poll_answers_with_the_first_events_or_empty_when_its_time_is_over() {
    let (harness, _daemon, http) = harness().await;
    let poll = |wait: &str, after: &str| {
        let path = format!("/v1/events?kinds=test.tick&wait={wait}&after={after}");
        async move { http.read(&path).await.json().await }
    };
    let empty = poll("0s", "0").await;
    assert_eq!(empty["events"], json!([]));
    let from = empty["next"].as_str().unwrap().to_owned();
    let (told, ()) = tokio::join!(poll("60s", &from), append(&harness, 1, 1));
    assert_eq!(told["events"][0]["event_data"]["n"], 1);
    append(&harness, 2, 3).await;
    let mut numbers = Vec::new();
    let mut next = told["next"].as_str().unwrap().to_owned();
    while numbers.len() < 2 {
        let told = poll("60s", &next).await;
        numbers.extend(told["events"].as_array().unwrap().iter().map(|event| event["event_data"]["n"].clone()));
        next = told["next"].as_str().unwrap().to_owned();
    }
    assert_eq!(numbers, [2, 3]);
    assert_eq!(poll("0s", &next).await["events"], json!([]));
}

#[tokio::test]
async fn lines_with_a_time_end_with_the_log_and_say_so() {
    let harness = Harness::with(Begin::Migrated, &settings("")).await;
    // Before the daemon asks PostgreSQL: commits of the last moment may be missing.
    append(&harness, 1, 600).await;
    let daemon = harness.daemon().await;
    let http = Http::of(&harness, &daemon).await;
    let mut answer = http.read(&format!("{LINES}&after=0&wait=0s")).await;
    assert_eq!(answer.numbers(600).await, (1..=600).collect::<Vec<_>>());
    let mut last = answer.telling().await.unwrap();
    while let Some(line) = answer.telling().await {
        last = line;
    }
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!(last["caught_up"], true);
    assert!(last["bookmark"].as_str().unwrap().contains('@'));
}

#[tokio::test]
async fn what_has_been_dropped_is_410_with_the_earliest_that_is_left() {
    let harness = Harness::with(Begin::Migrated, &settings("")).await;
    append(&harness, 1, 10).await;
    harness
        .execute(
            "DELETE FROM copyhold.log WHERE id <= (SELECT id FROM copyhold.log WHERE event_data @> '{\"n\": 5}');
             UPDATE copyhold.log_state SET dropped_through = (SELECT min(id) - 1 FROM copyhold.log)",
        )
        .await;
    let dropped = harness.value("SELECT dropped_through FROM copyhold.log_state").await.unwrap();
    let daemon = harness.daemon().await;
    let http = Http::of(&harness, &daemon).await;
    let answer = http.read(&format!("{LINES}&after=1")).await;
    assert_eq!((answer.status, answer.header("content-type")), (410, "application/json"));
    let said = answer.json().await;
    let earliest = said["earliest"].as_str().unwrap();
    assert!(
        earliest.starts_with(&format!("{dropped}@")) && said["error"].as_str().unwrap().contains(earliest),
        "{said}"
    );
    let mut answer = http.read(&format!("{LINES}&after={}", earliest.replace('@', "%40"))).await;
    assert_eq!(answer.numbers(5).await, [6, 7, 8, 9, 10]);
    assert_eq!(http.read(&format!("{LINES}&after=0")).await.numbers(1).await, [6]);
}

#[tokio::test]
async fn what_the_log_has_not_reached_is_409_with_its_head() {
    let (harness, _daemon, http) = harness().await;
    append(&harness, 1, 3).await;
    let answer = http.read(&format!("{LINES}&after=1000000")).await;
    assert_eq!(answer.status, 409);
    let epoch = answer.header("copyhold-epoch").to_owned();
    assert_eq!(epoch, "");
    let said = answer.json().await;
    let head = harness.value("SELECT max(id) FROM copyhold.log").await.unwrap();
    let epoch = said["epoch"].as_str().unwrap();
    assert_eq!(said["head"], format!("{head}@{epoch}"));
}

#[tokio::test]
async fn after_a_new_epoch_streams_end_and_readers_that_come_back_are_told() {
    let (harness, _daemon, http) = harness().await;
    append(&harness, 1, 1).await;
    let mut answer = http.read(&format!("{LINES}&after=0")).await;
    let epoch = answer.header("copyhold-epoch").to_owned();
    let id = answer.event().await.unwrap()["id"].to_string();
    let output = harness.run(&["events", "new-epoch"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", crate::harness::printed(&output));
    assert!(answer.event().await.is_none());
    let answer = http.read(&format!("{LINES}&after={id}%40{epoch}")).await;
    assert_eq!(answer.status, 409);
    let said = answer.json().await;
    assert_ne!(said["epoch"], epoch);
    assert!(String::from_utf8_lossy(&output.stdout).contains(said["epoch"].as_str().unwrap()));
}

#[tokio::test]
async fn a_daemon_that_ends_ends_its_streams_and_its_successor_goes_on() {
    let (harness, mut daemon, http) = harness().await;
    append(&harness, 1, 1).await;
    let mut answer = http.read(&format!("{LINES}&after=0")).await;
    let id = answer.event().await.unwrap()["id"].clone();
    let epoch = answer.header("copyhold-epoch").to_owned();
    daemon.signal(Signal::TERM);
    // A proper end: a broken connection would be an error.
    assert!(answer.event().await.is_none());
    assert_eq!(daemon.exit_code().await, Some(0));
    append(&harness, 2, 3).await;
    let daemon = harness.daemon().await;
    let http = Http::of(&harness, &daemon).await;
    let mut answer = http.read(&format!("{LINES}&after={id}%40{epoch}")).await;
    assert_eq!(answer.numbers(2).await, [2, 3]);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_in_one_sentence_of_json() {
    let (_harness, _daemon, http) = harness().await;
    for (query, says) in [
        ("after=-1", "negative"),
        ("after=99999999999999999999", "as large as"),
        ("after=yesterday", "is a number"),
        ("kinds=object.copid", "did you mean object.copied?"),
        ("colour=red", "there is no parameter \"colour\""),
        ("wait=1h", "0s to 60s"),
    ] {
        let answer = http.read(&format!("/v1/events?{query}")).await;
        assert_eq!((answer.status, answer.header("content-type")), (400, "application/json"), "{query}");
        let said = answer.json().await;
        assert!(said["error"].as_str().unwrap().contains(says), "{said}");
    }
    let with_body = http.ask("GET", "/v1/events?after=0", &[], "{}").await.unwrap();
    assert_eq!(with_body.status, 400);
    assert!(with_body.json().await["error"].as_str().unwrap().contains("POST"));
    assert_eq!(http.ask("DELETE", "/v1/events", &[], "").await.unwrap().status, 405);
    assert_eq!(http.read("/v1/event").await.status, 404);
}
