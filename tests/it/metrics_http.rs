//! `/livez`, `/readyz` and `/metrics`, as probes and dashboards see them.

use copyhold_sandbox::{
    postgres::{Cluster, Options},
    s3::{BucketOptions, Metadata, Quirk},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{DaemonProcess, Harness, eventually, printed};

/// The address that the daemon says it serves.
pub async fn address(daemon: &DaemonProcess) -> String {
    daemon.until_logged("on http://").await;
    let log = daemon.log();
    let (_, after) = log.split_once("on http://").unwrap();
    after.split_whitespace().next().unwrap().to_owned()
}

/// Status line and body.
pub async fn get(address: &str, path: &str) -> (String, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test]
async fn metrics_tell_what_was_copied_and_what_is_missing() {
    let harness = Harness::new().await;
    let daemon = harness.daemon().await;
    let address = address(&daemon).await;
    harness.upload("photo", "bytes").await;
    harness.insert("missing").await;
    harness.until_copied("photo").await;
    harness.until("SELECT bool_and(objects = 1) FROM copyhold.backlog").await;
    // They are read by and by, and not by the scrape.
    let counted = "copyhold_backlog_objects{replica=\"wasabi\"} 1";
    eventually(counted, async || get(&address, "/metrics").await.1.contains(counted)).await;
    let (status, body) = get(&address, "/metrics").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    for line in [
        "copyhold_copies_total{replica=\"wasabi\"} 1",
        "copyhold_copied_bytes_total{replica=\"scw\"} 5",
        "copyhold_source_bytes_total{replica=\"b2\"} 5",
        "copyhold_recorded_copies{replica=\"wasabi\"} 1",
        "copyhold_failures_total{replica=\"wasabi\",class=\"gone\"} ",
        "copyhold_replica_served{replica=\"scw\"} 1",
        "# TYPE copyhold_lag_seconds histogram",
    ] {
        assert!(body.contains(line), "no {line} in\n{body}");
    }
    assert!(!body.contains("photo"), "a key became a label");
}

#[tokio::test]
async fn a_daemon_without_its_database_is_alive_and_not_ready() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.create_database("app", None).await.unwrap();
    let harness = Harness::at(cluster.url("app"), "").await;
    copyhold_db::schema::migrate(&harness.config).await.unwrap();
    let daemon = harness.daemon().await;
    let address = address(&daemon).await;
    assert_eq!(get(&address, "/readyz").await, ("HTTP/1.1 200 OK".into(), "ready\n".into()));
    let counted = "copyhold_backlog_counted_timestamp_seconds{replica=\"b2\"} 1";
    eventually(counted, async || get(&address, "/metrics").await.1.contains(counted)).await;
    cluster.kill_server().await.unwrap();
    let unready = async || get(&address, "/readyz").await.0.contains("503");
    eventually("it says that it is not ready", unready).await;
    assert_eq!(get(&address, "/livez").await.0, "HTTP/1.1 200 OK");
    let says = async |line| get(&address, "/metrics").await.1.contains(line);
    eventually("the metrics say so", async || says("copyhold_database_up 0\n").await).await;
    // It shows its own age, and an alert can go by it.
    assert!(says("copyhold_backlog_counted_timestamp_seconds{replica=\"b2\"} 1").await);
    cluster.restart().await.unwrap();
    let ready = async || get(&address, "/readyz").await.0.contains("200");
    eventually("it is ready again", ready).await;
    eventually("the metrics say so", async || says("copyhold_database_up 1\n").await).await;
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn what_a_copy_lacks_of_its_object_is_shown_in_metrics_events_and_explain() {
    let harness = Harness::new().await;
    harness.s3.create_bucket("photos-wasabi", BucketOptions::default().with(Quirk::RefusesRedirects));
    let daemon = harness.daemon().await;
    let address = address(&daemon).await;
    let redirect = Metadata::none().with("x-amz-website-redirect-location", "/new/place");
    harness.bucket("b2").put_with("page", "bytes", redirect);
    harness.insert("page").await;
    harness.upload("photo", "bytes").await;
    harness.until_copied("page").await;
    harness.until_copied("photo").await;
    let explained = printed(&harness.run(&["explain", "page"]).await);
    assert!(explained.contains("  not copied  redirect: not every copy of it has these\n"), "{explained}");
    assert!(!printed(&harness.run(&["explain", "photo"]).await).contains("not copied"));
    let (_, body) = get(&address, "/metrics").await;
    let line = "copyhold_not_carried_total{replica=\"wasabi\",property=\"redirect\"} 1";
    assert!(body.lines().any(|found| found == line), "{body}");
    assert!(!body.contains("replica=\"scw\",property=\"redirect\"} 1"), "scw has got it: {body}");
    assert_eq!(
        harness.bucket("scw").inspect("page").unwrap().metadata.get("x-amz-website-redirect-location"),
        Some("/new/place")
    );
    let told = "SELECT string_agg(event_data ->> 'object_key' || ' ' || (event_data ->> 'not_carried'), ',')
                  FROM (SELECT DISTINCT event_data FROM copyhold.log WHERE event_data ->> 'kind' = 'object.copied') AS l";
    assert_eq!(harness.value(told).await.unwrap(), "page [\"redirect\"]");
}
