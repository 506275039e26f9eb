//! Commands, the log and `/readyz` name at once the reason why PostgreSQL cannot be connected to.

use crate::{
    harness::{Begin, Harness, cluster, eventually, printed, soon},
    http::{self, Http},
    outages::with_own_cluster,
    rights::with_roles,
};

/// The answer of `/readyz` of a daemon with a known port.
async fn readiness(harness: &Harness) -> String {
    match Http(harness.config.http.listen).get("/readyz", &[]).await {
        Some(mut answer) => answer.line().await.unwrap_or_default(),
        None => String::new(),
    }
}

fn with_port(harness: &mut Harness) {
    let listen = format!("listen = \"127.0.0.1:{}\"", http::free_port());
    harness.rewrite(|text| text.replace("listen = \"127.0.0.1:0\"", &listen));
}

/// The output of a command that cannot connect with this URL.
async fn refusal(url: &str) -> String {
    let harness = Harness::at(url.to_owned(), "").await;
    let output = soon("the command ends", harness.run(&["status"])).await;
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    let migrate = soon("migrate ends", harness.run(&["migrate"])).await;
    assert_eq!(migrate.status.code(), Some(1), "{}", printed(&migrate));
    let said = printed(&output);
    let cause = said.split_once("PostgreSQL").unwrap().1.split(" (in ").next().unwrap();
    assert!(printed(&migrate).contains(cause), "{said} and {}", printed(&migrate));
    said
}

#[tokio::test]
async fn a_command_names_the_cause_of_a_refused_connection() {
    let cluster = cluster().await;
    let port = cluster.port();
    let said = refusal(&format!("postgres://u@127.0.0.1:{}/d", http::free_port())).await;
    assert!(said.contains("connection refused"), "{said}");
    let said = refusal(&format!("postgres://postgres:wrong-password@127.0.0.1:{port}/postgres")).await;
    assert!(said.contains("password authentication failed") && !said.contains("wrong-password"), "{said}");
    let said = refusal(&cluster.url("no_such_database")).await;
    assert!(said.contains("database \"no_such_database\" does not exist"), "{said}");
    let said = refusal(&format!("{}?sslmode=require", cluster.url("postgres"))).await;
    assert!(said.contains("TLS"), "{said}");
    let said = refusal("postgres:///d?user=u&host=/no/such/folder").await;
    assert!(said.contains("its socket does not exist"), "{said}");
    let said = refusal(&cluster.socket_url_as("no_such_role", "postgres")).await;
    assert!(said.contains("role \"no_such_role\" does not exist"), "{said}");
}

#[tokio::test]
async fn a_name_without_an_address_is_named_as_the_cause() {
    let harness = Harness::with(Begin::Empty, "").await;
    let mut output = harness.program(&["status"]);
    output.env("COPYHOLD_DATABASE__URL", "postgres://u@copyhold.invalid/d").env("COPYHOLD_DATABASE__INSECURE", "true");
    let said = printed(&soon("the command ends", output.output()).await.unwrap());
    assert!(said.contains("its host name") && said.contains("copyhold.invalid"), "{said}");
}

#[tokio::test]
async fn what_answers_and_is_no_postgresql_is_named_as_the_cause() {
    let harness = Harness::new().await;
    let port = url::Url::parse(&harness.s3.endpoint()).unwrap().port().unwrap();
    let said = refusal(&format!("postgres://u@127.0.0.1:{port}/d?sslmode=disable")).await;
    assert!(said.contains("is not PostgreSQL") || said.contains("was closed during the login"), "{said}");
}

#[tokio::test]
async fn a_daemon_says_at_its_start_and_in_readyz_that_connections_are_refused() {
    let mut harness = Harness::at("postgres://postgres@127.0.0.1:1/app".into(), "").await;
    with_port(&mut harness);
    let daemon = harness.daemon_unawaited();
    daemon
        .until_logged("No connection to PostgreSQL: cannot reach PostgreSQL at 127.0.0.1:1: connection refused")
        .await;
    // Before the statement that waits for it is given up.
    let log = daemon.log();
    let (cause, gave_up) = (log.find("connection refused").unwrap(), log.find("Could not look at the schema"));
    assert!(gave_up.is_none_or(|at| cause < at), "{log}");
    eventually("/readyz says so", async || readiness(&harness).await.contains("connection refused")).await;
}

#[tokio::test]
async fn a_daemon_whose_database_becomes_unavailable_reports_why_and_so_does_readyz() {
    let (mut cluster, mut harness) = with_own_cluster().await;
    with_port(&mut harness);
    let daemon = harness.daemon().await;
    eventually("it is ready", async || readiness(&harness).await == "ready").await;
    cluster.kill_server().await.unwrap();
    daemon.until_logged("connection refused").await;
    eventually("/readyz says so", async || readiness(&harness).await.contains("connection refused")).await;
    cluster.restart().await.unwrap();
    eventually("it is ready again", async || readiness(&harness).await == "ready").await;
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn too_many_connections_of_the_role_are_named_by_commands_the_log_and_readyz() {
    let (mut harness, _application) = with_roles("connections_of_role").await;
    with_port(&mut harness);
    let daemon = harness.daemon().await;
    eventually("it is ready", async || readiness(&harness).await == "ready").await;
    harness.execute("ALTER ROLE connections_of_role_daemon CONNECTION LIMIT 0").await;
    harness
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'connections_of_role_daemon'")
        .await;
    daemon.until_logged("too many connections for role").await;
    eventually("/readyz says so", async || readiness(&harness).await.contains("too many connections for role")).await;
    let said = printed(&soon("the command ends", harness.run(&["status"])).await);
    assert!(said.contains("too many connections for role"), "{said}");
    harness.execute("ALTER ROLE connections_of_role_daemon CONNECTION LIMIT -1").await;
    eventually("it is ready again", async || readiness(&harness).await == "ready").await;
}

#[tokio::test]
async fn a_daemon_whose_login_is_refused_at_its_start_ends_with_the_cause() {
    let port = cluster().await.port();
    let harness = Harness::at(format!("postgres://postgres:wrong-password@127.0.0.1:{port}/postgres"), "").await;
    let mut daemon = harness.daemon_unawaited();
    assert_eq!(soon("it ends", daemon.exit_code()).await, Some(1));
    assert!(daemon.log().contains("password authentication failed"), "{}", daemon.log());
    assert!(!daemon.log().contains("wrong-password"));
    assert!(!daemon.log().contains("no password is given"), "{}", daemon.log());
    let said = refusal(&format!("postgres://postgres@127.0.0.1:{port}/postgres")).await;
    assert!(said.contains("no password is given: name a file that holds it as database.password_file"), "{said}");
}

/// Forms of URLs as platforms hand them out.
#[tokio::test]
async fn sockets_and_parameters_of_other_clients_lead_where_they_say() {
    let cluster = cluster().await;
    let harness = Harness::new().await;
    let database = url::Url::parse(&harness.database_url()).unwrap().path().trim_start_matches('/').to_owned();
    let folder = cluster.folder().display().to_string();
    let (port, encoded) = (cluster.port(), folder.replace('/', "%2F"));
    for url in [
        format!("postgres://postgres@/{database}?host={folder}&port={port}"),
        format!("postgresql://postgres@/{database}?host={encoded}&port={port}"),
        format!("postgres:///{database}?host={folder}&port={port}&user=postgres"),
        format!("postgres://postgres@{encoded}:{port}/{database}"),
        format!("postgres:///?host={folder}&port={port}&user=postgres&dbname={database}"),
        format!("postgres://postgres@{encoded}:{port}/{database}?options=-c%20search_path%3Dpublic&connect_timeout=10"),
        format!("postgres://postgres@{encoded}:{port}/{database}?channel_binding=prefer&gssencmode=disable"),
        format!("postgres://postgres@/{database}?host={folder},{folder}&port={port}&target_session_attrs=read-write"),
        format!("{}?sslmode=allow", cluster.url(&database)),
    ] {
        let mut command = harness.program(&["status"]);
        let output = command.env("COPYHOLD_DATABASE__URL", &url).output().await.unwrap();
        assert!(output.status.success(), "{url}: {}", printed(&output));
    }
    let mut command = harness.program(&["status"]);
    let url = format!("{}?channel_binding=require", cluster.url(&database));
    let output = command.env("COPYHOLD_DATABASE__URL", &url).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(printed(&output).contains("has the parameter channel_binding"), "{}", printed(&output));
}
