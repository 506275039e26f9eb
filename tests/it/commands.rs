//! The command line: results, clear errors, exit codes.

use copyhold_core::domain::visible;
use copyhold_sandbox::s3::{Fault, Op, When};

use crate::{
    harness::{Begin, Harness, printed, soon},
    http::{Http, settings},
};

#[tokio::test]
async fn check_says_per_replica_what_works_and_leaves_nothing_behind() {
    let harness = Harness::new().await;
    let output = harness.run(&["check"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    for replica in ["b2", "wasabi", "scw"] {
        assert!(harness.bucket(replica).keys().is_empty() && harness.bucket(replica).uploads().is_empty());
    }
    harness.bucket("scw").order(Fault::access_denied(), When::op(Op::CreateMultipartUpload));
    harness.s3.drop_bucket("photos-wasabi");
    let output = harness.run(&["check"]).await;
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.lines().any(|l| l.starts_with("FAIL  scw") && l.contains("AccessDenied")), "{text}");
    assert!(text.lines().any(|l| l.starts_with("FAIL  wasabi") && l.contains("NoSuchBucket")), "{text}");
    assert!(text.lines().any(|l| l.starts_with("ok    b2")), "{text}");
}

#[tokio::test]
async fn check_names_wrong_keys_and_never_prints_them() {
    let mut harness = Harness::new().await;
    harness.rewrite(|text| text.replacen("\"sandbox-secret\"", "\"not-the-secret\"", 1));
    let output = harness.run(&["check", "--show-config"]).await;
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("SignatureDoesNotMatch"), "{text}");
    assert!(text.contains("***") && !text.contains("not-the-secret") && !text.contains("sandbox-secret"), "{text}");
}

#[tokio::test]
async fn a_wrong_configuration_is_exit_code_2_with_every_problem_at_its_place() {
    let harness = Harness::new().await;
    let text = std::fs::read_to_string(harness.config_path()).unwrap();
    std::fs::write(
        harness.config_path(),
        text.replace("primary = \"b2\"", "primary = \"b3\"") + "[colours]\nred = 1\n",
    )
    .unwrap();
    let output = harness.run(&["check"]).await;
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("copyhold.toml:1:11: ") && text.contains("colours"), "{text}");
    assert!(text.contains("the configuration has 2 problems"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
}

#[tokio::test]
async fn enqueue_registers_keys_byte_for_byte() {
    let harness = Harness::new().await;
    let output = harness.run(&["enqueue", "a//b", " c ", "--replicas", "scw"]).await;
    assert_eq!(printed(&output), "registered 2 objects\n");
    let rows = "SELECT string_agg(object_key || due_wasabi::text, '|' ORDER BY object_key) IS NULL
                       AND count(b2) = 2 AND count(due_scw) = 2 FROM copyhold.object_copies";
    assert_eq!(harness.value(rows).await.unwrap(), "true");
    let output = harness.run(&["enqueue", "x", "--replicas", "scw,nowhere"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        printed(&output).contains("there is no replica \"nowhere\"; the configuration has b2, scw, wasabi"),
        "{}",
        printed(&output)
    );
    let output = harness.run(&["enqueue", "", &"k".repeat(1025)]).await;
    let text = printed(&output);
    assert!(
        text.contains("nothing was registered: key 1: a key cannot be empty; key 2: a key has at most 1024 bytes"),
        "{text}"
    );
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies").await.unwrap(), "2");
}

#[tokio::test]
async fn status_tells_what_fails_and_escapes_what_others_chose() {
    let harness = Harness::new().await;
    harness.insert("evil\u{1b}[2Jkey").await;
    let _daemon = harness.daemon().await;
    harness.until("SELECT count(*) = 3 FROM copyhold.copy_failures").await;
    let output = harness.run(&["status", "--exact"]).await;
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("evil\\u{1b}[2Jkey") && !text.contains('\u{1b}'), "{text}");
    assert!(text.contains("NoSuchKey") && text.contains("idle"), "{text}");
    let output = harness.run(&["status", "--json"]).await;
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["objects"], 1);
    assert_eq!(json["replicas"][0]["replica"], "b2");
    assert_eq!(json["failing"][0]["class"], "gone");
    assert_eq!(json["daemons"][0]["alive"], true);
}

#[tokio::test]
async fn no_command_and_no_log_passes_on_what_a_terminal_obeys() {
    let harness = Harness::with(Begin::Migrated, &settings("")).await;
    let evil = "evil\u{1b}[2J\u{9b}31m\u{202e}\u{2028}\u{200b}\rkey";
    harness.insert(evil).await;
    let daemon = harness.daemon().await;
    Http::of(&harness, &daemon).await;
    harness.until("SELECT count(*) = 3 FROM copyhold.copy_failures").await;
    let event = serde_json::json!([{ "kind": "door.opened", "object_key": evil, "e\u{9b}": evil }]).to_string();
    let commands: [&[&str]; 22] = [
        &["status", "--exact"],
        &["status", "--json"],
        &["explain", evil],
        &["explain", evil, "--json"],
        &["pause", "scw", "--because", evil],
        &["events", "append", &event],
        &["events", "append", evil],
        &["events"],
        &["events", "--json"],
        &["status"],
        &["explain", evil],
        &["resume", "scw"],
        &["retry", evil],
        &["park", evil, "--because", evil],
        &["verify", evil, "--json"],
        &["scan", "--prefix", evil, "--dry-run"],
        &["scan", "--prefix", evil, "--dry-run", "--json"],
        &["import", "--table", evil],
        &["enqueue", "x", "--replicas", evil],
        &[evil],
        &["retry", "--class", evil],
        &["forget", evil, "not there \u{9b}31m"],
    ];
    for arguments in commands {
        let output = harness.run(arguments).await;
        let text = printed(&output);
        assert_eq!(visible(&text), text, "{arguments:?}");
        assert!(!text.is_empty() && !text.contains("panicked"), "{arguments:?}: {text}");
        if arguments.contains(&"--json") {
            let values = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<serde_json::Value>();
            let values: Vec<_> = values.map(Result::unwrap).collect();
            assert!(!values.is_empty(), "{arguments:?}: {text}");
        }
    }
    assert_eq!(visible(&daemon.log()), daemon.log());
}

#[tokio::test]
async fn a_list_of_keys_without_end_is_refused_at_its_first_line() {
    let harness = Harness::new().await;
    let zeros = || std::fs::File::open("/dev/zero").unwrap();
    let output = soon("it ends", harness.program(&["enqueue", "--stdin"]).stdin(zeros()).output()).await.unwrap();
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("nothing was registered: standard input, line 1: longer than 1024 bytes"), "{text}");
    let output = soon("it ends", harness.program(&["events", "append", "-"]).stdin(zeros()).output()).await.unwrap();
    let text = printed(&output);
    assert!(text.contains("nothing was appended: standard input has more than 67108864 bytes, at line 1"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("keys");
    std::fs::write(&list, "first\n\na\0b\nlast\n").unwrap();
    let with_list = || std::fs::File::open(&list).unwrap();
    let output = harness.program(&["enqueue", "--stdin"]).stdin(with_list()).output().await.unwrap();
    assert!(printed(&output).contains("nothing was registered: line 3: a key with a NUL byte"), "{}", printed(&output));
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies").await.unwrap(), "0");
    std::fs::write(&list, "first\n\n b \nlast").unwrap();
    let output = harness.program(&["enqueue", "--stdin"]).stdin(with_list()).output().await.unwrap();
    assert_eq!(printed(&output), "registered 3 objects\n");
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_or_entered_is_said_in_one_sentence() {
    let harness = Harness::at("postgres://postgres@127.0.0.1:1/app".into(), "").await;
    let output = harness.run(&["status"]).await;
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.starts_with("error: ") && text.contains("cannot reach PostgreSQL"), "{text}");
    let harness = Harness::with(Begin::Empty, "").await;
    let output = harness.run(&["status"]).await;
    assert!(printed(&output).contains("copyhold migrate"), "{}", printed(&output));
}

#[tokio::test]
async fn a_port_in_use_is_said_and_nothing_is_started() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let harness =
        Harness::with(Begin::Migrated, &format!("[http]\nlisten = \"{}\"\n", taken.local_addr().unwrap())).await;
    let output = harness.run(&["run"]).await;
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("http.listen") && text.contains("in use"), "{text}");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.daemons").await.unwrap(), "0");
}
