//! What `copyhold check` reports, and what it marks as unknown.

use std::{fs::Permissions, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use copyhold_sandbox::s3::{Fault, Op, When};

use crate::harness::{Harness, printed, soon};

#[tokio::test]
async fn nothing_is_concluded_about_buckets_while_the_database_does_not_answer() {
    let harness = Harness::at("postgres://postgres@127.0.0.1:1/app".into(), "").await;
    for replica in ["b2", "wasabi"] {
        harness.bucket(replica).put("photo", "bytes");
        harness.bucket(replica).order(Fault::access_denied(), When::op(Op::CreateMultipartUpload));
    }
    let output = harness.run(&["check"]).await;
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let has = |begin: &str, words: &str| text.lines().any(|line| line.starts_with(begin) && line.contains(words));
    assert!(has("FAIL  postgresql", "connect"), "{text}");
    for replica in ["b2", "wasabi"] {
        assert!(has(&format!("?     {replica}"), "whether it may cannot be said while PostgreSQL"), "{text}");
    }
    assert!(has("?     b2", "whether something is to be written there cannot be said"), "{text}");
    assert!(has("FAIL  wasabi", "AccessDenied") && has("ok    scw", "empty"), "{text}");
    assert!(!text.contains("existing ="), "{text}");
    let json: serde_json::Value = serde_json::from_slice(&harness.run(&["check", "--json"]).await.stdout).unwrap();
    let holds = json.as_array().unwrap().iter().find(|f| f["of"] == "b2" && f["what"] == "holds").unwrap();
    assert_eq!((holds["result"].as_str(), holds["works"].as_bool()), (Some("unknown"), Some(true)));
}

#[tokio::test]
async fn a_store_and_a_database_that_never_answer_keep_no_other_finding() {
    // The system accepts connections for it, and no program ever reads from them.
    let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = hole.local_addr().unwrap();
    let mut harness = Harness::at(format!("postgres://postgres@{at}/app"), "").await;
    let here = harness.s3.endpoint();
    harness.rewrite(|text| {
        let (before, scw) = text.split_once("[replicas.scw]\n").unwrap();
        let scw = scw.replacen(&format!("endpoint = \"{here}\""), &format!("endpoint = \"http://{at}\""), 1);
        format!("{before}[replicas.scw]\n{scw}")
    });
    let output = harness.run(&["check"]).await;
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let has = |begin: &str, words: &str| text.lines().any(|line| line.starts_with(begin) && line.contains(words));
    assert!(has("FAIL  postgresql", "no answer within 5 s"), "{text}");
    assert!(has("FAIL  scw", &format!("no answer from http://{at}/ within 10 s")), "{text}");
    assert!(has("ok    wasabi", "a multipart upload was begun and aborted"), "{text}");
}

#[tokio::test]
async fn a_replica_whose_copies_are_elsewhere_is_told_how_it_moves() {
    let mut harness = Harness::new().await;
    let daemon = harness.daemon().await;
    harness.upload("photo", "bytes").await;
    harness.until_copied("photo").await;
    drop(daemon);
    harness.s3.create_bucket("photos-elsewhere", copyhold_sandbox::s3::BucketOptions::default());
    harness.rewrite(|text| text.replace("photos-scw", "photos-elsewhere"));
    let output = harness.run(&["check"]).await;
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = text.lines().find(|line| line.starts_with("FAIL  scw")).expect(&text);
    assert!(line.contains("`copyhold replica move scw`") && line.contains("photos-elsewhere"), "{line}");
}

#[tokio::test]
async fn files_with_secrets_that_every_user_may_read_are_named_with_the_remedy() {
    let mut harness = Harness::new().await;
    let folder = tempfile::tempdir().unwrap();
    let (id, secret) = (folder.path().join("id"), folder.path().join("secret"));
    let write = |path: &Path, text: &str, mode| {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    write(&id, "sandbox\n", 0o600);
    write(&secret, "sandbox-secret\n", 0o640);
    let reference = |path: &Path| format!("{{ file = \"{}\" }}", path.display());
    harness.rewrite(|text| {
        text.replace("\"sandbox\"", &reference(&id)).replace("\"sandbox-secret\"", &reference(&secret))
    });
    let own = harness.config_path();
    std::fs::set_permissions(&own, Permissions::from_mode(0o600)).unwrap();
    let output = harness.run(&["check"]).await;
    assert!(!printed(&output).contains("warn"), "no other user may read them: {}", printed(&output));
    write(&secret, "sandbox-secret\n", 0o644);
    let output = harness.run(&["check"]).await;
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let warned = |path: &Path| {
        let words =
            format!("every user may read {0}, which holds a secret (mode 0644): chmod o-rwx {0}", path.display());
        text.lines().any(|line| line.starts_with("warn  configuration") && line.ends_with(&words))
    };
    assert!(warned(&secret) && !warned(&id) && !warned(&own), "{text}");
    // The database's password is in the configuration itself.
    std::fs::set_permissions(&own, Permissions::from_mode(0o644)).unwrap();
    let text = printed(&harness.run(&["check"]).await);
    assert!(text.contains(&format!("chmod o-rwx {}", own.display())), "{text}");
}

#[tokio::test]
async fn what_is_no_regular_file_is_refused_and_neither_waited_for_nor_read() {
    let harness = Harness::new().await;
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let fifo = fifo.to_str().unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_copyhold"));
        let running = command.args(arguments).kill_on_drop(true).output();
        let output = soon("the program ends", running).await.unwrap();
        (output.status.code(), printed(&output))
    };
    for (path, words) in [(fifo, "it is a FIFO"), ("/dev/zero", "it is a device"), ("/etc", "it is a folder")] {
        let (code, text) = run(&["--config", path, "check"]).await;
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(words), "{text}");
    }
    let text = std::fs::read_to_string(harness.config_path()).unwrap();
    let text = text.replace("\"sandbox-secret\"", &format!("{{ file = \"{fifo}\" }}"));
    std::fs::write(harness.config_path(), text).unwrap();
    let text = printed(&soon("the program ends", harness.run(&["check"])).await);
    assert!(text.contains(&format!("names the file {fifo}, which is a FIFO")), "{text}");
    // Of a pipe that the shell opens there is an end.
    let shell = "exec \"$0\" --config <(cat \"$1\") check --show-config";
    let original = Harness::new().await;
    let path = original.config_path();
    let arguments = ["-c", shell, env!("CARGO_BIN_EXE_copyhold"), path.to_str().unwrap()];
    let output = tokio::process::Command::new("bash").args(arguments).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
}
