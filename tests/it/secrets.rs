//! A running daemon reads rotated secrets again, without a restart.

use std::path::Path;

use tempfile::TempDir;

use crate::harness::{DaemonProcess, Harness, cluster, eventually};

/// A role that owns everything and needs this password.
async fn role(harness: &Harness, name: &str, password: &str) {
    harness.execute(&format!("CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{password}'")).await;
}

/// As programs that rotate secrets do it: never half.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

async fn copies(harness: &Harness, key: &str) {
    harness.upload(key, "bytes").await;
    harness.until_copied(key).await;
}

/// No secret is in the log.
fn says_nothing(daemon: &DaemonProcess, secrets: &[&str]) {
    let log = daemon.log();
    for secret in secrets {
        assert!(!log.contains(secret), "{log}");
    }
}

#[tokio::test]
async fn keys_of_a_store_that_are_rotated_in_their_files_are_used_at_once() {
    let folder = TempDir::new().unwrap();
    let (id, secret) = (folder.path().join("id"), folder.path().join("secret"));
    replace(&id, "sandbox\n");
    replace(&secret, "sandbox-secret\n");
    let mut harness = Harness::new().await;
    harness.rewrite(|text| {
        let reference = |path: &Path| format!("{{ file = \"{}\" }}", path.display());
        text.replace("\"sandbox\"", &reference(&id)).replace("\"sandbox-secret\"", &reference(&secret))
    });
    let daemon = harness.daemon().await;
    copies(&harness, "before").await;
    // Half written, it changes nothing.
    std::fs::write(&id, "").unwrap();
    let copied_on = async || {
        copies(&harness, "between").await;
        harness.execute("DELETE FROM copyhold.object_copies WHERE object_key = 'between'").await;
        daemon.log().contains(".access_key_id names the file ")
            && daemon.log().contains("the value read before stays in use")
    };
    eventually("the file is read again", copied_on).await;
    harness.s3.rotate_keys("ROTATED", "rotated-secret");
    replace(&id, "ROTATED\n");
    replace(&secret, "rotated-secret\n");
    copies(&harness, "after").await;
    says_nothing(&daemon, &["rotated-secret", "sandbox-secret"]);
}

#[tokio::test]
async fn a_rotated_file_of_shared_credentials_is_used_at_once() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("credentials");
    let profile =
        |id: &str, secret: &str| format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    replace(&file, &profile("sandbox", "sandbox-secret"));
    let mut harness = Harness::new().await;
    harness.rewrite(|text| {
        text.replace("access_key_id = \"sandbox\"\nsecret_access_key = \"sandbox-secret\"", "credentials = \"ambient\"")
    });
    let daemon = harness.daemon_with(&[
        ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]);
    copies(&harness, "before").await;
    harness.s3.rotate_keys("ROTATED", "rotated-secret");
    replace(&file, &profile("ROTATED", "rotated-secret"));
    copies(&harness, "after").await;
    says_nothing(&daemon, &["rotated-secret", "sandbox-secret"]);
}

#[tokio::test]
async fn a_rotated_password_of_postgresql_is_read_for_the_next_connection() {
    let mut harness = Harness::new().await;
    role(&harness, "rotating", "first-password").await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("password");
    replace(&file, "first-password\n");
    let before = harness.database_url();
    let url =
        format!("postgres://rotating@127.0.0.1:{}{}", cluster().await.port(), url::Url::parse(&before).unwrap().path());
    harness.rewrite(|text| {
        text.replace(
            &format!("url = \"{before}\""),
            &format!("url = \"{url}\"\npassword_file = \"{}\"", file.display()),
        )
    });
    let daemon = harness.daemon().await;
    copies(&harness, "before").await;
    harness.execute("ALTER ROLE rotating PASSWORD 'second-password'").await;
    harness.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotating'").await;
    daemon.until_logged("refused the login").await;
    replace(&file, "second-password\n");
    copies(&harness, "after").await;
    says_nothing(&daemon, &["first-password", "second-password"]);
}

#[tokio::test]
async fn a_database_url_that_is_rotated_in_its_file_is_read_for_the_next_connection() {
    let mut harness = Harness::new().await;
    role(&harness, "moving", "first-password").await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("url");
    let before = harness.database_url();
    let path = url::Url::parse(&before).unwrap().path().to_owned();
    let port = cluster().await.port();
    let url = |password: &str| format!("postgres://moving:{password}@127.0.0.1:{port}{path}");
    replace(&file, &url("first-password"));
    harness.rewrite(|text| {
        text.replace(&format!("url = \"{before}\""), &format!("url = {{ file = \"{}\" }}", file.display()))
    });
    let daemon = harness.daemon().await;
    copies(&harness, "before").await;
    harness.execute("ALTER ROLE moving PASSWORD 'second-password'").await;
    // What the configuration would refuse is not used either.
    replace(&file, "postgres://moving:second-password@db.example.com/app");
    harness.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'moving'").await;
    daemon.until_logged("leads to another host without proof").await;
    replace(&file, &url("second-password"));
    copies(&harness, "after").await;
    says_nothing(&daemon, &["first-password", "second-password"]);
}

#[tokio::test]
async fn access_key_ids_are_in_no_log_whatever_its_level() {
    const ID: &str = "AKIDOFTHETEST0001";
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("credentials");
    replace(&file, &format!("[default]\naws_access_key_id = {ID}\naws_secret_access_key = sandbox-secret\n"));
    let mut harness = Harness::new().await;
    harness.s3.rotate_keys(ID, "sandbox-secret");
    // Two of the replicas have it from the chain, and the last from the configuration.
    harness.rewrite(|text| {
        let keys = "access_key_id = \"sandbox\"\nsecret_access_key = \"sandbox-secret\"";
        let text = text.replacen(keys, "credentials = \"ambient\"", 2);
        text.replace("access_key_id = \"sandbox\"", &format!("access_key_id = \"{ID}\""))
    });
    let daemon = harness.daemon_with(&[
        ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        (
            "COPYHOLD_LOG__LEVEL",
            "debug,aws=trace,aws_config=trace,aws_smithy_runtime=trace,aws_sigv4=trace,hyper=trace",
        ),
    ]);
    copies(&harness, "photo").await;
    assert!(daemon.log().contains("DEBUG"), "the level is in force");
    says_nothing(&daemon, &[ID, "sandbox-secret"]);
}
