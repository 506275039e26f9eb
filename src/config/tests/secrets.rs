//! Tests: no message shows any part of a secret.

use proptest::prelude::*;
use secrecy::ExposeSecret as _;

use super::*;
use crate::config::{Credentials, Provider};

fn secret_of(config: &Config) -> &str {
    let Credentials::Keys { secret_access_key, .. } = &config.replicas[0].credentials else { panic!("b2 has keys") };
    secret_access_key.expose_secret()
}

#[test]
fn a_secret_comes_from_the_file_a_variable_or_another_file() {
    assert_eq!(secret_of(&Case::of(LEAST).config()), "secret");
    let variable =
        Case::least_with("\"secret\"", "{ env = \"B2\" }").env("B2", "from the environment".replace(' ', "-").as_str());
    assert_eq!(secret_of(&variable.config()), "from-the-environment");
    for ending in ["", "\n", "\r\n"] {
        let file = Case::least_with("\"secret\"", "{ file = \"b2\" }").file("b2", format!("from-a-file{ending}"));
        assert_eq!(secret_of(&file.config()), "from-a-file", "{ending:?}");
    }
}

#[test]
fn a_named_variable_or_file_that_gives_nothing_is_reported_where_it_is_named() {
    let named = |reference: &str| Case::least_with("\"secret\"", reference);
    let refused = |case: Case, what: &str, todo: &str| {
        let what = format!("copyhold.toml:8:{what}");
        case.is_refused(&[(&what, todo)]);
    };
    let env = "29: replicas.b2.secret_access_key names the variable B2, which is";
    let reference = "{ env = \"B2\" }";
    let todo = "set B2 in the daemon's environment, or name another";
    refused(named(reference), &format!("{env} not set"), todo);
    let todo = "give B2 a value in the daemon's environment";
    refused(named(reference).env("B2", ""), &format!("{env} empty"), todo);

    let file = "30: replicas.b2.secret_access_key names the file b2, which";
    let reference = "{ file = \"b2\" }";
    refused(named(reference), &format!("{file} does not exist"), "create it, or correct the path");
    refused(named(reference).file("b2", "\n"), &format!("{file} is empty"), "write the secret into it");
    refused(
        named(reference).file("b2", b"\xff"),
        &format!("{file} is not UTF-8"),
        "correct the path; a secret is text",
    );
    let endless = "x".repeat(70_000);
    refused(named(reference).file("b2", endless), &format!("{file} is too long for a secret"), "correct the path");
    let folder = named("{ file = \"sub\" }");
    fs::create_dir(folder.folder.path().join("sub")).unwrap();
    refused(folder, &format!("{file} is a folder").replace("b2, ", "sub, "), "name the file in it");
}

#[test]
fn files_that_never_end_are_refused_wherever_they_are_named() {
    Case::least_with("\"secret\"", "{ file = \"/dev/zero\" }").is_refused(&[(
        "copyhold.toml:8:30: replicas.b2.secret_access_key names the file /dev/zero, which is a device",
        "name a regular file",
    )]);
    let ambient = Case::of(LEAST).env("AWS_SHARED_CREDENTIALS_FILE", "/dev/zero").env("AWS_CONFIG_FILE", "/dev/null");
    ambient.is_refused(&[(
        "AWS_SHARED_CREDENTIALS_FILE: names /dev/zero, which is a device",
        "name a regular file, or unset AWS_SHARED_CREDENTIALS_FILE",
    )]);
    // The client library reads these: those that variables name, and that of passwords.
    Case::of(LEAST).env("PGPASSFILE", "/dev/null").config();
    for name in ["PGPASSFILE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"] {
        Case::of(LEAST).env(name, "/dev/zero").is_refused(&[(
            &format!("{name}: names /dev/zero, which is a device"),
            &format!("name a regular file, or unset {name}"),
        )]);
        Case::of(LEAST).env(name, "/does/not/exist").config();
    }
    let fifo = Case::of(LEAST);
    let path = fifo.folder.path().join("pgpass");
    assert!(std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&path).status().unwrap().success());
    fifo.env("PGPASSFILE", path.to_str().unwrap())
        .is_refused(&[("PGPASSFILE: names pgpass, which is a FIFO", "name a regular file, or unset PGPASSFILE")]);
    let home = Case::of(LEAST);
    let folder = home.folder.path().display().to_string();
    let home = home.env("HOME", &folder);
    fs::File::create(home.folder.path().join(".pgpass")).unwrap().set_len(1 << 40).unwrap();
    home.is_refused(&[(
        "copyhold.toml: the file of passwords is .pgpass, which is larger than 4.0 MiB",
        "correct the path, or move it away",
    )]);
    let todo = "give the full path of a PEM file";
    let url = "postgres://u@localhost/app?sslmode=verify-full&sslrootcert=/dev/zero";
    Case::least_with("postgres:///app?host=/run/pg", url)
        .is_refused(&[("copyhold.toml:3:7: database.url names a file as sslrootcert, which is no file", todo)]);
}

#[test]
fn a_reference_names_one_thing_and_nothing_else() {
    let forms = "write \"the secret\", { env = \"NAME\" } or { file = \"/path\" }";
    for (reference, what, todo) in [
        ("{}", "names neither a variable nor a file", forms),
        ("{ env = \"A\", file = \"b\" }", "names both a variable and a file", "leave one of them out"),
        ("{ envv = \"A\" }", "has something other than env or file in its braces", forms),
        ("\"\"", "is empty", "give it a value"),
        ("7", "is a whole number, where text in quotes is needed", forms),
    ] {
        let what = format!("copyhold.toml:8:21: replicas.b2.secret_access_key {what}");
        Case::least_with("\"secret\"", reference).is_refused(&[(&what, todo)]);
    }
}

#[test]
fn a_key_with_a_stray_line_in_it_is_refused_here_and_not_by_the_store() {
    Case::least_with("\"secret\"", "{ file = \"b2\" }").file("b2", "key\nanother\n").is_refused(&[(
        "copyhold.toml:8:21: replicas.b2.secret_access_key contains blanks, line breaks or other characters that no key has",
        "give it the key alone",
    )]);
}

#[test]
fn keys_are_given_both_or_replaced_by_the_word_ambient() {
    Case::least_with("secret_access_key = \"secret\"\n", "").is_refused(&[(
        "copyhold.toml:4:11: replicas.b2.secret_access_key is missing",
        "write secret_access_key = { env = \"NAME\" } in this section",
    )]);
    Case::least_with("credentials = \"ambient\"", "credentials = \"ambient\"\naccess_key_id = \"id\"").is_refused(&[
        (
            "copyhold.toml:9:11: replicas.wasabi.secret_access_key is missing",
            "write secret_access_key = { env = \"NAME\" } in this section",
        ),
        (
            "copyhold.toml:12:15: replicas.wasabi.credentials and keys exclude each other",
            "remove credentials to use the keys, or the keys to use the AWS chain",
        ),
    ]);
    Case::least_with("credentials = \"ambient\"\n", "").is_refused(&[(
        "copyhold.toml:9:11: replicas.wasabi has no credentials",
        "set access_key_id and secret_access_key, or credentials = \"ambient\" for the AWS chain",
    )]);
    Case::least_with("\"ambient\"", "\"ambeint\"").is_refused(&[(
        "copyhold.toml:12:15: replicas.wasabi.credentials is \"ambeint\", not one of \"ambient\"",
        "did you mean \"ambient\"?",
    )]);
}

/// Marks that no other part of a configuration contains.
const SECRETS: [&str; 5] = ["GEHEIM1", "GEHEIM2", "GEHEIM3", "GEHEIM4", "GEHEIM5"];

#[test]
fn the_configuration_shows_its_secrets_as_asterisks() {
    let text = LEAST
        .replace("\"id\"", "\"GEHEIM1\"")
        .replace("\"secret\"", "\"GEHEIM2\"")
        .replace("postgres:///app?host=/run/pg", "postgres://me:GEHEIM3@localhost/app");
    let config = Case::of(text + "[http]\ntoken = \"GEHEIM5-of-16-letters\"\n[log]\nlevel = \"warn\"\n").config();
    let (shown, debugged) = (config.to_string(), format!("{config:?} {config:#?}"));
    for secret in SECRETS {
        assert!(!shown.contains(secret) && !debugged.contains(secret), "{shown}{debugged}");
    }
    assert!(debugged.contains("***"));
    insta::assert_snapshot!(shown, @r#"
    primary = "b2"

    [database]
    url = "postgres://me:***@localhost/app"
    schema = "copyhold"
    wakeup = "auto"

    [replicas.b2]
    endpoint = "https://s3.example.com"
    region = "us-east-1"
    bucket = "photos"
    path_style = true
    access_key_id = "***"
    secret_access_key = "***"
    read = true
    provider = "generic"

    [replicas.wasabi]
    endpoint = "https://s3.wasabisys.com"
    region = "us-east-1"
    bucket = "photos"
    path_style = true
    credentials = "ambient"
    read = true
    provider = "wasabi"

    [workers]
    count = 32
    reserved = 4
    memory = "256MiB"

    [lease]
    timeout = "90s"
    heartbeat = "30s"

    [guard]
    changed = "copy"

    [sweeper]
    every = "30s"

    [events]
    kinds = "all"
    keep_for = "7days"
    keep_bytes = "2GiB"
    buffer = "16MiB"
    readers = 2000

    [shutdown]
    grace = "60s"

    [http]
    listen = "127.0.0.1:9180"
    token = "***"

    [log]
    format = "auto"
    level = "warn"
    "#);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// However a file is damaged, no error text contains a part of a secret.
    #[test]
    fn no_report_contains_a_secret(line in 0usize..16, column in 0usize..60, junk in "[\\PC\n]{0,3}", drop in 0usize..4) {
        let text = LEAST
            .replace("\"id\"", "\"GEHEIM1\"")
            .replace("\"secret\"", "\"GEHEIM2\"")
            .replace("postgres:///app?host=/run/pg", "postgres://me:GEHEIM3@db.internal/app?password=GEHEIM4")
            + "[database.inner]\npassword_file = \"x\"\n[http]\ntoken = \"GEHEIM5\"\n";
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if let Some(line) = lines.get_mut(line) {
            let from = column.min(line.len());
            let to = (from + drop).min(line.len());
            line.replace_range(from..to, &junk);
        }
        if let Err(errors) = Case::of(lines.join("\n")).load() {
            let said = format!("{errors} {errors:?}");
            for secret in SECRETS {
                prop_assert!(!said.contains(secret), "{}", said);
            }
        }
    }

    /// Neither a file nor a variable, whatever is in it, makes the reader panic.
    #[test]
    fn anything_is_either_a_configuration_or_refused(text in "[a-z0-9_.=\\[\\]{}\"# \n-]{0,80}", name in "[A-Z_]{0,20}", value in "\\PC{0,20}") {
        for text in [text.clone(), format!("{LEAST}{text}")] {
            if let Err(errors) = Case::of(text).env(&format!("COPYHOLD_{name}"), &value).load() {
                prop_assert!(!errors.problems().is_empty());
            }
        }
    }

    /// What is shown can be read again, and means the same.
    #[test]
    fn what_is_shown_reads_as_the_same_configuration(
        count in 1i64..=1000, memory in 32u64..=4096, timeout_ms in 3_000u64..=3_600_000, grace in 0u64..=3_600,
        path_style: bool, read: bool, existing in prop::option::of(prop::sample::select(vec!["adopt", "overwrite"])),
        class in prop::option::of("[A-Z_]{1,12}"), remote: bool,
        provider in prop::option::of(prop::sample::select(Provider::ALL.to_vec())),
        parts in prop::option::of(1u32..=10_000), put in prop::option::of(5u64..=5_120), checks in prop::option::of(any::<bool>()),
    ) {
        let more = format!("[workers]\ncount = {count}\nmemory = \"{memory}MiB\"\n[lease]\ntimeout = \"{timeout_ms}ms\"\n[shutdown]\ngrace = \"{grace}s\"\n");
        let mut replica = format!("path_style = {path_style}\nread = {read}\ncredentials");
        replica.extend(existing.map(|word| format!("= \"ambient\"\nexisting = {word:?}\n#")));
        let mut text = format!("{LEAST}{more}").replace("credentials", &replica);
        if let Some(class) = class {
            text = text.replace("access_key_id", &format!("storage_class = {class:?}\naccess_key_id"));
        }
        let facts = [
            provider.map(|provider| format!("provider = {:?}\n", provider.as_str())),
            parts.map(|parts| format!("max_parts = {parts}\nmax_key_bytes = {}\n", parts.min(1024))),
            put.map(|mib| format!("max_put = \"{mib}MiB\"\nmax_object = \"{}B\"\n", (mib << 20) + 1)),
            checks.map(|checks| format!("checks_md5 = {checks}\nmd5_etags = {checks}\n")),
        ];
        text = text.replace("access_key_id", &format!("{}access_key_id", facts.into_iter().flatten().collect::<String>()));
        if remote {
            text = text.replace("https://s3.w", "http://s3.w").replace("path_style", "insecure = true\npath_style");
            text = text.replace("url = \"postgres:///app?host=/run/pg\"", "insecure = true\nurl = \"postgres://db.internal/app\"");
        }
        let shown = Case::of(text).config().to_string();
        prop_assert_eq!(Case::of(shown.clone()).config().to_string(), shown);
    }
}
