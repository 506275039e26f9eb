//! Tests: every fault is reported with its place and a remedy.

use std::path::Path;

use super::*;
use crate::config::Position;

const NOTHING: [(String, String); 0] = [];

#[test]
fn a_dozen_problems_are_reported_at_once_in_the_order_of_the_file() {
    let case = Case::of(
        r#"primary = "b3"
[database]
url = "postgres://copyhold:geheim@db.internal/app"
[replicas.b2]
endpoint = "s3.example.com"
bucket = "photos"
access_key_id = { env = "B2_KEY_ID" }
secret_access_key = { file = "b2_secret" }
[replicas.lock]
endpoint = "http://s3.example.com"
bucket = "copies"
credentials = "ambient"
[workers]
cuont = 16
memory = "1MiB"
[lease]
timeout = "90s"
heartbeat = "80s"
[sweeper]
every = 30
"#,
    )
    .env("COPYHOLD_LOG__FORMAT", "jsno");
    insta::assert_snapshot!(case.report(), @r#"
    copyhold.toml:1:11: primary is "b3", but there is no [replicas.b3]
        did you mean "b2"?
    copyhold.toml:3:7: database.url leads to another host without proof that it is the right one
        append ?sslmode=verify-full (and &sslrootcert=/path/to/ca.pem for an authority of your own), or set database.insecure = true if that network is private
    copyhold.toml:5:12: replicas.b2.endpoint has no scheme
        write it as https://HOST or https://HOST:PORT
    copyhold.toml:7:25: replicas.b2.access_key_id names the variable B2_KEY_ID, which is not set
        set B2_KEY_ID in the daemon's environment, or name another
    copyhold.toml:8:30: replicas.b2.secret_access_key names the file b2_secret, which does not exist
        create it, or correct the path
    copyhold.toml:9:11: replicas.lock has the name of a column that the table has anyway
        give it another name
    copyhold.toml:10:12: replicas.lock.endpoint is plain http to s3.example.com
        write https://, or set insecure = true in this section if that network is private
    copyhold.toml:14:1: there is no setting workers.cuont
        did you mean count?
    copyhold.toml:15:10: workers.memory is 1MiB, less than 32MiB
        set it to something from 32MiB to 1TiB
    copyhold.toml:18:13: lease.heartbeat is 80s, not well under lease.timeout of 90s
        set it to a third of the timeout or less: 30s
    copyhold.toml:20:9: sweeper.every is a whole number, where a duration is needed
        write a number with its unit in quotes: "500ms", "90s", "5m" or "1h 30m"
    COPYHOLD_LOG__FORMAT: log.format is "jsno", not one of "auto", "text", "json"
        did you mean "json"?
    "#);
}

const UNITS: &str = r#"write a number with its unit in quotes: "500ms", "90s", "5m" or "1h 30m""#;

#[test]
fn a_file_that_is_not_there_is_named_with_the_way_to_another() {
    let missing = Path::new("/does/not/exist.toml");
    let errors = load(missing, NOTHING).unwrap_err();
    insta::assert_snapshot!(errors, @r"
    /does/not/exist.toml: there is no such file
        create it, or name another with --config PATH or COPYHOLD_CONFIG
    ");
    let folder = load(Path::new("/"), NOTHING).unwrap_err();
    insta::assert_snapshot!(folder, @r"
    /: it is a folder
        name the file in it, or name another with --config PATH or COPYHOLD_CONFIG
    ");
}

#[test]
fn a_file_that_is_not_utf8_is_refused_at_the_first_bad_byte() {
    let case = Case::of("");
    fs::write(case.path(), b"primary = \"b2\"\nlevel = \"\xff\"\n").unwrap();
    let errors = load(&case.path(), NOTHING).unwrap_err();
    let [problem] = errors.problems() else { panic!("{errors}") };
    assert_eq!(problem.position, Position::Position { line: 2, column: 10 });
}

#[test]
fn all_errors_of_syntax_are_reported_one_a_line_and_no_setting_is_called_missing() {
    let report = Case::of("primary = b2\n[database]\nurl = \"x\"\nurl = \"y\"\n[log\n").report();
    let places: Vec<&str> = report.lines().filter(|line| !line.starts_with(' ')).map(|line| &line[..16]).collect();
    assert_eq!(places, ["copyhold.toml:1:", "copyhold.toml:4:", "copyhold.toml:5:"], "{report}");
    assert!(!report.contains("missing"), "{report}");
}

#[test]
fn a_line_that_is_not_toml_is_reported_with_the_remedy() {
    let told = |line: &str| {
        let report = Case::least_with("primary = \"b2\"", line).report();
        report.lines().take(2).map(str::trim).collect::<Vec<_>>().join(" | ")
    };
    for (line, what) in [
        ("primary = first", "11: not TOML: the value of primary is not in quotes | write primary = \"first\""),
        (
            "primary = “first”",
            "11: not TOML: the value of primary is in quotes of another kind | write primary = \"first\", with straight quotes",
        ),
        (
            "primary = \"first",
            "17: not TOML: the quote in front of the value of primary is not closed | write primary = \"first\"",
        ),
        ("primary: \"first\"", "8: not TOML: a colon follows primary | write = between primary and its value"),
        ("primary = # b2", "11: not TOML: primary has no value | write primary = \"…\""),
        // Any other value may be a secret.
        ("secret = geheim", "10: not TOML: the value of secret is not in quotes | write secret = \"…\""),
    ] {
        assert_eq!(told(line), format!("copyhold.toml:1:{what}"));
    }
}

#[test]
fn a_primary_that_is_missing_is_one_of_the_replicas_that_there_are() {
    Case::of(LEAST.replace("primary = \"b2\"\n", "").replace("replicas.b2", "replicas.first"))
        .is_refused(&[("copyhold.toml: primary is missing", "write primary = \"first\" above the first section")]);
}

#[test]
fn an_empty_file_lacks_everything_that_has_no_default() {
    insta::assert_snapshot!(Case::of("").report(), @r#"
    copyhold.toml: database.url is missing
        write a section [database] with url = "postgres://copyhold@db.internal/app?sslmode=verify-full"
    copyhold.toml: primary is missing
        write primary = "b2" above the first section
    copyhold.toml: there is no replica
        write a section [replicas.NAME] for each bucket, two at least
    "#);
}

#[test]
fn an_unknown_setting_is_refused_with_the_one_that_was_meant() {
    Case::least_and("[lease]\ntimout = \"90s\"\n[wrokers]\ncount = 3\n").is_refused(&[
        ("copyhold.toml:14:1: there is no setting lease.timout", "did you mean timeout?"),
        ("copyhold.toml:15:2: there is no setting wrokers", "did you mean [workers]?"),
    ]);
    Case::least_with("bucket = \"photos\"", "bucket = \"photos\"\nbuckets = 1")
        .is_refused(&[("copyhold.toml:7:1: there is no setting replicas.b2.buckets", "did you mean bucket?")]);
}

#[test]
fn a_setting_below_the_wrong_section_is_sent_to_its_own() {
    Case::of(LEAST.replacen("primary = \"b2\"\n[database]\n", "[database]\nprimary = \"b2\"\n", 1)).is_refused(&[
        ("copyhold.toml: primary is missing", r#"write primary = "b2" above the first section"#),
        (
            "copyhold.toml:2:1: there is no setting database.primary",
            "did you mean primary at the top level? Write it above the first section",
        ),
    ]);
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_with_the_right_one() {
    Case::least_and("[workers]\ncount = \"32\"\nmemory = 268435456\n[lease]\ntimeout = 1.5\n[log]\nlevel = []\n")
        .is_refused(&[
            (
                "copyhold.toml:14:9: workers.count is text, where a whole number is needed",
                "write digits alone, without quotes or unit",
            ),
            (
                "copyhold.toml:15:10: workers.memory is a whole number, where a size is needed",
                r#"write a number with its unit in quotes: "256MiB" or "1GiB""#,
            ),
            ("copyhold.toml:17:11: lease.timeout is a fraction, where a duration is needed", UNITS),
            ("copyhold.toml:19:9: log.level is a list, where text in quotes is needed", "write it in quotes"),
        ]);
}

#[test]
fn a_value_in_the_place_of_a_section_is_refused_without_calling_its_settings_missing() {
    Case::of(
        "database = \"postgres:///app\"\n".to_owned()
            + &LEAST.replacen("[database]\nurl = \"postgres:///app?host=/run/pg\"\n", "", 1),
    )
    .is_refused(&[(
        "copyhold.toml:1:1: database is a section, not a value",
        "write [database] and its settings below that",
    )]);
}

#[test]
fn bad_durations_and_sizes_are_refused() {
    for bad in ["ninety", "90", "90 lightyears", "-5s"] {
        let what = format!("copyhold.toml:14:11: lease.timeout is {bad:?}, which is no duration");
        Case::least_and(&format!("[lease]\ntimeout = {bad:?}\n")).is_refused(&[(&what, UNITS)]);
    }
    for bad in ["much", "256MiBB", "-1MiB"] {
        let what = format!("copyhold.toml:14:10: workers.memory is {bad:?}, which is no size");
        let todo = r#"write a number with its unit in quotes: "256MiB" or "1GiB""#;
        Case::least_and(&format!("[workers]\nmemory = {bad:?}\n")).is_refused(&[(&what, todo)]);
    }
}

#[test]
fn workers_kept_for_fresh_objects_leave_some_to_a_backlog() {
    let what = "copyhold.toml:15:12: workers.reserved is 8, which leaves none of the 8 in workers.count to a backlog";
    let todo = "set it to less than 8; an eighth is usual";
    Case::least_and("[workers]\ncount = 8\nreserved = 8\n").is_refused(&[(what, todo)]);
}

#[test]
fn impossible_amounts_are_refused_with_the_bounds() {
    let cases = [
        ("[workers]\ncount = 0", "14:9: workers.count is 0, less than 1", "1 to 1000"),
        ("[workers]\ncount = 1001", "14:9: workers.count is 1001, more than 1000", "1 to 1000"),
        ("[workers]\nmemory = \"31MiB\"", "14:10: workers.memory is 31MiB, less than 32MiB", "32MiB to 1TiB"),
        ("[lease]\ntimeout = \"2s\"", "14:11: lease.timeout is 2s, less than 3s", "3s to 1h"),
        ("[lease]\ntimeout = \"2h\"", "14:11: lease.timeout is 2h, more than 1h", "3s to 1h"),
        ("[lease]\nheartbeat = \"0s\"", "14:13: lease.heartbeat is 0s, less than 100ms", "100ms to 1h"),
        ("[sweeper]\nevery = \"1ms\"", "14:9: sweeper.every is 1ms, less than 100ms", "100ms to 1h"),
        ("[events]\nkeep_for = \"1m\"", "14:12: events.keep_for is 60s, less than 1h", "1h to 10years"),
        ("[events]\nbuffer = \"1B\"", "14:10: events.buffer is 1B, less than 1MiB", "1MiB to 1GiB"),
        ("[events]\nreaders = 0", "14:11: events.readers is 0, less than 1", "1 to 100000"),
        ("[shutdown]\ngrace = \"2h\"", "14:9: shutdown.grace is 2h, more than 1h", "0s to 1h"),
    ];
    for (text, what, bounds) in cases {
        let todo = format!("set it to something from {bounds}");
        Case::least_and(text).is_refused(&[(&format!("copyhold.toml:{what}"), &todo)]);
    }
    Case::least_and("[workers]\ncount = 99999999999999999999")
        .is_refused(&[("copyhold.toml:14:9: workers.count is beyond all bounds", "write a smaller number")]);
}

#[test]
fn a_kind_of_event_that_does_not_exist_is_refused_with_the_one_that_was_meant() {
    Case::least_and("[events]\nkinds = \"copy.failed, copy.parkd\"").is_refused(&[(
        "copyhold.toml:14:9: events.kinds has \"copy.parkd\", which is no kind of event",
        "did you mean \"copy.parked\"?",
    )]);
}

#[test]
fn a_heartbeat_must_be_at_most_a_third_of_the_lease() {
    let case = |timeout: &str, heartbeat: &str| {
        Case::least_and(&format!("[lease]\ntimeout = {timeout:?}\nheartbeat = {heartbeat:?}\n"))
    };
    assert!(case("90s", "30s").load().is_ok());
    case("90s", "31s").is_refused(&[(
        "copyhold.toml:15:13: lease.heartbeat is 31s, not well under lease.timeout of 90s",
        "set it to a third of the timeout or less: 30s",
    )]);
    // Against the default as well.
    Case::least_and("[lease]\nheartbeat = \"2m\"\n").is_refused(&[(
        "copyhold.toml:14:13: lease.heartbeat is 2m, not well under lease.timeout of 90s",
        "set it to a third of the timeout or less: 30s",
    )]);
}

#[test]
fn a_timeout_that_is_wrong_is_not_held_against_the_heartbeat() {
    Case::least_and("[lease]\ntimeout = \"soon\"\nheartbeat = \"40s\"\n")
        .is_refused(&[("copyhold.toml:14:11: lease.timeout is \"soon\", which is no duration", UNITS)]);
}

#[test]
fn words_out_of_a_few_are_refused_with_the_choice() {
    Case::least_with("access_key_id", "existing = \"adapt\"\naccess_key_id").is_refused(&[(
        "copyhold.toml:7:12: replicas.b2.existing is \"adapt\", not one of \"adopt\", \"overwrite\"",
        "did you mean \"adopt\"?",
    )]);
    Case::least_and("[log]\nformat = \"xml\"\n").is_refused(&[(
        "copyhold.toml:14:10: log.format is \"xml\", not one of \"auto\", \"text\", \"json\"",
        r#"write "auto" or "text" or "json""#,
    )]);
}

#[test]
fn an_address_to_listen_on_needs_a_port() {
    for bad in ["127.0.0.1", ":9180", "localhost:9180", "::1:9180", "0.0.0.0:70000"] {
        Case::least_and(&format!("[http]\nlisten = {bad:?}\n")).is_refused(&[(
            &format!("copyhold.toml:14:10: http.listen is {bad:?}, not an address with a port"),
            r#"write "127.0.0.1:9180", "0.0.0.0:9180" for all interfaces, or "[::1]:9180""#,
        )]);
    }
    for good in ["0.0.0.0:9180", "[::]:9180", "[::1]:0"] {
        assert!(Case::least_and(&format!("[http]\nlisten = {good:?}\n")).load().is_ok(), "{good}");
    }
}

#[test]
fn a_slip_in_a_level_does_not_silence_the_log() {
    Case::least_and("[log]\nlevel = \"inof\"\n")
        .is_refused(&[("copyhold.toml:14:9: log.level has \"inof\", which is no level", "did you mean \"info\"?")]);
    Case::least_and("[log]\nlevel = \"info,copyhold\"\n").is_refused(&[(
        "copyhold.toml:14:9: log.level has \"copyhold\", which is no level",
        r#"write off, error, warn, info, debug or trace; for a module "info,copyhold_s3=debug""#,
    )]);
    assert!(Case::least_and("[log]\nlevel = \"info,copyhold_s3=loud\"\n").load().is_err());
    for good in ["warn", "INFO", "info,copyhold_s3=debug", "off"] {
        assert!(Case::least_and(&format!("[log]\nlevel = {good:?}\n")).load().is_ok(), "{good}");
    }
}

#[test]
fn a_schema_must_have_a_name_of_its_own() {
    let case = |name: &str| Case::least_with("[database]", &format!("[database]\nschema = {name:?}"));
    case("Copyhold").is_refused(&[(
        "copyhold.toml:3:10: database.schema is \"Copyhold\", which is no name for a schema",
        "begin with a lower-case letter, then up to 30 of a-z, 0-9 and _",
    )]);
    case("pg_copyhold").is_refused(&[(
        "copyhold.toml:3:10: database.schema is \"pg_copyhold\", which PostgreSQL keeps for itself",
        r#"choose another name; the default is "copyhold""#,
    )]);
}

#[test]
fn a_token_that_could_be_guessed_or_that_no_header_carries_is_refused_without_being_shown() {
    for (token, what, todo) in [
        ("geheim", "is shorter than 16 characters, and could be guessed", "make one with `openssl rand -hex 32`"),
        (
            "geheim geheim geheim",
            "contains blanks, line breaks or other characters that no token has",
            "give it the token alone",
        ),
    ] {
        let what = format!("copyhold.toml:14:9: http.token {what}");
        Case::least_and(&format!("[http]\ntoken = {token:?}\n")).is_refused(&[(&what, todo)]);
    }
    assert!(Case::least_and("[http]\ntoken = \"sixteen-letters-\"\n").load().is_ok());
}
