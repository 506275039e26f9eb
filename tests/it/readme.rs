//! What README tells newcomers to paste works when it is pasted.

use std::{fs, path::Path, process::Stdio};

use tokio::process::Command;
use url::Url;

use crate::{
    harness::{cluster, printed, soon},
    http::free_port,
};

/// The first block for a shell below this heading.
fn block(heading: &str) -> String {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, below) = readme.split_once(&format!("{heading}\n")).unwrap();
    let (_, begun) = below.split_once("```sh\n").unwrap();
    begun.split_once("```").unwrap().0.to_owned()
}

#[tokio::test]
async fn the_recipe_without_buckets_copies_an_object_when_it_is_pasted() {
    let clone = tempfile::tempdir().unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/localhost.toml");
    let (program, store) = (Path::new(env!("CARGO_BIN_EXE_copyhold")), format!("127.0.0.1:{}", free_port()));
    fs::create_dir(clone.path().join("config")).unwrap();
    let local = fs::read_to_string(config).unwrap().replace("127.0.0.1:9000", &store);
    fs::write(clone.path().join("config/localhost.toml"), local).unwrap();
    let mut script = block("### Without buckets");
    // Places that another process of this machine may have, and a wait that a slow one makes longer.
    for (theirs, ours) in [
        ("127.0.0.1:9000", store.as_str()),
        ("$PWD/target/release", program.parent().unwrap().to_str().unwrap()),
        ("sleep 5", "until copyhold explain cats/tom.jpg | grep -q 'second: recorded'; do sleep 0.1; done"),
    ] {
        assert!(script.contains(theirs), "no {theirs} in\n{script}");
        script = script.replace(theirs, ours);
    }
    let database = Url::parse(&cluster().await.url("app")).unwrap();
    let mut shell = Command::new("bash");
    shell.args(["-e", "-c", &format!("trap 'kill $daemon $store; wait' EXIT\n{script}")]).current_dir(clone.path());
    shell.env("PGHOST", database.host_str().unwrap()).env("PGPORT", database.port().unwrap().to_string());
    shell.env("PGUSER", database.username()).env("PGPASSWORD", database.password().unwrap());
    shell.env("COPYHOLD_DATABASE__URL", database.as_str()).env("COPYHOLD_HTTP__LISTEN", "127.0.0.1:0");
    shell.env_remove("COPYHOLD_CONFIG").stdin(Stdio::null()).kill_on_drop(true);
    let output = soon("it ends", shell.output()).await.unwrap();
    let text = printed(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("first (primary)") && text.contains("1 object\n"), "{text}");
    assert!(!text.contains("FAIL"), "{text}");
}

#[tokio::test]
async fn the_help_names_every_command_of_the_recipes() {
    let output = Command::new(env!("CARGO_BIN_EXE_copyhold")).arg("--help").output().await.unwrap();
    let help = printed(&output);
    for command in ["sandbox-s3", "demo", "check", "migrate", "run", "explain", "status"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{command} "))), "{command}: {help}");
    }
}
