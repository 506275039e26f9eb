//! What `/metrics` shows while PostgreSQL hangs, of removed replicas, and before the first event.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use copyhold_sandbox::postgres::Cluster;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    harness::{DaemonProcess, Harness, eventually, printed, soon},
    metrics_http::{address, get},
    outages::with_own_cluster,
};

async fn scrape(address: &str) -> String {
    let (status, body) = get(address, "/metrics").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    body
}

async fn until_scraped(address: &str, line: &str) {
    eventually(line, async || scrape(address).await.lines().any(|found| found == line)).await;
}

/// A daemon whose figures have been read once.
async fn scraped(harness: &Harness) -> (DaemonProcess, String) {
    let daemon = harness.daemon().await;
    let address = address(&daemon).await;
    until_scraped(&address, "copyhold_database_up 1").await;
    (daemon, address)
}

/// A server whose processes stand still: it takes connections, and answers nothing. They go on when this is dropped.
struct Standstill(Vec<Pid>);

impl Standstill {
    fn of(cluster: &Cluster) -> Self {
        let file = fs::read_to_string(cluster.folder().join("data/postmaster.pid")).unwrap();
        let server = file.lines().next().unwrap().trim().to_owned();
        let parent = |process: &Path| {
            let stat = fs::read_to_string(process.join("stat")).ok()?;
            stat.rsplit_once(") ")?.1.split(' ').nth(1).map(str::to_owned)
        };
        // The server first, so that it starts no other.
        let stopped = Self(vec![stop(&server)]);
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let children = processes.filter(|process| parent(process).as_deref() == Some(&server));
        let children = children.map(|process| stop(process.file_name().unwrap().to_str().unwrap()));
        let mut all = children.collect::<Vec<_>>();
        all.extend(&stopped.0);
        std::mem::forget(stopped);
        Self(all)
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        for pid in &self.0 {
            // It may have ended.
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
}

fn stop(pid: &str) -> Pid {
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    // A child may have ended meanwhile.
    let _ = kill_process(pid, Signal::STOP);
    pid
}

#[tokio::test]
async fn a_scrape_waits_for_no_statement_while_postgresql_hangs() {
    let (cluster, harness) = with_own_cluster().await;
    let (_daemon, address) = scraped(&harness).await;
    let standstill = Standstill::of(&cluster);
    // One that asked PostgreSQL would wait for seconds, and so many of them for longer than anything may take.
    let scrapes = async {
        for _ in 0..100 {
            scrape(&address).await;
        }
    };
    soon("a hundred scrapes are answered", scrapes).await;
    until_scraped(&address, "copyhold_database_up 0").await;
    drop(standstill);
    until_scraped(&address, "copyhold_database_up 1").await;
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn series_of_a_replica_that_was_removed_are_gone() {
    let mut harness = Harness::new().await;
    harness.rewrite(|text| {
        let (before, section) = text.split_once("[replicas.scw]").unwrap();
        format!("{before}{}", &section[section.find("[http]").unwrap()..])
    });
    let (_daemon, address) = scraped(&harness).await;
    until_scraped(&address, "copyhold_replica_unserved{replica=\"scw\"} 1").await;
    until_scraped(&address, "copyhold_backlog_objects{replica=\"scw\"} 0").await;
    for command in [["replica", "drain", "scw"].as_slice(), &["replica", "remove", "scw", "--yes"]] {
        let output = harness.run(command).await;
        assert!(output.status.success(), "{}", printed(&output));
    }
    eventually("nothing is said of it", async || !scrape(&address).await.contains("\"scw\"")).await;
    assert!(scrape(&address).await.contains("copyhold_backlog_objects{replica=\"wasabi\"} 0"));
}

#[tokio::test]
async fn each_series_that_is_known_at_the_start_is_there_with_0_and_reads_as_prometheus_wants_it() {
    let harness = Harness::new().await;
    let (_daemon, address) = scraped(&harness).await;
    until_scraped(&address, "copyhold_daemons_differ{what=\"rules\"} 0").await;
    until_scraped(&address, "copyhold_backlog_objects{replica=\"scw\"} 0").await;
    let named = names_in_the_documents();
    let all = async || {
        let found = families(&scrape(&address).await);
        named.iter().all(|name| found.contains_key(name))
    };
    // Some are read once per sweep, or with the first request to a store.
    eventually(&format!("there are all of {named:?}"), all).await;
    let text = scrape(&address).await;
    for line in [
        "copyhold_copies_total{replica=\"scw\"} 0",
        "copyhold_failures_total{replica=\"scw\",class=\"denied\"} 0",
        "copyhold_failures_total{replica=\"b2\",class=\"archived\"} 0",
        "copyhold_not_carried_total{replica=\"wasabi\",property=\"tags\"} 0",
        "copyhold_rechecks_total{replica=\"wasabi\",result=\"unknown\"} 0",
        "copyhold_database_errors_total{statement=\"lease::complete\"} 0",
        "copyhold_event_readers_ended_total{why=\"slow\"} 0",
        "copyhold_leases_lost_total 0",
        "copyhold_lag_seconds_count{replica=\"scw\"} 0",
        "copyhold_object_seconds_count 0",
        "copyhold_breaker_open{replica=\"scw\"} 0",
        "copyhold_replica_paused{replica=\"scw\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
}

/// The families of a scrape with their types, after looking at each line as `promtool check metrics` does.
fn families(text: &str) -> BTreeMap<String, String> {
    let mut families = BTreeMap::new();
    let mut series = BTreeSet::new();
    let mut help = None;
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(told) = line.strip_prefix("# HELP ") {
            let (name, words) = told.split_once(' ').unwrap();
            assert!(!words.is_empty(), "{line}");
            help = Some(name.to_owned());
        } else if let Some(told) = line.strip_prefix("# TYPE ") {
            let (name, kind) = told.split_once(' ').unwrap();
            assert_eq!(help.take().as_deref(), Some(name), "it has no help text: {line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "told twice: {line}");
            name.clone_into(&mut current);
        } else {
            let (labelled, value) = line.rsplit_once(' ').unwrap();
            let name = labelled.split('{').next().unwrap();
            let of = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            assert!(name == current || of == Some(&current), "{line} stands under {current}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(series.insert(labelled.to_owned()), "there twice: {line}");
        }
    }
    families
}

/// The metrics that the documents and the rules for alerts speak of.
fn names_in_the_documents() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let operations = fs::read_to_string(root.join("docs/operations.md")).unwrap();
    let rules = fs::read_to_string(root.join("deploy/prometheus/copyhold.rules.yml")).unwrap();
    let table = operations.lines().filter(|line| line.starts_with("| `copyhold_"));
    let expressions = rules.lines().filter(|line| line.trim_start().starts_with("expr:"));
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = table.chain(expressions).flat_map(|line| line.split(|c| !is_of_a_name(c)));
    let names = words.filter(|word| word.starts_with("copyhold_"));
    let names: BTreeSet<_> = names.map(str::to_owned).collect();
    assert!(names.len() > 40, "{names:?}");
    names
}
