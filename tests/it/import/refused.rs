//! A table that cannot be imported is refused before the first row, with all obstacles named.

use super::{ESSAY, imported, with_rows};
use crate::harness::{Harness, printed};

/// A table made so cannot be imported, and the error names all of this.
async fn assert_refused(table: &str, arguments: &[&str], said: &[&str]) {
    let harness = Harness::new().await;
    harness.execute(table).await;
    let (code, text) = imported(&harness, arguments).await;
    assert_eq!(code, 1, "{table}: {text}");
    for words in said {
        assert!(text.contains(words), "{table}: no {words} in\n{text}");
    }
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies").await.unwrap(), "0");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.imports").await.unwrap(), "0");
}

#[tokio::test]
async fn a_table_that_is_not_there_may_have_been_misspelt() {
    let harness = with_rows(1).await;
    let said = async |name: &str| printed(&harness.run(&["import", "--table", name]).await);
    assert!(said("objct_copies").await.contains("did you mean public.object_copies?"));
    assert!(said("public.object_copie").await.contains("did you mean public.object_copies?"));
    assert!(said("nothing like it").await.contains("those with a column object_key are public.object_copies"));
    assert!(said("a.b.c").await.contains("there is no table a.b.c"));
    assert!(said("copyhold.object_copies").await.contains("is in Copyhold's own schema"));
    harness.execute("DROP TABLE object_copies").await;
    assert!(said("x").await.contains("no table of this database has a column object_key"));
}

#[tokio::test]
async fn a_role_that_is_called_as_our_schema_means_the_other_programs_table_too() {
    let harness = with_rows(3).await;
    harness
        .execute(&format!(
            "ALTER DATABASE {} SET search_path = copyhold, public",
            harness.value("current_database()").await.unwrap()
        ))
        .await;
    let (code, text) = imported(&harness, &[]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("3 rows of public.object_copies read"), "{text}");
}

#[tokio::test]
async fn what_is_no_table_is_refused() {
    for (made, what) in [
        ("CREATE VIEW object_copies AS SELECT object_key, b2 FROM copyhold.object_copies", "is a view"),
        (
            "CREATE MATERIALIZED VIEW object_copies AS SELECT 'a'::text AS object_key, 1::bigint AS b2",
            "is a materialized view",
        ),
        ("CREATE SEQUENCE object_copies", "is no table"),
        (
            "CREATE TABLE object_copies (object_key text PRIMARY KEY, b2 bigint); CREATE TABLE heir () INHERITS (object_copies)",
            "other tables inherit from public.object_copies",
        ),
    ] {
        assert_refused(made, &[], &[what]).await;
    }
}

#[tokio::test]
async fn all_that_is_in_the_way_is_said_at_once() {
    let table =
        "CREATE TABLE object_copies (object_key bytea, b2 integer, wasabi timestamp, hot bigint, want_hot integer)";
    assert_refused(
        table,
        &["--map", "b2=b2,wasabi=wasabi,hoot=scw,hot=cold"],
        &[
            "6 things are in the way",
            "public.object_copies.object_key is bytea: keys are text",
            "--map: there is no replica \"cold\"; the configuration has b2, scw, wasabi",
            "public.object_copies.b2 is integer: the time of a copy is bigint or timestamp with time zone",
            "public.object_copies.wasabi is timestamp without time zone",
            "has no column \"hoot\"; did you mean hot?",
            "no index of public.object_copies begins with object_key, so that each batch would read all of it: CREATE INDEX \
             CONCURRENTLY ON public.object_copies (object_key)",
        ],
    )
    .await;
}

#[tokio::test]
async fn columns_that_are_missing_named_twice_or_of_another_type_are_refused() {
    for (table, arguments, said) in [
        ("CREATE TABLE object_copies (key text PRIMARY KEY, b2 bigint)", &[][..], "has no column object_key"),
        (
            "CREATE TABLE object_copies (objekt_key text PRIMARY KEY, b2 bigint)",
            &[],
            "RENAME COLUMN objekt_key TO object_key",
        ),
        ("CREATE TABLE object_copies (object_key char(9) PRIMARY KEY, b2 bigint)", &[], "object_key is character:"),
        (
            "CREATE TABLE object_copies (object_key text PRIMARY KEY, x bigint)",
            &[],
            "is called as a replica (b2, scw, wasabi): --map COLUMN=REPLICA",
        ),
        (ESSAY, &["--map", "b2=b2,b2=scw"], "column b2 is named twice"),
        (ESSAY, &["--map", "b2=b2,scw=b2"], "--map: b2 is named twice"),
        (ESSAY, &["--map", "b2=b2,scw=scv"], "did you mean scw?"),
        (ESSAY, &["--map", "wasabi=wasabi"], "no column stands for b2, the primary in force"),
        (
            "CREATE TABLE object_copies (object_key text PRIMARY KEY, b2 bigint, want_b2 text)",
            &[],
            "want_b2 is text: whether a copy is wanted is boolean",
        ),
    ] {
        assert_refused(table, arguments, &[said]).await;
    }
}

#[tokio::test]
async fn an_index_that_does_not_have_all_keys_is_none() {
    for index in [
        "CREATE INDEX part ON object_copies (object_key) WHERE b2 IS NULL",
        "CREATE INDEX ON object_copies (b2, object_key)",
        "CREATE INDEX ON object_copies USING hash (object_key)",
        "CREATE INDEX ON object_copies (lower(object_key))",
    ] {
        let said = if index.contains("part") {
            "begins with object_key (part is partial"
        } else {
            "begins with object_key, so"
        };
        assert_refused(&format!("CREATE TABLE object_copies (object_key text, b2 bigint); {index}"), &[], &[said])
            .await;
    }
}

#[tokio::test]
async fn a_primary_that_never_has_a_time_is_asked_about() {
    let table = "CREATE TABLE object_copies (object_key text PRIMARY KEY, b2 bigint, wasabi bigint, scw bigint);
                 INSERT INTO object_copies SELECT i::text, NULL, 1, 1 FROM generate_series(1, 100) i";
    assert_refused(table, &[], &["b2 has no time in any of", "--assume-primary says so"]).await;
    let nanos = "CREATE TABLE object_copies (object_key text PRIMARY KEY, b2 bigint);
                 INSERT INTO object_copies VALUES ('a', 1704067200000000000)";
    assert_refused(nanos, &[], &["has times in nanoseconds", "no unit that can be imported"]).await;
}

#[tokio::test]
async fn a_role_without_the_rights_gets_an_error_that_names_them() {
    let (harness, _) = crate::rights::with_roles("import_rights").await;
    let owner = Harness::at(crate::harness::cluster().await.url("import_rights"), "").await;
    owner.execute(ESSAY).await;
    owner.execute("INSERT INTO object_copies VALUES ('a', 1704067200000000)").await;
    let (code, text) = imported(&harness, &[]).await;
    assert_eq!(code, 1);
    assert!(text.contains("import_rights_daemon\" may not register objects for others"), "{text}");
    assert!(
        text.contains("may not read object_key, b2, wasabi, scw, lock of public.object_copies: GRANT SELECT ON"),
        "{text}"
    );
    owner.execute("GRANT SELECT ON object_copies TO import_rights_daemon").await;
    // To look, it need not write.
    let (code, text) = imported(&harness, &["--dry-run"]).await;
    assert_eq!(code, 0, "{text}");
    owner.execute("ALTER TABLE object_copies ENABLE ROW LEVEL SECURITY").await;
    assert!(imported(&harness, &["--dry-run"]).await.1.contains("row security decides which rows"));
    assert_eq!(imported(&owner, &[]).await.0, 0);
    // A role that may insert is enough.
    owner
        .execute(
            "CREATE ROLE import_rights_mover LOGIN; GRANT SELECT ON public.object_copies TO import_rights_mover;
             GRANT USAGE ON SCHEMA copyhold TO import_rights_mover;
             GRANT INSERT, SELECT ON copyhold.object_copies TO import_rights_mover;
             GRANT SELECT, INSERT, UPDATE ON copyhold.imports TO import_rights_mover;
             GRANT SELECT ON copyhold.replicas, copyhold.daemons, copyhold.resets TO import_rights_mover;
             GRANT USAGE ON SEQUENCE copyhold.generations TO import_rights_mover;
             ALTER TABLE public.object_copies DISABLE ROW LEVEL SECURITY;
             INSERT INTO public.object_copies VALUES ('b', 1704067200000000)",
        )
        .await;
    let url = crate::harness::cluster().await.socket_url_as("import_rights_mover", "import_rights");
    let mover = Harness::at(url, "").await;
    let (code, text) = imported(&mover, &[]).await;
    assert_eq!(code, 0, "{text}");
}
