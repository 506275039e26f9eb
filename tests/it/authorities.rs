//! Whose certificates are trusted: `ca_file`, `AWS_CA_BUNDLE`, `SSL_CERT_FILE` and `SSL_CERT_DIR` for stores, `sslrootcert`
//! for PostgreSQL.

use tempfile::TempDir;

use crate::{
    harness::{Harness, printed},
    tls_relay::{pem, postgres, relay},
};

/// Variables that this machine may have set.
const VARIABLES: [&str; 3] = ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// What `check` says with `scw` behind TLS with this certificate: exit code, and all it prints.
async fn checked(certificate: &str, more: &str, environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let harness = Harness::new().await;
    let upstream = harness.s3.endpoint().strip_prefix("http://").unwrap().parse().unwrap();
    let port = relay(certificate, upstream).await.port();
    let here = harness.s3.endpoint();
    let text = std::fs::read_to_string(harness.config_path()).unwrap();
    let (before, scw) = text.split_once("[replicas.scw]\n").unwrap();
    let there = format!("endpoint = \"https://127.0.0.1:{port}\"\n{more}");
    let scw = scw.replacen(&format!("endpoint = \"{here}\""), &there, 1);
    std::fs::write(harness.config_path(), format!("{before}[replicas.scw]\n{scw}")).unwrap();
    let mut command = harness.program(&["check"]);
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    let output = command.envs(environment.iter().copied()).output().await.unwrap();
    (output.status.code(), printed(&output))
}

fn ca_file() -> String {
    format!("ca_file = \"{}\"", pem("ca.pem").display())
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_a_setting_or_a_variable_names_it() {
    let (code, text) = checked("server.pem", &ca_file(), &[]).await;
    assert_eq!(code, Some(0), "{text}");
    let authority = pem("ca.pem").display().to_string();
    for variable in ["AWS_CA_BUNDLE", "SSL_CERT_FILE"] {
        let (code, text) = checked("server.pem", "", &[(variable, &authority)]).await;
        assert_eq!(code, Some(0), "{variable} {text}");
    }
    let folder = TempDir::new().unwrap();
    std::fs::copy(pem("ca.pem"), folder.path().join("ca.pem")).unwrap();
    // Links whose file is gone are usual there.
    std::os::unix::fs::symlink("gone", folder.path().join("5ed36f99.0")).unwrap();
    let (code, text) = checked("server.pem", "", &[("SSL_CERT_DIR", folder.path().to_str().unwrap())]).await;
    assert_eq!(code, Some(0), "{text}");
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_reported_with_the_cause_and_the_setting() {
    let fails = async |certificate: &str, more: &str, environment: &[(&str, &str)]| {
        let (code, text) = checked(certificate, more, environment).await;
        assert_eq!(code, Some(1), "{text}");
        text.lines().find(|line| line.starts_with("FAIL  scw")).expect(&text).to_owned()
    };
    let foreign = pem("other.pem").display().to_string();
    for environment in [&[][..], &[("SSL_CERT_FILE", foreign.as_str())]] {
        let line = fails("server.pem", "", environment).await;
        assert!(line.contains("unknown issuer") && line.contains("ca_file in [replicas.scw]"), "{line}");
        assert_eq!(line.contains("other.pem (from SSL_CERT_FILE)"), !environment.is_empty(), "{line}");
    }
    let line = fails("server.pem", &format!("ca_file = {foreign:?}"), &[]).await;
    assert!(line.contains("unknown issuer") && line.contains("other.pem, the ca_file in [replicas.scw]"), "{line}");
    let line = fails("expired.pem", &ca_file(), &[]).await;
    assert!(line.contains("expired on 2021-01-01T00:00:00Z"), "{line}");
    let line = fails("other.pem", &ca_file(), &[]).await;
    assert!(line.contains("it is for other.internal, and not for 127.0.0.1"), "{line}");
}

#[tokio::test]
async fn authorities_that_cannot_be_read_are_refused_at_the_start() {
    let folder = TempDir::new().unwrap();
    let (empty, key) = (folder.path().to_str().unwrap(), pem("server.key").display().to_string());
    for (more, environment, words) in [
        (
            "ca_file = \"/does/not/exist.pem\"",
            &[][..],
            "replicas.scw.ca_file names the file /does/not/exist.pem, which does not exist",
        ),
        ("ca_file = \"/dev/zero\"", &[], "replicas.scw.ca_file names the file /dev/zero, which is a device"),
        (
            "",
            &[("AWS_CA_BUNDLE", "/does/not/exist.pem")],
            "AWS_CA_BUNDLE: names /does/not/exist.pem, which does not exist",
        ),
        (
            "",
            &[("SSL_CERT_FILE", "/does/not/exist.pem")],
            "SSL_CERT_FILE: names /does/not/exist.pem, which does not exist",
        ),
        ("", &[("SSL_CERT_FILE", "/etc")], "SSL_CERT_FILE: names /etc, which is a folder"),
        ("", &[("SSL_CERT_FILE", &key)], "server.key, which holds no certificate in PEM form"),
        ("", &[("SSL_CERT_DIR", "/does/not/exist")], "SSL_CERT_DIR: names /does/not/exist, which"),
        ("", &[("SSL_CERT_DIR", empty)], "which holds no certificate in PEM form"),
        ("", &[("SSL_CERT_FILE", "")], "SSL_CERT_FILE: is empty"),
    ] {
        let (code, text) = checked("server.pem", more, environment).await;
        assert_eq!(code, Some(2), "{words} {text}");
        assert!(text.contains(words), "{words} {text}");
    }
    // Where no store needs them, they do not matter.
    let (code, text) = checked("server.pem", &ca_file(), &[("SSL_CERT_FILE", "/does/not/exist.pem")]).await;
    assert_eq!(code, Some(0), "{text}");
}

#[tokio::test]
async fn an_error_of_tls_to_postgresql_names_the_cause_and_sslrootcert() {
    let told = async |certificate: &str, more: &str| {
        let port = postgres(certificate).await;
        let url = format!("postgres://u@127.0.0.1:{port}/app?sslmode=verify-full{more}");
        let harness = Harness::at(url, "").await;
        let output = harness.run(&["check"]).await;
        let text = printed(&output);
        text.lines().find(|line| line.starts_with("FAIL  postgresql")).expect(&text).to_owned()
    };
    let root = format!("&sslrootcert={}", pem("ca.pem").display());
    let line = told("server.pem", "").await;
    assert!(line.contains("unknown issuer") && line.contains("as sslrootcert in the URL"), "{line}");
    let foreign = format!("&sslrootcert={}", pem("other.pem").display());
    let line = told("server.pem", &foreign).await;
    assert!(line.contains("unknown issuer") && line.contains("other.pem, which sslrootcert names"), "{line}");
    let line = told("expired.pem", &root).await;
    assert!(line.contains("expired on 2021-01-01T00:00:00Z"), "{line}");
    let line = told("other.pem", &root).await;
    assert!(line.contains("it is for other.internal, and not for 127.0.0.1"), "{line}");
}
