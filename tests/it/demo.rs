//! The demo is what newcomers see first: it succeeds, and leaves nothing behind however it ends.

use std::{os::unix::fs::PermissionsExt as _, process::Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::harness::{eventually, printed};

/// A demo whose files are made where no other test makes any.
struct Theatre(TempDir);

impl Theatre {
    fn new() -> Self {
        // In /tmp, because the path of a socket must be short; for all users, because root does not run PostgreSQL.
        let folder = TempDir::new_in("/tmp").unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
        Self(folder)
    }

    fn demo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_copyhold"));
        command.arg("demo").args(arguments).env("TMPDIR", self.0.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    fn is_empty(&self) -> bool {
        std::fs::read_dir(self.0.path()).unwrap().next().is_none()
    }
}

/// The processes that a play names, from its beginning to the line with `until`.
async fn daemons_until(demo: &mut Child, until: &str) -> Vec<Pid> {
    let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines();
    let mut daemons = Vec::new();
    let mut said = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains("has started")
            && let Some((_, rest)) = line.split_once("(process ")
        {
            let number = rest.split(')').next().unwrap().parse().unwrap();
            daemons.push(Pid::from_raw(number).unwrap());
        }
        if line.contains(until) {
            // Later output is read and dropped, so that the demo does not block on the pipe.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return daemons;
        }
        said += &line;
        said += "\n";
    }
    panic!("the play ended without saying {until:?}:\n{said}");
}

fn signal(demo: &Child, signal: Signal) {
    let pid = i32::try_from(demo.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn a_play_ends_with_nothing_wrong_or_missing_though_a_daemon_is_killed_and_a_store_fails() {
    let theatre = Theatre::new();
    let output = theatre.demo(&["--once", "--objects", "60", "--seed", "7", "--json"]).output().await.unwrap();
    let said = printed(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (what, wanted) in [
        ("objects", 60),
        ("seed", 7),
        ("largest_bytes", 32 << 20),
        ("copies", 120),
        ("compared", 180),
        ("wrong", 0),
        ("missing", 0),
        ("extra", 0),
    ] {
        assert_eq!(summary[what], wanted, "{what}: {summary:#}");
    }
    assert_eq!(summary["daemons"]["killed"], 1);
    let held = summary["killed"]["held_leases"].as_u64().unwrap();
    assert!(held >= 1, "the daemon was killed while it held something: {summary:#}");
    assert_eq!(summary["killed"]["rescued_leases"], held);
    let store = &summary["failing_store"];
    assert!(store["answered_503"].as_u64().unwrap() >= 1, "{summary:#}");
    let waits = &summary["waits"]["wasabi"];
    assert!(waits["p50_seconds"].as_f64().unwrap() <= waits["p99_seconds"].as_f64().unwrap(), "{summary:#}");
    // A lease lasts six seconds: an object whose daemon died has waited for it.
    assert!(waits["longest_seconds"].as_f64().unwrap() > 3.0, "{summary:#}");
    assert!(theatre.is_empty(), "files are left behind");
}

#[tokio::test]
async fn a_play_that_is_interrupted_ends_its_daemons_and_removes_its_files() {
    let theatre = Theatre::new();
    for moment in ["in memory", "(process ", "SIGKILL"] {
        let mut demo = theatre.demo(&["--objects", "100", "--size", "1MiB"]).spawn().unwrap();
        let daemons = daemons_until(&mut demo, moment).await;
        signal(&demo, Signal::INT);
        let status = demo.wait().await.unwrap();
        assert_eq!(status.code(), Some(1), "it did not come to its summary");
        assert!(theatre.is_empty(), "files are left behind after {moment}");
        for daemon in daemons {
            assert!(test_kill_process(daemon).is_err(), "a daemon is left behind after {moment}");
        }
    }
}

#[tokio::test]
async fn nothing_outlives_a_play_that_is_killed() {
    let theatre = Theatre::new();
    let mut demo = theatre.demo(&["--objects", "100", "--size", "1MiB"]).spawn().unwrap();
    let daemons = daemons_until(&mut demo, "SIGKILL").await;
    assert_eq!(daemons.len(), 2);
    // It can clean up nothing itself.
    demo.kill().await.unwrap();
    eventually("the files are gone", async || theatre.is_empty()).await;
    for daemon in daemons {
        assert!(test_kill_process(daemon).is_err(), "a daemon is left behind");
    }
}

#[tokio::test]
async fn without_once_a_trickle_goes_on_until_ctrl_c_and_is_a_success() {
    let theatre = Theatre::new();
    let mut demo = theatre.demo(&["--objects", "60", "--size", "1MiB"]).spawn().unwrap();
    daemons_until(&mut demo, " registered, ").await;
    signal(&demo, Signal::INT);
    assert_eq!(demo.wait().await.unwrap().code(), Some(0));
    assert!(theatre.is_empty(), "files are left behind");
}

#[tokio::test]
async fn a_size_that_no_memory_is_made_for_is_refused_before_anything_starts() {
    let theatre = Theatre::new();
    let output = theatre.demo(&["--size", "5GiB"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(printed(&output).contains("4GiB at most"), "{}", printed(&output));
}
