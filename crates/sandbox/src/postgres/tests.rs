//! Tests: nothing of a private cluster outlives the process that started it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Output, Stdio},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use super::*;
use crate::system_user::command;

async fn answer(url: &str) -> Result<i32, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query_scalar("select 1").fetch_one(&mut connection).await
}

async fn run(url: &str, statement: &'static str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn count(url: &str, of: &'static str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(of).fetch_one(&mut connection).await.unwrap()
}

/// Waits for an effect of another process that is not signalled.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(5);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within 5 min");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A folder in which every user may create one, as in /tmp.
fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    folder
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

#[tokio::test]
async fn a_cluster_answers_and_is_gone_after_stop() {
    let cluster = Cluster::start(Options::for_tests()).await.unwrap();
    let (folder, url) = (cluster.folder().to_path_buf(), cluster.url("postgres"));
    assert_eq!(answer(&url).await.unwrap(), 1);
    assert_eq!(answer(&cluster.socket_url("postgres")).await.unwrap(), 1);
    assert!(folder.exists());
    cluster.stop().await.unwrap();
    assert!(!folder.exists());
    assert!(answer(&url).await.is_err());
}

#[tokio::test]
async fn stop_removes_everything_even_if_the_guardian_was_killed() {
    let mut cluster = Cluster::start(Options::for_tests()).await.unwrap();
    let folder = cluster.folder().to_path_buf();
    cluster.guard.kill().await;
    cluster.stop().await.unwrap();
    assert!(!folder.exists());
}

#[tokio::test]
async fn a_killed_server_comes_back_on_its_port_with_what_was_committed() {
    comes_back(Options::default()).await;
    comes_back(Options::for_tests()).await;
}

async fn comes_back(options: Options) {
    let mut cluster = Cluster::start(options).await.unwrap();
    let url = cluster.url("postgres");
    run(&url, "create table kept as select generate_series(1, 1000)").await;
    let mut held = PgConnection::connect(&url).await.unwrap();
    cluster.kill_server().await.unwrap();
    assert!(sqlx::query("select 1").execute(&mut held).await.is_err(), "the connection is broken");
    assert!(answer(&url).await.is_err(), "no server listens");
    cluster.restart().await.unwrap();
    assert_eq!(count(&url, "select count(*) from kept").await, 1000);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_database_is_made_from_a_template_and_dropped_with_its_connections() {
    let cluster = Cluster::start(Options::for_tests()).await.unwrap();
    cluster.create_database("the \"template\"", None).await.unwrap();
    // A name in a URL is percent-encoded.
    run(&cluster.url("the%20%22template%22"), "create table things as select 1").await;
    cluster.create_database("copy", Some("the \"template\"")).await.unwrap();
    let url = cluster.url("copy");
    assert_eq!(count(&url, "select count(*) from things").await, 1);
    let _held = PgConnection::connect(&url).await.unwrap();
    cluster.drop_database("copy").await.unwrap();
    assert!(answer(&url).await.is_err());
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn options_reach_the_server_and_it_is_durable_unless_told_otherwise() {
    const SETTINGS: &str = "select count(*) from pg_settings where (name, setting) in \
        (('fsync', 'on'), ('full_page_writes', 'on'), ('synchronous_commit', 'on'), ('max_connections', '17'), ('work_mem', '64'))";
    let options = Options { max_connections: 17, ..Options::default() }.with("work_mem", "64kB");
    let cluster = Cluster::start(options.clone()).await.unwrap();
    assert_eq!(count(&cluster.url("postgres"), SETTINGS).await, 5);
    cluster.stop().await.unwrap();
    let cluster = Cluster::start(Options { durable: false, ..options }).await.unwrap();
    assert_eq!(count(&cluster.url("postgres"), SETTINGS).await, 3, "commits stay synchronous");
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn over_tcp_nobody_comes_in_without_the_password() {
    let cluster = Cluster::start(Options::for_tests()).await.unwrap();
    let port = cluster.port();
    for url in [
        format!("postgres://postgres@127.0.0.1:{port}/postgres"),
        format!("postgres://postgres:guess@127.0.0.1:{port}/postgres"),
    ] {
        let error = answer(&url).await.unwrap_err().to_string();
        assert!(error.contains("password"), "{error}");
    }
    run(&cluster.url("postgres"), "create role app login").await;
    assert_eq!(answer(&cluster.socket_url_as("app", "postgres")).await.unwrap(), 1);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_dropped_cluster_vanishes_without_being_awaited() {
    let parent = open_folder();
    let options = Options { parent: Some(parent.path().to_path_buf()), ..Options::for_tests() };
    let cluster = Cluster::start(options).await.unwrap();
    assert!(!is_empty(parent.path()));
    drop(cluster);
    eventually("the folder is gone", || is_empty(parent.path())).await;
}

#[tokio::test]
async fn a_start_that_is_given_up_half_way_leaves_nothing_behind() {
    let parent = open_folder();
    let options = Options { parent: Some(parent.path().to_path_buf()), ..Options::for_tests() };
    // While initdb works, and while the server comes up.
    for sign in ["data/PG_VERSION", "data/postmaster.pid"] {
        let starting = tokio::spawn(Cluster::start(options.clone()));
        eventually(sign, || {
            let folder = fs::read_dir(parent.path()).unwrap().next();
            folder.is_some_and(|folder| folder.unwrap().path().join(sign).exists())
        })
        .await;
        starting.abort();
        // Fails only if it was aborted or has just finished.
        let _ = starting.await;
        eventually("the folder is gone", || is_empty(parent.path())).await;
    }
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = Cluster::start(Options { port: Some(port), ..Options::for_tests() }).await.unwrap_err();
    assert!(matches!(error, SandboxError::PortTaken { port: named } if named == port), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_start_shows_the_end_of_its_log() {
    let error = Cluster::start(Options::for_tests().with("no_such_setting", "1")).await.unwrap_err().to_string();
    assert!(error.contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_is_refused_with_the_reason() {
    for (parent, reason) in
        [("/does/not/exist".to_owned(), "No such file"), (format!("/{}", "x".repeat(90)), "too long")]
    {
        let options = Options { parent: Some(parent.clone().into()), ..Options::for_tests() };
        let error = Cluster::start(options).await.unwrap_err().to_string();
        assert!(error.contains(&parent) && error.contains(reason), "{error}");
    }
}

#[test]
fn a_full_disk_is_called_that() {
    let log = "FATAL:  could not write to file \"pg_wal/xlogtemp.1\": No space left on device".to_owned();
    let error = SandboxError::of_log(log, Path::new("/tmp/x"), 1, "initdb failed");
    assert!(matches!(error, SandboxError::DiskFull { .. }), "{error}");
}

/// Runs one of the tests below in a process of its own, which does its part if the variable is set.
fn this_test_in_a_child(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", &format!("postgres::tests::{name}")]);
    command.env(PART, name).stdout(Stdio::piped());
    command
}

const PART: &str = "SANDBOX_TEST_PART";

fn is_the_child() -> bool {
    std::env::var_os(PART).is_some()
}

#[tokio::test]
async fn nothing_is_left_of_a_cluster_whose_owner_is_killed() {
    const NAME: &str = "nothing_is_left_of_a_cluster_whose_owner_is_killed";
    if is_the_child() {
        let cluster = Cluster::start(Options::for_tests()).await.unwrap();
        println!("\nfolder {}\nurl {}", cluster.folder().display(), cluster.url("postgres"));
        // Until killed.
        std::future::pending::<()>().await;
    }
    let mut owner = this_test_in_a_child(NAME).spawn().unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let (mut folder, mut url) = (String::new(), String::new());
    while url.is_empty() {
        let line = lines.next_line().await.unwrap().expect("the child says where its cluster is");
        folder = line.strip_prefix("folder ").map_or(folder, str::to_owned);
        url = line.strip_prefix("url ").map_or(url, str::to_owned);
    }
    assert_eq!(answer(&url).await.unwrap(), 1);
    // SIGKILL: the process cannot clean up anything itself.
    owner.kill().await.unwrap();
    eventually("the folder is gone", || !Path::new(&folder).exists()).await;
    assert!(answer(&url).await.is_err(), "the server is gone");
}

#[tokio::test]
async fn an_ordinary_user_can_have_a_cluster_too() {
    const NAME: &str = "an_ordinary_user_can_have_a_cluster_too";
    if is_the_child() || !rustix::process::geteuid().is_root() {
        let cluster = Cluster::start(Options::for_tests()).await.unwrap();
        assert!(cluster.account.is_none());
        assert_eq!(answer(&cluster.url("postgres")).await.unwrap(), 1);
        return cluster.stop().await.unwrap();
    }
    // In a folder where that user can run it: the build folder may be closed to that user.
    let folder = open_folder();
    let copy = folder.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let account = SystemUser::if_root().unwrap().unwrap();
    let mut child = command(&copy, Some(&account));
    child.args(["--exact", &format!("postgres::tests::{NAME}")]).env(PART, NAME);
    let Output { status, stdout, .. } = child.output().await.unwrap();
    let said = String::from_utf8_lossy(&stdout);
    assert!(status.success() && said.contains("1 passed"), "{said}");
}
