//! Tests: environment variables over the file.

use super::*;

#[test]
fn a_variable_wins_over_the_file() {
    let config = Case::least_and("[workers]\ncount = 8\n[lease]\ntimeout = \"30s\"\n")
        .env("COPYHOLD_PRIMARY", "wasabi")
        .env("COPYHOLD_WORKERS__COUNT", "16")
        .env("COPYHOLD_WORKERS__MEMORY", "64MiB")
        .env("COPYHOLD_LEASE__TIMEOUT", "\"60s\"")
        .env("COPYHOLD_REPLICAS__B2__BUCKET", "pictures")
        .env("COPYHOLD_REPLICAS__B2__PATH_STYLE", "false")
        .env("COPYHOLD_DATABASE__URL", "postgres:///other?host=/run/pg")
        .config();
    assert_eq!(config.primary.as_str(), "wasabi");
    assert_eq!(config.workers.count, 16);
    assert_eq!(config.workers.memory_bytes, 64 << 20);
    assert_eq!(config.lease.timeout.as_secs(), 60);
    assert_eq!(config.lease.heartbeat.as_secs(), 20);
    assert_eq!(config.replicas[0].bucket, "pictures");
    assert!(!config.replicas[0].path_style);
    assert!(config.to_string().contains("url = \"postgres:///other?host=/run/pg\""), "{config}");
}

#[test]
fn text_that_looks_like_a_number_is_text_where_text_is_needed() {
    let config = Case::of(LEAST).env("COPYHOLD_REPLICAS__B2__BUCKET", "2024").config();
    assert_eq!(config.replicas[0].bucket, "2024");
}

#[test]
fn a_whole_replica_can_be_made_of_variables() {
    let config = Case::of(LEAST)
        .env("COPYHOLD_REPLICAS__SCW__ENDPOINT", "https://s3.fr-par.scw.cloud")
        .env("COPYHOLD_REPLICAS__SCW__BUCKET", "paris")
        .env("COPYHOLD_REPLICAS__SCW__ACCESS_KEY_ID", "id")
        .env("COPYHOLD_REPLICAS__SCW__SECRET_ACCESS_KEY", "{ env = \"SCW_SECRET\" }")
        .env("SCW_SECRET", "geheim")
        .config();
    let names: Vec<&str> = config.replicas.iter().map(|replica| replica.name.as_str()).collect();
    assert_eq!(names, ["b2", "scw", "wasabi"]);
    assert_eq!(config.replicas[1].region, "fr-par");
}

#[test]
fn a_secret_that_the_file_only_names_can_be_overridden_by_one_in_place() {
    let case = Case::least_with("\"postgres:///app?host=/run/pg\"", "{ env = \"NOT_SET\" }");
    let config = case.env("COPYHOLD_DATABASE__URL", "postgres://localhost/app").config();
    assert!(config.to_string().contains("postgres://localhost/app"), "{config}");
}

#[test]
fn a_bad_override_is_reported_by_the_name_of_its_variable() {
    Case::of(LEAST)
        .env("COPYHOLD_WORKERS__COUNT", "many")
        .env("COPYHOLD_LEASE__HEARTBEAT", "80s")
        .env("COPYHOLD_PRIMARY", "b3")
        .env("COPYHOLD_HTTP__LISTEN", "")
        .is_refused(&[
            ("COPYHOLD_HTTP__LISTEN: http.listen is empty", "give it a value, or remove it"),
            (
                "COPYHOLD_LEASE__HEARTBEAT: lease.heartbeat is 80s, not well under lease.timeout of 90s",
                "set it to a third of the timeout or less: 30s",
            ),
            ("COPYHOLD_PRIMARY: primary is \"b3\", but there is no [replicas.b3]", "did you mean \"b2\"?"),
            (
                "COPYHOLD_WORKERS__COUNT: workers.count is text, where a whole number is needed",
                "write digits alone, without quotes or unit",
            ),
        ]);
}

#[test]
fn a_heartbeat_of_the_file_is_held_against_a_timeout_of_the_environment() {
    Case::least_and("[lease]\nheartbeat = \"30s\"\n").env("COPYHOLD_LEASE__TIMEOUT", "60s").is_refused(&[(
        "copyhold.toml:14:13: lease.heartbeat is 30s, not well under lease.timeout of 60s",
        "set it to a third of the timeout or less: 20s",
    )]);
}

#[test]
fn an_override_of_nothing_is_refused_with_the_one_that_was_meant() {
    Case::of(LEAST)
        .env("COPYHOLD_LEASE_TIMEOUT", "60s")
        .env("COPYHOLD_WORKERS__CUONT", "4")
        .env("COPYHOLD_primary", "b2")
        .env("COPYHOLD_NONSENSE", "1")
        .is_refused(&[
            ("COPYHOLD_LEASE_TIMEOUT: there is no setting lease_timeout", "did you mean COPYHOLD_LEASE__TIMEOUT?"),
            (
                "COPYHOLD_NONSENSE: there is no setting nonsense",
                "unset it; config/copyhold.toml has every setting there is",
            ),
            ("COPYHOLD_WORKERS__CUONT: there is no setting workers.cuont", "did you mean COPYHOLD_WORKERS__COUNT?"),
            ("COPYHOLD_primary: it names no setting", "write it as COPYHOLD_SECTION__KEY, in upper case, or unset it"),
        ]);
}

#[test]
fn a_section_cannot_be_overridden_as_a_whole() {
    let todo = "override a single setting, with two underscores after each section, or unset it";
    Case::of(LEAST)
        .env("COPYHOLD_DATABASE", "postgres:///app")
        .env("COPYHOLD_LOG", "debug")
        .env("COPYHOLD_PRIMARY__NAME", "b2")
        .is_refused(&[
            ("COPYHOLD_DATABASE: database is not a setting that holds a value", todo),
            (
                "COPYHOLD_LOG: log is a section, not a value",
                "override its settings one by one, as in COPYHOLD_LOG__SETTING",
            ),
            ("COPYHOLD_PRIMARY__NAME: primary.name is not a setting that holds a value", todo),
        ]);
}

#[test]
fn a_replica_that_only_a_variable_speaks_of_is_probably_misspelt() {
    Case::of(LEAST).env("COPYHOLD_REPLICAS__WASABY__BUCKET", "photos").is_refused(&[
        (
            "COPYHOLD_REPLICAS__WASABY__BUCKET: replicas.wasaby has no credentials",
            r#"set access_key_id and secret_access_key, or credentials = "ambient" for the AWS chain"#,
        ),
        (
            "COPYHOLD_REPLICAS__WASABY__BUCKET: replicas.wasaby.endpoint is missing",
            "only COPYHOLD_REPLICAS__WASABY__BUCKET speaks of [replicas.wasaby]: \
             set COPYHOLD_REPLICAS__WASABY__ENDPOINT too, or correct its name",
        ),
    ]);
}

#[test]
fn variables_that_are_no_settings_are_left_alone() {
    Case::least_with("\"id\"", "{ env = \"COPYHOLD_B2_KEY_ID\" }")
        .env("COPYHOLD_CONFIG", "copyhold.toml")
        .env("COPYHOLD_B2_KEY_ID", "id")
        .env("COPYHOLD_SERVICE_HOST", "10.0.0.7")
        .env("COPYHOLD_PORT", "tcp://10.0.0.7:9180")
        .env("COPYHOLDER", "x")
        .env("PATH", "/bin")
        .config();
}

#[test]
fn a_variable_that_is_not_text_is_refused_only_where_it_matters() {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};
    let case = Case::of(LEAST);
    fs::write(case.path(), LEAST).unwrap();
    let bytes = || OsString::from_vec(vec![0xff]);
    assert!(load(&case.path(), [(OsString::from("LS_COLORS"), bytes())]).is_ok());
    assert!(load(&case.path(), [(bytes(), bytes())]).is_ok());
    let errors = load(&case.path(), [(OsString::from("COPYHOLD_PRIMARY"), bytes())]).unwrap_err();
    assert_eq!(errors.to_string(), "COPYHOLD_PRIMARY: its value is not UTF-8\n    set it to text");
}
