//! Tests: where a database URL leads.

use super::*;

const UNPROVEN: &str = "leads to another host without proof that it is the right one";
const PROVE_IT: &str = "append ?sslmode=verify-full (and &sslrootcert=/path/to/ca.pem for an authority of your own), \
    or set database.insecure = true if that network is private";
const FORM: &str = "write postgres://USER@HOST/DATABASE?sslmode=verify-full, special characters of a password as %XX";

fn with_url(url: &str) -> Case {
    Case::least_with("postgres:///app?host=/run/pg", url)
}

#[track_caller]
fn refuses(url: &str, what: &str, todo: &str) {
    with_url(url).is_refused(&[(&format!("copyhold.toml:3:7: database.url {what}"), todo)]);
}

#[test]
fn an_unverified_connection_to_another_host_needs_insecure() {
    for unproven in [
        "postgres://u@db.internal/app",
        "postgres://u@db.internal/app?sslmode=require",
        "postgres://u@db.internal/app?sslmode=verify-full&sslmode=prefer",
        "postgres://u@10.0.0.1/app?sslmode=disable",
        "postgres:///app?host=db.internal",
        "postgres://u@localhost/app?hostaddr=10.0.0.1",
    ] {
        refuses(unproven, UNPROVEN, PROVE_IT);
        let said =
            LEAST.replace("url = \"postgres:///app?host=/run/pg\"", &format!("insecure = true\nurl = {unproven:?}"));
        assert!(Case::of(said).load().is_ok(), "{unproven}");
    }
}

#[test]
fn a_verified_or_local_connection_is_accepted() {
    for good in [
        "postgres://u@db.internal/app?sslmode=verify-full",
        "postgresql://u:p%40ss@db.internal:6432/app?sslmode=VERIFY-CA",
        "postgres://u@localhost/app",
        "postgres://u@127.0.0.1:5433/app",
        "postgres://u@[::1]/app",
        "postgres://u@%2Fvar%2Frun%2Fpostgresql/app",
        "postgres:///app",
        "postgres:///app?host=/var/run/postgresql&user=u",
        "postgres://u@localhost/app?options[search_path]=x",
        "postgres://u@/app?host=/var/run/postgresql",
        "postgresql://u:p@/app?host=/cloudsql/project:region:instance",
        "postgres://u@%2Fcloudsql%2Fproject%3Aregion%3Ainstance/app",
        "postgres://u@db.internal/app?sslmode=verify-full&sslrootcert=system&channel_binding=prefer",
        "postgres://u@db.internal/app?sslrootcert=system",
        "postgres://u@localhost/app?gssencmode=disable&connect_timeout=10&target_session_attrs=any",
        "postgres://u@localhost/app?options=endpoint%3Dep-cool-123&sslmode=allow",
    ] {
        with_url(good).config();
    }
}

/// sqlx falls back to libpq's variables, and so must the question where it leads.
#[test]
fn a_url_without_a_host_leads_to_the_host_of_the_environment() {
    let case = with_url("postgres:///app").env("PGHOST", "db.internal");
    case.is_refused(&[(&format!("copyhold.toml:3:7: database.url {UNPROVEN}"), PROVE_IT)]);
    with_url("postgres:///app").env("PGHOST", "/run/pg").config();
}

#[test]
fn what_sqlx_would_ignore_or_misread_is_refused() {
    refuses("db.internal/app", "is not a URL", FORM);
    refuses("mysql://u@localhost/app", "does not begin with postgres://", FORM);
    refuses(
        "postgres://u@localhost/app?sslmod=verify-full",
        "has a parameter that would be ignored, number 1 of them",
        "did you mean sslmode?",
    );
    refuses(
        "postgres://u@localhost/app?sslmode=verify",
        "has the parameter sslmode, whose value is none of its own",
        "write one of disable, allow, prefer, require, verify-ca, verify-full",
    );
    refuses(
        "postgres://u@localhost/app?hostaddr=localhost",
        "has the parameter hostaddr, which is no address",
        "write an IP address, or the name as host",
    );
    refuses(
        "postgres://u@localhost/app?channel_binding=require",
        "has the parameter channel_binding, which Copyhold does not have",
        "remove it, and say sslmode=verify-full, which proves the server",
    );
}

#[test]
fn several_servers_obey_the_rules_one_by_one() {
    for good in [
        "postgres://u@a.internal,b.internal:6432/app?sslmode=verify-full&target_session_attrs=read-write",
        "postgres://u@localhost:5432,127.0.0.1:5433/app",
        "postgres:///app?host=/run/a,/run/b",
    ] {
        with_url(good).config();
    }
    refuses("postgres://u@localhost,db.internal/app", UNPROVEN, PROVE_IT);
    let todo = "write postgres://USER@HOST1:PORT1,HOST2:PORT2/DATABASE";
    refuses("postgres:///app?host=/run/a,/run/b&port=1,2,3", "does not name as many hosts as ports", todo);
    let todo = "remove target_session_attrs, or say read-write: Copyhold writes";
    let asks = "postgres://u@localhost/app?target_session_attrs=prefer-standby";
    refuses(asks, "asks for a server that is only read", todo);
    let todo = "name them in the URL";
    let case = with_url("postgres:///app").env("PGHOST", "a,b");
    case.is_refused(&[("copyhold.toml:3:7: database.url leaves it to PGHOST, which names several hosts", todo)]);
}

#[test]
fn certificates_that_the_url_names_must_be_there() {
    let todo = "give the full path of a PEM file";
    let url = |path: &str| format!("postgres://u@db.internal/app?sslmode=verify-full&sslrootcert={path}");
    refuses(&url("/does/not/exist.pem"), "names a file as sslrootcert, which cannot be found", todo);
    refuses(&url("/"), "names a file as sslrootcert, which is no file", todo);
    let case = Case::of("").file("ca.pem", "-----BEGIN CERTIFICATE-----").file("empty.pem", "");
    let path = |name: &str| case.folder.path().join(name).display().to_string();
    refuses(&url(&path("empty.pem")), "names a file as sslrootcert, which is empty", todo);
    with_url(&url(&path("ca.pem"))).config();
}

#[test]
fn the_listening_connection_obeys_the_same_rules() {
    let with_listen = |url: &str| Case::least_with("[replicas.b2]", &format!("listen_url = {url:?}\n[replicas.b2]"));
    with_listen("postgres://u@db.internal/app")
        .is_refused(&[(&format!("copyhold.toml:4:14: database.listen_url {UNPROVEN}"), PROVE_IT)]);
    assert!(with_listen("postgres://localhost/app").config().database.listen_url.is_some());
}

#[test]
fn a_url_can_be_kept_in_a_variable_because_it_may_hold_a_password() {
    let case = Case::least_with("\"postgres:///app?host=/run/pg\"", "{ env = \"DATABASE_URL\" }");
    let config = case.env("DATABASE_URL", "postgres://u:geheim@localhost/app").config();
    assert!(config.to_string().contains("postgres://u:***@localhost/app"), "{config}");
}

#[test]
fn a_password_has_one_place() {
    let with_file = |url: &str| {
        let text = LEAST.replace("postgres:///app?host=/run/pg\"", &format!("{url}\"\npassword_file = \"password\""));
        Case::of(text).file("password", "geheim\n")
    };
    assert!(with_file("postgres://u@localhost/app").config().database.password.is_some());
    for url in ["postgres://u:p@localhost/app", "postgres://u@localhost/app?password=p"] {
        with_file(url).is_refused(&[(
            "copyhold.toml:4:17: database.password_file and the password in database.url exclude each other",
            "remove one of them, better the one in the URL",
        )]);
    }
    let missing = LEAST.replace("[replicas.b2]", "password_file = \"nowhere\"\n[replicas.b2]");
    Case::of(missing).is_refused(&[(
        "copyhold.toml:4:17: database.password_file names the file nowhere, which does not exist",
        "create it, or correct the path",
    )]);
}
