//! `migrate` is safe at any time: with others at work, twice at once, after one that was interrupted.

use copyhold_db::{
    lease::LanePosition,
    schema::{MigrateError, SCHEMA_VERSION, migrate},
};
use sqlx::Connection as _;

use crate::harness::{Begin, Harness, cluster, printed, replica, soon};

const GLACIER: &str = "[replicas.glacier]\nendpoint = \"http://127.0.0.1:1\"\nregion = \"x\"\nbucket = \"vault\"\n\
                       access_key_id = \"a\"\nsecret_access_key = \"b\"\n";

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let harness = Harness::with(Begin::Empty, "").await;
    let first = migrate(&harness.config).await.unwrap();
    assert_eq!((first.from_version, first.derived.columns_added.len(), first.derived.indexes_built.len()), (0, 3, 6));
    let again = migrate(&harness.config).await.unwrap();
    assert_eq!(
        (again.from_version, again.derived.columns_added.len(), again.derived.indexes_built.len()),
        (SCHEMA_VERSION, 0, 0)
    );
}

#[tokio::test]
async fn a_schema_of_the_last_development_version_is_taken_over_as_it_is() {
    let harness = Harness::new().await;
    harness.insert("kept").await;
    let columns = "SELECT md5(string_agg(attrelid::regclass || attname || atttypid, ',' ORDER BY attrelid, attnum))
                   FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE relnamespace = 'copyhold'::regnamespace";
    let before = harness.value(columns).await;
    harness
        .execute(
            "UPDATE copyhold.schema_version SET version = 7, oldest = 6;
             UPDATE copyhold._sqlx_migrations SET version = 7, checksum = 'of a file that is no more'",
        )
        .await;
    for command in ["run", "check"] {
        let output = harness.run(&[command]).await;
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(printed(&output).contains("run `copyhold migrate`"), "{command}: {}", printed(&output));
    }
    let output = harness.run(&["migrate", "--dry-run"]).await;
    assert!(printed(&output).contains("version 7 would become 8"), "{}", printed(&output));
    assert_eq!(migrate(&harness.config).await.unwrap().from_version, 7);
    assert_eq!(migrate(&harness.config).await.unwrap().from_version, SCHEMA_VERSION);
    assert_eq!(harness.value(columns).await, before);
    assert_eq!(harness.value("SELECT (version, oldest) FROM copyhold.schema_version").await.unwrap(), "(8,6)");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies").await.unwrap(), "1");
}

#[tokio::test]
async fn a_take_over_that_died_half_way_is_finished_by_the_next() {
    let harness = Harness::new().await;
    harness.execute("UPDATE copyhold.schema_version SET version = 7").await;
    assert_eq!(migrate(&harness.config).await.unwrap().from_version, 7);
    assert_eq!(harness.value("SELECT version FROM copyhold.schema_version").await.unwrap(), "8");
}

#[tokio::test]
async fn a_schema_of_an_older_development_version_is_refused_with_what_to_do() {
    let harness = Harness::new().await;
    harness.execute("UPDATE copyhold.schema_version SET version = 6, oldest = 6").await;
    for arguments in [&["migrate"][..], &["migrate", "--dry-run"], &["run", "--migrate"]] {
        let output = harness.run(arguments).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let text = printed(&output);
        assert!(text.contains("the schema \"copyhold\" is at version 6, of a development version"), "{text}");
        assert!(text.contains("first run `copyhold migrate` of the last build with schema version 7"), "{text}");
    }
    assert_eq!(harness.value("SELECT version FROM copyhold.schema_version").await.unwrap(), "6");
}

/// `migrations/README.md`: databases have recorded this text, and `migrate` refuses another one. Add a file instead.
#[tokio::test]
async fn a_migration_that_was_released_is_never_edited() {
    let harness = Harness::new().await;
    let checksums = "SELECT string_agg(version || ' ' || left(encode(checksum, 'hex'), 16), ', ' ORDER BY version)
                     FROM copyhold._sqlx_migrations";
    assert_eq!(harness.value(checksums).await.unwrap(), "8 39cd9df7e60dcbaa");
}

#[tokio::test]
async fn every_fixed_table_and_column_is_explained_by_a_comment() {
    let harness = Harness::with(Begin::Empty, "").await;
    migrate(&harness.config).await.unwrap();
    let unexplained = "SELECT string_agg(format('%s.%s', c.relname, a.attname), ', ' ORDER BY c.relname, a.attnum)
                       FROM pg_class c
                       JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                       WHERE c.relnamespace = 'copyhold'::regnamespace AND c.relkind IN ('r', 'p')
                         AND c.relname <> '_sqlx_migrations' AND a.attname !~ '^(due_)?(b2|scw|wasabi)$'
                         AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid) IS NULL)
                         AND NOT c.relispartition";
    assert_eq!(harness.value(unexplained).await, None);
}

#[tokio::test]
async fn several_that_migrate_at_once_do_not_get_into_each_others_way() {
    let harness = Harness::with(Begin::Empty, "").await;
    let all = futures::future::join_all((0..4).map(|_| migrate(&harness.config))).await;
    let mut columns = 0;
    for one in all {
        columns += one.unwrap().derived.columns_added.len();
    }
    assert_eq!(columns, 3);
}

#[tokio::test]
async fn an_index_that_was_left_half_built_is_built_again() {
    let harness = Harness::new().await;
    harness
        .execute(
            "UPDATE pg_index SET indisvalid = false
             WHERE indexrelid = 'copyhold.object_copies_wasabi_lane'::regclass",
        )
        .await;
    let done = migrate(&harness.config).await.unwrap();
    assert_eq!(done.derived.indexes_built, ["object_copies_wasabi_lane"]);
    let valid = "SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid = 'copyhold.object_copies'::regclass";
    assert_eq!(harness.value(valid).await.unwrap(), "true");
}

#[tokio::test]
async fn a_new_replica_makes_every_old_object_due_in_order_of_arrival() {
    let mut harness = Harness::new().await;
    for name in ["first", "second"] {
        harness.insert(name).await;
    }
    harness.rewrite(|text| text + GLACIER);
    migrate(&harness.config).await.unwrap();
    let daemon = harness.enlist(60).await;
    let leases = harness.claim(&daemon, "glacier", 1).await;
    assert_eq!(leases[0].key.as_str(), "first");
    harness.insert("third").await;
    let due = "SELECT due_glacier > 0 FROM copyhold.object_copies WHERE object_key = 'third'";
    assert_eq!(harness.value(due).await.unwrap(), "true");
}

#[tokio::test]
async fn an_open_reader_delays_the_migration_and_not_the_application() {
    let mut harness = Harness::new().await;
    harness.insert("before").await;
    let mut reader = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM copyhold.object_copies").execute(&mut *reader).await.unwrap();
    harness.rewrite(|text| text + GLACIER);
    let migration = tokio::spawn({
        let config = harness.config.clone();
        async move { migrate(&config).await.unwrap() }
    });
    // It has tried for the table and given up at least once.
    harness.until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%ADD COLUMN%')").await;
    for i in 0..50 {
        // Behind an ALTER that waits in the queue it would wait for as long as the reader reads.
        soon("an insert", harness.insert(&format!("meanwhile {i}"))).await;
    }
    assert!(!migration.is_finished());
    reader.commit().await.unwrap();
    soon("the migration ends", migration).await.unwrap();
}

#[tokio::test]
async fn a_database_of_another_encoding_is_refused() {
    let cluster = cluster().await;
    let mut admin = sqlx::PgConnection::connect(&cluster.url("postgres")).await.unwrap();
    sqlx::raw_sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0").execute(&mut admin).await.unwrap();
    let harness = Harness::at(cluster.url("latin"), "").await;
    let error = migrate(&harness.config).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Encoding(encoding) if encoding == "LATIN1"), "{error}");
}

#[tokio::test]
async fn a_schema_from_a_newer_version_is_refused_only_when_it_says_so() {
    let harness = Harness::new().await;
    harness.execute("UPDATE copyhold.schema_version SET version = 99").await;
    assert!(migrate(&harness.config).await.is_ok());
    harness.execute("UPDATE copyhold.schema_version SET oldest = 99").await;
    let output = harness.run(&["run"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("run a newer copyhold"), "{}", printed(&output));
    assert!(migrate(&harness.config).await.unwrap_err().to_string().contains("run a newer copyhold"));
}

#[tokio::test]
async fn without_a_schema_run_says_which_command_makes_it() {
    let harness = Harness::with(Begin::Empty, "").await;
    let output = harness.run(&["run"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("run `copyhold migrate`"), "{}", printed(&output));
}

#[tokio::test]
async fn everything_of_ours_lives_in_our_schema() {
    let harness = Harness::with(Begin::Empty, "").await;
    harness.execute("CREATE SCHEMA other").await;
    let mut harness = harness;
    harness.rewrite(|text| text.replace("[database]", "[database]\nschema = \"replication\""));
    migrate(&harness.config).await.unwrap();
    let elsewhere = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE n.nspname IN ('public', 'copyhold', 'other')";
    assert_eq!(harness.value(elsewhere).await.unwrap(), "0");
    assert_eq!(harness.value("SELECT count(*) FROM replication.object_copies").await.unwrap(), "0");
}

#[tokio::test]
async fn a_daemon_that_knows_fewer_replicas_goes_on_while_another_is_added() {
    let mut harness = Harness::new().await;
    for name in ["before", "after"] {
        harness.insert(name).await;
    }
    let (old_queue, old_daemon) = (harness.queue(), harness.enlist(60).await);
    let claim = async || {
        let claimed = old_queue.claim(&old_daemon, &replica("scw"), 1, LanePosition::BEGINNING).await.unwrap();
        let [lease] = &claimed.leases[..] else { panic!("{claimed:?}") };
        lease.replicas.iter().map(|r| (r.replica.to_string(), r.recorded, r.due)).collect::<Vec<_>>()
    };
    let known = [("b2", true, false), ("scw", false, true), ("wasabi", false, true)]
        .map(|(name, recorded, due)| (name.to_owned(), recorded, due));
    assert_eq!(claim().await, known);
    harness.rewrite(|text| text + GLACIER);
    migrate(&harness.config).await.unwrap();
    assert_eq!(claim().await, known);
}

#[tokio::test]
async fn a_claim_function_of_another_version_is_replaced_and_keeps_its_grants() {
    let mut harness = Harness::new().await;
    let role = format!("claims_{}", std::process::id());
    harness.execute(&format!("CREATE ROLE {role}; GRANT SELECT, UPDATE ON copyhold.object_copies TO {role}")).await;
    let functions = "SELECT string_agg(format('%s %s', oid, proname), ',' ORDER BY proname) FROM pg_proc
                     WHERE pronamespace = 'copyhold'::regnamespace";
    let before = harness.value(functions).await;
    migrate(&harness.config).await.unwrap();
    assert_eq!(harness.value(functions).await, before, "what is as it should be is not dropped");
    for name in ["one", "other"] {
        harness.insert(name).await;
    }
    let (daemon, queue) = (harness.enlist(60).await, harness.queue());
    let claim = async || queue.claim(&daemon, &replica("scw"), 1, LanePosition::BEGINNING).await.unwrap().leases.len();
    assert_eq!(claim().await, 1);
    harness
        .execute(
            "DROP FUNCTION copyhold.claim_scw;
             CREATE FUNCTION copyhold.claim_scw(most bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
        )
        .await;
    harness.rewrite(|text| text + GLACIER);
    migrate(&harness.config).await.unwrap();
    // On the connection that had prepared its call of the one before.
    assert_eq!(claim().await, 1);
    for name in ["claim_scw", "fresh_claim_wasabi", "claim_glacier", "fresh_claim_glacier", "next_due"] {
        let may = |role: &str| {
            format!(
                "SELECT bool_and(has_function_privilege('{role}', oid, 'EXECUTE')) FROM pg_proc
                 WHERE pronamespace = 'copyhold'::regnamespace AND proname = '{name}'"
            )
        };
        assert_eq!(harness.value(&may(&role)).await.as_deref(), Some("true"), "{name}");
        assert_eq!(harness.value(&may("public")).await.as_deref(), Some("false"), "{name}");
    }
    harness.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn an_older_program_leaves_alone_what_a_newer_one_has_made() {
    let harness = Harness::new().await;
    harness
        .execute(
            "UPDATE copyhold.schema_version SET version = 99;
             COMMENT ON FUNCTION copyhold.next_due IS 'newer'; COMMENT ON FUNCTION copyhold.register IS 'newer'",
        )
        .await;
    migrate(&harness.config).await.unwrap();
    let comments = "SELECT count(*) FROM pg_description WHERE description = 'newer'";
    assert_eq!(harness.value(comments).await.unwrap(), "2");
}
