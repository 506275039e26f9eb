//! Other programs append over HTTP: with the token, all events of a request or none, unchanged.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    harness::{Begin, DaemonProcess, Harness, printed, soon},
    http::{Http, TOKEN, WITHOUT_TOKEN, bearer, settings},
};

async fn harness() -> (Harness, DaemonProcess, Http) {
    let harness = Harness::with(Begin::Migrated, &settings("")).await;
    let daemon = harness.daemon().await;
    let http = Http::of(&harness, &daemon).await;
    (harness, daemon, http)
}

/// How many events of others there are, in the inbox or in the log.
const THEIRS: &str = "SELECT (SELECT count(*) FROM copyhold.log_inbox)
    + (SELECT count(*) FROM copyhold.log WHERE event_data->>'kind' LIKE 'door.%')";

#[tokio::test]
async fn an_object_an_array_and_lines_are_appended_in_their_order_and_as_they_were_sent() {
    let (harness, _daemon, http) = harness().await;
    let (token, mut sent) = (bearer(), 0);
    for (body, count) in [
        (r#"{"kind": "door.opened", "n": 1}"#, 1),
        (r#"[{"kind": "door.opened", "n": 2}, {"kind": "door.shut", "n": 3}]"#, 2),
        ("{\"kind\":\"door.opened\",\"n\":4}\n{\"kind\":\"door.shut\",\"n\":123456789012345678901234567890}\n", 2),
    ] {
        let answer = http.post(body, &[("authorization", &token)]).await;
        assert_eq!(answer.status, 202, "{body}");
        assert_eq!(answer.json().await["appended"], count);
        sent += count;
    }
    harness.until(&format!("SELECT count(*) = {sent} FROM copyhold.log WHERE event_data->>'kind' LIKE 'door.%'")).await;
    let order = "SELECT string_agg(event_data->>'n', ' ' ORDER BY id) FROM copyhold.log WHERE event_data->>'kind' LIKE 'door.%'";
    assert_eq!(harness.value(order).await.unwrap(), "1 2 3 4 123456789012345678901234567890");
}

#[tokio::test]
async fn where_there_is_a_token_no_client_appends_or_reads_without_it_from_this_machine_either() {
    let (harness, daemon, http) = harness().await;
    for given in [WITHOUT_TOKEN, ("authorization", "Bearer wrong"), ("authorization", "Basic x")] {
        for answer in [
            http.post(r#"{"kind": "door.opened"}"#, &[given]).await,
            http.get("/v1/events?after=0&wait=0s", &[given]).await.unwrap(),
            // As a proxy on this machine passes it on that is configured with the address alone.
            http.get("/v1/events?after=0&wait=0s", &[given, ("host", "127.0.0.1:9180")]).await.unwrap(),
            http.get("/v1/events?after=0&wait=0s", &[given, ("host", "evil.example")]).await.unwrap(),
        ] {
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"));
            assert!(answer.json().await["error"].as_str().unwrap().contains("token"));
        }
    }
    for open in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(http.get(open, &[WITHOUT_TOKEN]).await.unwrap().status, 200, "{open}");
    }
    let token = bearer();
    let with_token = [("host", "evil.example"), ("authorization", token.as_str())];
    assert_eq!(http.get("/v1/events?wait=0s", &with_token).await.unwrap().status, 200);
    assert_eq!(harness.value(THEIRS).await.unwrap(), "0");
    assert!(!daemon.log().contains(TOKEN));
}

#[tokio::test]
async fn without_a_token_in_the_configuration_writing_is_off_and_this_machine_reads() {
    let harness = Harness::with(Begin::Migrated, &settings("").replace("token", "# token")).await;
    let daemon = harness.daemon().await;
    let http = Http::of(&harness, &daemon).await;
    let answer = http.post(r#"{"kind": "door.opened"}"#, &[("authorization", &bearer())]).await;
    assert_eq!(answer.status, 403);
    assert!(answer.json().await["error"].as_str().unwrap().contains("http.token"));
    assert_eq!(http.get("/v1/events?wait=0s", &[WITHOUT_TOKEN]).await.unwrap().status, 200);
    assert_eq!(http.get("/v1/events?wait=0s", &[("host", "evil.example")]).await.unwrap().status, 403);
}

#[tokio::test]
async fn a_request_with_no_host_or_with_two_is_refused_by_every_page() {
    let (_harness, _daemon, http) = harness().await;
    for page in ["/livez", "/readyz", "/metrics", "/v1/events?after=0&wait=0s", "/v1/objects", "/nowhere"] {
        for hosts in ["", "Host: localhost\r\nHost: evil.example\r\n", "Host: localhost\r\nHost: localhost\r\n"] {
            let request =
                format!("GET {page} HTTP/1.1\r\n{hosts}Authorization: {}\r\nConnection: close\r\n\r\n", bearer());
            let mut socket = TcpStream::connect(http.0).await.unwrap();
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            soon("an answer", socket.read_to_string(&mut answer)).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 400 "), "{page} {hosts:?}: {answer}");
        }
    }
}

#[tokio::test]
async fn one_event_that_is_wrong_leaves_none_of_its_request() {
    let (harness, _daemon, http) = harness().await;
    let token = bearer();
    let large = format!(r#"[{{"kind": "door.opened"}}, {{"kind": "door.opened", "text": "{}"}}]"#, "x".repeat(70_000));
    let many = r#"{"kind":"door.opened"}"#.to_owned() + "\n";
    for (body, status, says) in [
        (r#"{"kind": "door.opened"} {"kind": "object.copied"}"#.to_owned(), 422, "Copyhold's own"),
        (r#"{"kind": "door.opened"} {"kind": "Door Opened"}"#.to_owned(), 422, "begins with a lower-case letter"),
        (r#"[{"kind": "door.opened"}, 7]"#.to_owned(), 422, "an event is a JSON object, not number"),
        (r#"{"kind": "door.opened"} "x""#.to_owned(), 422, "an event is a JSON object"),
        (r#"{"kind": "door.opened", "text": "\u0000"}"#.to_owned(), 422, "nothing was appended"),
        (large, 413, "65536 bytes at most"),
        (many.repeat(10_001), 413, "at most 10000 events"),
        (r#"{"kind": "door.opened"} {"#.to_owned(), 400, "not JSON"),
        (String::new(), 400, "there is no event"),
        ("x".repeat((1 << 20) + 1), 413, "1048576 bytes at most"),
    ] {
        let begin: String = body.chars().take(60).collect();
        let answer = http.post(body, &[("authorization", &token)]).await;
        assert_eq!(answer.status, status, "{begin}");
        let said = answer.json().await;
        assert!(said["error"].as_str().unwrap().contains(says), "{begin}: {said}");
    }
    assert_eq!(http.post(vec![b'"', 0xff, b'"'], &[("authorization", &token)]).await.status, 400);
    assert_eq!(harness.value(THEIRS).await.unwrap(), "0");
}

#[tokio::test]
async fn the_command_appends_by_sql_or_over_http() {
    let (harness, _daemon, http) = harness().await;
    let output = harness.run(&["events", "append", r#"{"kind": "door.opened", "n": 1}"#]).await;
    assert_eq!(printed(&output), "appended 1 event\n");
    let url = format!("http://{}", http.0);
    let by_http =
        ["events", "append", r#"[{"kind": "door.opened", "n": 2}, {"kind": "door.shut", "n": 3}]"#, "--url", &url];
    let output = harness.run(&by_http).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("needs a token"), "{}", printed(&output));
    let output = harness.program(&by_http).env("COPYHOLD_HTTP__TOKEN", TOKEN).output().await.unwrap();
    assert_eq!(printed(&output), "appended 2 events\n");
    harness.until("SELECT count(*) = 3 FROM copyhold.log WHERE event_data->>'kind' LIKE 'door.%'").await;
    for (json, says) in
        [("{", "not JSON"), (r#"{"kind": "copy.failed"}"#, "Copyhold's own"), ("7", "a JSON object, not number")]
    {
        let output = harness.run(&["events", "append", json]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(printed(&output).contains(says), "{}", printed(&output));
    }
}

/// JSON that readers choke on: none is let in that is too deep, and one that is in the log all the same holds no reader up.
#[tokio::test]
async fn an_event_that_is_too_deep_is_refused_and_one_that_a_parser_cannot_read_is_passed() {
    let (harness, _daemon, http) = harness().await;
    let deep = |levels: usize| format!("{{\"kind\": \"deep\", \"v\": {}{}}}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(http.post(deep(59), &[("authorization", &bearer())]).await.status, 202);
    let refused = http.post(deep(60), &[("authorization", &bearer())]).await;
    assert_eq!(refused.status, 422);
    // Of an earlier version, or by an operator's hand.
    let digits = "9".repeat(5000);
    for event in [deep(3000), format!("{{\"kind\": \"big\", \"v\": 1{digits}}}")] {
        harness.sql("INSERT INTO copyhold.log_inbox (event_data) VALUES ($1::jsonb)", &event).await;
    }
    assert_eq!(http.post("{\"kind\": \"last\"}", &[("authorization", &bearer())]).await.status, 202);
    harness.until("SELECT EXISTS (SELECT FROM copyhold.log WHERE event_data ->> 'kind' = 'last')").await;
    for arguments in [["events", "--json"].as_slice(), &["events"]] {
        let output = harness.run(arguments).await;
        assert!(output.status.success() && printed(&output).contains("last"), "{}", printed(&output));
    }
}
