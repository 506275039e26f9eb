//! The two roles of deploy/roles.sql can do their work and nothing else.

use std::time::Duration;

use copyhold_core::domain::Generation;
use copyhold_db::{
    lease::{StoredPart, UploadIntent},
    schema::migrate,
};
use sqlx::{Connection as _, PgConnection};

use crate::harness::{Harness, cluster, eventually, key, printed, replica, soon};

const ROLES: &str = include_str!("../../deploy/roles.sql");

/// A migrated database in which the daemon connects as its own role, and the application's connection.
pub async fn with_roles(database: &str) -> (Harness, PgConnection) {
    let cluster = cluster().await;
    cluster.create_database(database, None).await.unwrap();
    let mut harness = Harness::at(cluster.url(database), "").await;
    migrate(&harness.config).await.unwrap();
    let (daemon, application) = (format!("{database}_daemon"), format!("{database}_app"));
    harness.execute(&format!("CREATE ROLE {daemon} LOGIN; CREATE ROLE {application} LOGIN;")).await;
    harness.execute(&ROLES.replace("copyhold_daemon", &daemon).replace("copyhold_app", &application)).await;
    let url = cluster.socket_url_as(&daemon, database);
    harness.rewrite(|text| text.replace(&cluster.url(database), &url));
    let application = PgConnection::connect(&cluster.socket_url_as(&application, database)).await.unwrap();
    (harness, application)
}

#[tokio::test]
async fn the_daemons_role_is_all_that_a_daemon_needs() {
    let (harness, mut application) = with_roles("rights_of_daemon").await;
    harness.bucket("b2").put("photo", "bytes");
    harness.insert("gone").await;
    let mut daemon = harness.daemon().await;
    let insert =
        "INSERT INTO copyhold.object_copies (object_key, b2) VALUES ('photo', copyhold.now_utc_micro_seconds())";
    sqlx::raw_sql(insert).execute(&mut application).await.unwrap();
    harness.until_copied("photo").await;
    // Failures, the backlog, the farewell: every statement of it has been sent.
    harness.until("SELECT count(*) = 3 FROM copyhold.copy_failures").await;
    harness.until("SELECT bool_and(objects = 1) FROM copyhold.backlog").await;
    assert!(harness.run(&["status"]).await.status.success());
    assert!(harness.run(&["enqueue", "photo"]).await.status.success());
    let scan = harness.run(&["scan"]).await;
    assert!(scan.status.success(), "{}", printed(&scan));
    for command in [
        ["pause", "scw"].as_slice(),
        &["resume", "scw"],
        &["retry", "--failing"],
        &["park", "gone"],
        &["retry", "gone"],
        &["explain", "gone"],
        &["replica", "drain", "scw"],
        &["status", "--exact"],
        &["replica", "undrain", "scw"],
        &["replica", "reset", "scw", "--yes"],
        &["replica", "move", "scw", "--yes"],
        &["replica", "remove", "scw", "--check"],
        &["promote", "scw", "--check"],
        &["rules", "show"],
        &["rules", "apply"],
    ] {
        let output = harness.run(command).await;
        assert!(!printed(&output).contains("permission"), "{command:?}: {}", printed(&output));
    }
    // What other programs append, and what its sweeper does with the log.
    let appended = "SELECT copyhold.append_event('{\"kind\": \"door.opened\"}')";
    sqlx::raw_sql(appended).execute(&mut application).await.unwrap();
    harness.until("SELECT EXISTS (SELECT FROM copyhold.log WHERE event_data ->> 'kind' = 'door.opened')").await;
    harness.execute("DROP TABLE copyhold.log_1048576, copyhold.log_2097152").await;
    harness.until("SELECT count(*) = 3 FROM pg_inherits WHERE inhparent = 'copyhold.log'::regclass").await;
    // What fails meanwhile is in the event log as well, and must not keep its first page for a week.
    let dropped = async || {
        harness.execute("UPDATE copyhold.log SET date_created = now() - interval '8 days' WHERE id < 1048576").await;
        harness.value("SELECT dropped_through > 0 FROM copyhold.log_state").await.as_deref() == Some("true")
    };
    eventually("the first page is dropped", dropped).await;
    // What its journal and its sweeper write of uploads.
    let (queue, photo) = (harness.queue(), key("photo"));
    let (generation, replica) = (Generation(0), &replica("wasabi"));
    let intent = UploadIntent { key: &photo, generation, replica, size_bytes: 1, part_bytes: 1, origin: "b2" };
    let upload = queue.intend_upload(&intent).await.unwrap();
    assert!(queue.upload_began(upload, "x").await.unwrap());
    let part = StoredPart { upload, number: 1, etag: "y".into(), md5: [0; 16], crc: 0 };
    queue.record_parts(&[part]).await.unwrap();
    assert_eq!(queue.unfinished_uploads(&photo, generation).await.unwrap().len(), 1);
    queue.check_uploads(replica, Duration::ZERO).await.unwrap();
    assert_eq!(queue.count_uploads(replica).await.unwrap(), 1);
    queue.known_uploads(&photo, replica).await.unwrap();
    queue.forget_unserved_uploads().await.unwrap();
    assert_eq!(queue.end_uploads(&[upload]).await.unwrap(), [0_i64; 0]);
    // What a clock that was set back, and an event that is refused, have it write.
    assert!(queue.pull_in(true, Duration::from_secs(3)).await.unwrap().is_some());
    queue.defer_first_of_inbox().await.unwrap();
    // How it reads the log, and finds that it is another one.
    let head = queue.log_head().await.unwrap();
    assert!(head.sure);
    let part = queue.log_tail(head.mark.dropped_through, 1).await.unwrap();
    assert!(part.mark.last >= head.mark.last);
    queue.log_page(0, 512, 1).await.unwrap();
    assert!(queue.raise_log_incarnation(head.mark.incarnation).await.unwrap());
    // What verify takes back, and what it registers again.
    harness.until_copied("photo").await;
    harness.bucket("scw").damage("photo", 0);
    for (bytes, done) in [("bytes", "damaged at scw, due again"), ("other", "changed at b2, registered again")] {
        harness.bucket("b2").put("photo", bytes);
        let output = harness.run(&["verify", "--prefix", "p"]).await;
        assert!(printed(&output).contains(done), "{}", printed(&output));
        harness.until_copied("photo").await;
    }
    for primary in ["wasabi", "b2"] {
        let output = harness.run(&["promote", primary, "--accept-missing"]).await;
        assert!(output.status.success(), "{}", printed(&output));
    }
    // An object's row is the application's: not even an operator with the daemon's role deletes it.
    let output = harness.run(&["forget", "gone"]).await;
    assert_eq!(output.status.code(), Some(1));
    let text = printed(&output);
    assert!(text.contains("this role may not delete objects") && text.contains("COPYHOLD_DATABASE__URL"), "{text}");
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(soon("it ends", daemon.exit_code()).await, Some(0));
    assert!(!daemon.log().contains("permission denied"), "{}", daemon.log());
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.daemons").await.unwrap(), "0");
}

#[tokio::test]
async fn the_applications_role_registers_and_cannot_forge() {
    let (harness, mut application) = with_roles("rights_of_app").await;
    let mut may = async |sql: &'static str| sqlx::raw_sql(sql).execute(&mut application).await.is_ok();
    assert!(may("INSERT INTO copyhold.object_copies (object_key, b2, size_bytes) VALUES ('a', 1, 2)").await);
    assert!(may("SELECT copyhold.register('a', 3)").await);
    assert!(may("SELECT copyhold.register('b', 3, ARRAY['wasabi'])").await);
    assert!(may("SELECT copyhold.register_many('{a,b}', '{1,2}')").await);
    assert!(may("SELECT copyhold.unwant('b', '{wasabi}') AND copyhold.want('b', '{wasabi}')").await);
    assert!(may("SELECT copyhold.append_event('{\"kind\": \"door.opened\"}')").await);
    for forged in [
        "INSERT INTO copyhold.object_copies (object_key, wasabi) VALUES ('c', 1)",
        "INSERT INTO copyhold.object_copies (object_key, lock, lease) VALUES ('c', 1, 1)",
        "INSERT INTO copyhold.object_copies (object_key, generation) VALUES ('c', 1)",
        "UPDATE copyhold.object_copies SET wasabi = 1",
        "DELETE FROM copyhold.object_copies",
        "SELECT * FROM copyhold.object_copies",
        "UPDATE copyhold.replicas SET existing = 'overwrite'",
        "SELECT copyhold.wake_sleepers()",
        "SELECT copyhold.replicas_by_rule('a', 1)",
        "DELETE FROM copyhold.rules",
        "SELECT copyhold.append_event('{\"kind\": \"object.copied\"}')",
        "SELECT copyhold.append_log(ARRAY['{}'::jsonb])",
        "INSERT INTO copyhold.log (event_data) VALUES ('{}')",
        "INSERT INTO copyhold.log_inbox (event_data) VALUES ('{}')",
        "SELECT * FROM copyhold.log",
        "SELECT copyhold.drop_log_partition(0, 0)",
    ] {
        assert!(!may(forged).await, "{forged}");
    }
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies").await.unwrap(), "2");
}

/// What hardening guides take from PUBLIC, before anything of Copyhold's is made.
#[tokio::test]
async fn roles_work_where_public_has_no_rights() {
    let cluster = cluster().await;
    cluster.create_database("rights_hardened", None).await.unwrap();
    let mut harness = Harness::at(cluster.url("rights_hardened"), "").await;
    harness
        .execute(
            "CREATE ROLE hardened_owner LOGIN; CREATE ROLE hardened_daemon LOGIN; CREATE ROLE hardened_app LOGIN;
             REVOKE ALL ON SCHEMA public FROM PUBLIC; REVOKE ALL ON DATABASE rights_hardened FROM PUBLIC;
             GRANT CONNECT ON DATABASE rights_hardened TO hardened_owner, hardened_daemon, hardened_app;
             CREATE SCHEMA copyhold AUTHORIZATION hardened_owner;
             ALTER DEFAULT PRIVILEGES FOR ROLE hardened_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
             ALTER DEFAULT PRIVILEGES FOR ROLE hardened_owner REVOKE USAGE ON TYPES FROM PUBLIC",
        )
        .await;
    let before = harness.database_url();
    let (owner, daemon) = ("hardened_owner", "hardened_daemon");
    harness.rewrite(|text| text.replace(&before, &cluster.socket_url_as(owner, "rights_hardened")));
    migrate(&harness.config).await.unwrap();
    let mut as_owner = PgConnection::connect(&cluster.socket_url_as(owner, "rights_hardened")).await.unwrap();
    let roles = ROLES.replace("copyhold_daemon", daemon).replace("copyhold_app", "hardened_app");
    sqlx::raw_sql(sqlx::AssertSqlSafe(roles)).execute(&mut as_owner).await.unwrap();
    // Functions that are made anew keep the rights on them.
    migrate(&harness.config).await.unwrap();
    let owners = harness.database_url();
    harness.rewrite(|text| text.replace(&owners, &cluster.socket_url_as(daemon, "rights_hardened")));
    let check = harness.run(&["check"]).await;
    let text = printed(&check);
    assert!(text.contains("this role may do all that a daemon does") && text.contains("taken back"), "{text}");
    let running = harness.daemon().await;
    let mut application =
        PgConnection::connect(&cluster.socket_url_as("hardened_app", "rights_hardened")).await.unwrap();
    for key in ["inserted", "registered", "many"] {
        harness.bucket("b2").put(key, "bytes");
    }
    for statement in [
        "INSERT INTO copyhold.object_copies (object_key, b2) VALUES ('inserted', copyhold.now_utc_micro_seconds())",
        "SELECT copyhold.register('registered')",
        "SELECT copyhold.register_many(ARRAY['many'])",
        "SELECT copyhold.want('many', ARRAY['scw'])",
        "SELECT copyhold.append_event('{\"kind\": \"door.opened\"}')",
    ] {
        sqlx::raw_sql(statement).execute(&mut application).await.unwrap();
    }
    for key in ["inserted", "registered", "many"] {
        harness.until_copied(key).await;
    }
    harness.until("SELECT EXISTS (SELECT FROM copyhold.log WHERE event_data ->> 'kind' = 'door.opened')").await;
    assert!(!running.log().contains("permission denied"), "{}", running.log());
    // What is missing is named.
    sqlx::raw_sql("REVOKE UPDATE ON copyhold.object_copies FROM hardened_daemon").execute(&mut as_owner).await.unwrap();
    let check = harness.run(&["check"]).await;
    assert!(
        printed(&check).contains("this role lacks UPDATE on object_copies: run deploy/roles.sql"),
        "{}",
        printed(&check)
    );
}
