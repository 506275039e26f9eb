//! `copyhold events`, and the agents of docs/agents: each event once and in order, through failures and restarts.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::{
    harness::{Begin, Harness, eventually, printed, soon},
    http::{Http, TOKEN, append, settings},
};

/// A process whose output goes to a file; killed when dropped.
struct Follower {
    child: Child,
    out: PathBuf,
}

impl Follower {
    fn start(mut command: Command, out: &Path) -> Self {
        let file = File::create(out).unwrap();
        let child = command.stdin(Stdio::null()).stdout(file).kill_on_drop(true).spawn().unwrap();
        Self { child, out: out.to_owned() }
    }

    /// The members `n` of the events that it has printed, a line each.
    fn numbers(&self) -> Vec<i64> {
        let text = fs::read_to_string(&self.out).unwrap();
        let whole = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        whole.map(|event| event["event_data"]["n"].as_i64().unwrap()).collect()
    }

    async fn until(&self, last: i64) {
        eventually(&format!("event {last} is followed"), async || self.numbers().last() == Some(&last)).await;
        assert_eq!(self.numbers(), (1..=last).collect::<Vec<_>>());
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap())).unwrap();
        kill_process(pid, signal).unwrap();
    }

    async fn exit_code(&mut self) -> Option<i32> {
        soon("the follower ends", self.child.wait()).await.unwrap().code()
    }
}

async fn harness() -> Harness {
    Harness::with(Begin::Migrated, &settings("")).await
}

const TICKS: [&str; 3] = ["events", "--kinds", "test.tick"];

#[tokio::test]
async fn it_prints_what_there_is_and_ends() {
    let harness = harness().await;
    append(&harness, 1, 600).await;
    harness
        .execute(
            r#"SELECT copyhold.append_log(ARRAY['{"kind": "test.key", "object_key": "a\u001b[2J", "n": 7}'::jsonb])"#,
        )
        .await;
    let daemon = harness.daemon().await;
    Http::of(&harness, &daemon).await;
    let output = harness.run(&[&TICKS[..], &["--json"]].concat()).await;
    let numbers: Vec<_> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["event_data"]["n"].as_i64().unwrap())
        .collect();
    assert_eq!(numbers, (1..=600).collect::<Vec<_>>());
    let output = harness.run(&["events", "--kinds", "test.key"]).await;
    let text = printed(&output);
    assert_eq!((output.status.code(), text.lines().count()), (Some(0), 1), "{text}");
    assert!(text.contains("test.key") && text.contains(r"a\u{1b}[2J") && text.contains("n=7"), "{text}");
    // The configuration is not needed where the daemon is named.
    let url = format!("http://{}", harness.config.http.listen);
    let mut command = Command::new(env!("CARGO_BIN_EXE_copyhold"));
    command.args(["--config", "/nowhere.toml", "events", "--kinds", "test.key", "--url", &url]);
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("needs a token; set COPYHOLD_HTTP__TOKEN"), "{}", printed(&output));
    command.env("COPYHOLD_HTTP__TOKEN", TOKEN);
    assert_eq!(printed(&command.output().await.unwrap()), text);
}

#[tokio::test]
async fn it_follows_through_a_restart_of_the_daemon() {
    let harness = harness().await;
    let folder = tempfile::tempdir().unwrap();
    append(&harness, 1, 10).await;
    let mut daemon = harness.daemon().await;
    let command = harness.program(&[&TICKS[..], &["--json", "--follow", "--after", "0"]].concat());
    let follower = Follower::start(command, &folder.path().join("out"));
    follower.until(10).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
    append(&harness, 11, 20).await;
    let mut daemon = harness.daemon().await;
    follower.until(20).await;
    daemon.kill().await;
    append(&harness, 21, 30).await;
    let _daemon = harness.daemon().await;
    follower.until(30).await;
}

#[tokio::test]
async fn a_command_that_fails_stops_the_agent_with_its_code_and_the_next_one_goes_on_with_that_event() {
    let harness = harness().await;
    let folder = tempfile::tempdir().unwrap();
    let (cursor, done) = (folder.path().join("cursor"), folder.path().join("done"));
    append(&harness, 1, 5).await;
    let daemon = harness.daemon().await;
    Http::of(&harness, &daemon).await;
    let agent = |command: &str| {
        let cursor = cursor.to_str().unwrap();
        let mut agent = harness.program(&[&TICKS[..], &["--exec", command, "--cursor", cursor]].concat());
        agent.env("DONE", &done);
        agent
    };
    let stop_at_3 = r#"event=$(cat); case $event in *'"n": 3'*) exit 7 ;; esac
        [ "$COPYHOLD_EVENT_KIND" = test.tick ] || exit 9
        case $event in "{\"id\":$COPYHOLD_EVENT_ID,"*) printf '%s\n' "$event" >>"$DONE" ;; *) exit 10 ;; esac"#;
    let output = agent(stop_at_3).output().await.unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", printed(&output));
    for words in ["error: the command failed with exit code 7 at event ", "(test.tick)", "stays before it"] {
        assert!(printed(&output).contains(words), "{words}: {}", printed(&output));
    }
    let numbers = || {
        let text = fs::read_to_string(&done).unwrap();
        let number = |line: &str| serde_json::from_str::<Value>(line).unwrap()["event_data"]["n"].as_i64().unwrap();
        text.lines().map(number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(), [1, 2]);
    let output = agent("cat >>\"$DONE\"").output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert_eq!(numbers(), [1, 2, 3, 4, 5]);
    let output = agent("cat >>\"$DONE\"").output().await.unwrap();
    assert_eq!((output.status.code(), numbers().len()), (Some(0), 5));
}

#[tokio::test]
async fn an_agent_that_is_asked_to_end_lets_its_command_end_and_shares_its_cursor_with_no_other() {
    let harness = harness().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    append(&harness, 1, 2).await;
    let daemon = harness.daemon().await;
    Http::of(&harness, &daemon).await;
    let command = format!(
        "cat >>{out}; touch {begun}; while [ ! -e {go} ]; do sleep 0.05; done; touch {ended}",
        out = file("got"),
        begun = file("begun"),
        go = file("go"),
        ended = file("ended")
    );
    let cursor = file("cursor");
    let arguments = [&TICKS[..], &["--follow", "--exec", &command, "--cursor", &cursor]].concat();
    let mut agent = Follower::start(harness.program(&arguments), &folder.path().join("out"));
    let exists = |name: &'static str| {
        let path = folder.path().join(name);
        async move || path.exists()
    };
    eventually("the command runs", exists("begun")).await;
    let output = harness.run(&arguments).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("another agent uses it"), "{}", printed(&output));
    agent.signal(Signal::TERM);
    // Nothing shows that the signal reached it: if it had not waited, it would have ended by now, and the command with it.
    fs::write(file("go"), "").unwrap();
    assert_eq!(agent.exit_code().await, Some(0));
    assert!(folder.path().join("ended").exists());
    assert_eq!(fs::read_to_string(file("got")).unwrap().lines().count(), 1);
    let first =
        harness.value("SELECT min(id) FROM copyhold.log WHERE event_data->>'kind' = 'test.tick'").await.unwrap();
    assert!(fs::read_to_string(&cursor).unwrap().starts_with(&format!("{first}@")));
}

#[tokio::test]
async fn a_reader_that_cannot_go_on_is_told_what_to_do() {
    let harness = harness().await;
    append(&harness, 1, 10).await;
    harness.execute("DELETE FROM copyhold.log WHERE id <= 5; UPDATE copyhold.log_state SET dropped_through = 5").await;
    let daemon = harness.daemon().await;
    Http::of(&harness, &daemon).await;
    for (after, says) in
        [("3", "take stock"), ("1000000", "PostgreSQL failed over or was restored"), ("5@00000001", "is the log")]
    {
        let output = harness.run(&[&TICKS[..], &["--follow", "--after", after]].concat()).await;
        assert_eq!(output.status.code(), Some(1), "{after}");
        assert!(printed(&output).contains(says), "{after}: {}", printed(&output));
    }
    let output = harness.run(&["events", "--kinds", "object.copid"]).await;
    assert!(printed(&output).contains("did you mean object.copied?"), "{}", printed(&output));
    let output = harness.run(&["events", "--after", "-1"]).await;
    assert!(printed(&output).contains("negative"), "{}", printed(&output));
    let url = format!("http://{}", harness.config.http.listen);
    for (token, says) in
        [("", "needs a token; set COPYHOLD_HTTP__TOKEN"), ("another-token-it-is", "does not accept the token")]
    {
        let mut command = harness.program(&["events", "--url", &url]);
        command.env_remove("COPYHOLD_HTTP__TOKEN");
        if !token.is_empty() {
            command.env("COPYHOLD_HTTP__TOKEN", token);
        }
        let output = command.output().await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
        assert!(printed(&output).contains(says), "{}", printed(&output));
    }
    drop(daemon);
    let output = harness.run(&["events", "--url", "http://127.0.0.1:1"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("no daemon answers at http://127.0.0.1:1/v1/events"), "{}", printed(&output));
}

#[tokio::test]
async fn the_agents_of_the_documentation_follow_through_a_restart() {
    let harness = harness().await;
    let folder = tempfile::tempdir().unwrap();
    append(&harness, 1, 10).await;
    let mut daemon = harness.daemon().await;
    Http::of(&harness, &daemon).await;
    let agents = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/agents");
    let url = format!("http://{}", harness.config.http.listen);
    let start = |name: &str, out: &str| {
        let mut command = Command::new(agents.join(name));
        command.arg(&url).arg(folder.path().join(format!("{name}.cursor"))).arg("test.tick").process_group(0);
        command.env("COPYHOLD_HTTP__TOKEN", TOKEN);
        Follower::start(command, &folder.path().join(out))
    };
    let names = ["follow.sh", "follow.py"];
    let mut followers = names.map(|name| start(name, &format!("{name}.first")));
    for follower in &followers {
        follower.until(10).await;
    }
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
    append(&harness, 11, 20).await;
    let _daemon = harness.daemon().await;
    for follower in &followers {
        follower.until(20).await;
    }
    for (name, follower) in names.iter().zip(&mut followers) {
        // The cursor is stored after the event was printed: only then may it be stopped without seeing one twice.
        let last =
            harness.value("SELECT max(id) FROM copyhold.log WHERE event_data->>'kind' = 'test.tick'").await.unwrap();
        let cursor = folder.path().join(format!("{name}.cursor"));
        let stored = async || {
            let id = fs::read_to_string(&cursor).unwrap_or_default();
            id.split('@').next().and_then(|id| id.parse::<i64>().ok()) >= last.parse().ok()
        };
        eventually("the cursor is stored", stored).await;
        let group = Pid::from_raw(i32::try_from(follower.child.id().unwrap()).unwrap()).unwrap();
        rustix::process::kill_process_group(group, Signal::TERM).unwrap();
        follower.child.wait().await.unwrap();
    }
    append(&harness, 21, 21).await;
    for name in names {
        let follower = start(name, &format!("{name}.second"));
        eventually("it goes on where it stopped", async || !follower.numbers().is_empty()).await;
        assert_eq!(follower.numbers(), [21], "{name}");
        let group = Pid::from_raw(i32::try_from(follower.child.id().unwrap()).unwrap()).unwrap();
        rustix::process::kill_process_group(group, Signal::TERM).unwrap();
    }
}
