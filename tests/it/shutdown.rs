//! A daemon that shuts down leaves nothing half-done and nothing leased.

use std::process::Stdio;

use copyhold_sandbox::s3::{Fault, Op, PauseGate, When};
use copyhold_testkit::proxy::{Proxy, Transfer};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    harness::{Harness, cluster, eventually, printed, soon},
    metrics_http::{address, get},
};

#[tokio::test]
async fn the_first_signal_lets_copies_finish_and_claims_no_more() {
    let harness = Harness::new().await;
    let gate = PauseGate::new();
    harness.bucket("scw").order(Fault::Hold(gate.clone()), When::op(Op::PutObject).next(1));
    harness.upload("under way", "bytes").await;
    let mut daemon = harness.daemon().await;
    soon("the copy is under way", gate.holds(1)).await;
    daemon.signal(Signal::TERM);
    daemon.until_logged("claiming no more").await;
    harness.upload("too late", "bytes").await;
    gate.open();
    assert_eq!(daemon.exit_code().await, Some(0));
    let log = daemon.log();
    assert!(log.contains("Everything under way is finished") && !log.contains("Received a second signal"), "{log}");
    harness.until_copied("under way").await;
    assert_eq!(harness.bucket("wasabi").keys(), ["under way"]);
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.daemons").await.unwrap(), "0");
}

#[tokio::test]
async fn what_a_claim_leases_after_the_signal_is_released_at_once_and_not_copied() {
    let harness = Harness::new().await;
    let gate = PauseGate::new();
    harness.bucket("scw").order(Fault::Hold(gate.clone()), When::op(Op::PutObject).next(1));
    harness.upload("under way", "bytes").await;
    let mut daemon = harness.daemon().await;
    let address = address(&daemon).await;
    soon("the copy is under way", gate.holds(1)).await;
    harness.bucket("b2").put("late", "bytes");
    // The next claim waits for the table, and finds the row when it has it.
    let mut application = harness.pool.begin().await.unwrap();
    let held = "LOCK TABLE copyhold.object_copies IN ACCESS EXCLUSIVE MODE; SELECT copyhold.register('late')";
    sqlx::raw_sql(held).execute(&mut *application).await.unwrap();
    let waits =
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '-- %::claim%'";
    harness.until(waits).await;
    daemon.signal(Signal::TERM);
    daemon.until_logged("claiming no more").await;
    application.commit().await.unwrap();
    let claimed = "copyhold_claims_total 2";
    eventually(claimed, async || get(&address, "/metrics").await.1.contains(claimed)).await;
    gate.open();
    assert_eq!(daemon.exit_code().await, Some(0));
    assert_eq!(harness.bucket("wasabi").keys(), ["under way"]);
    let row = "SELECT lock IS NULL AND due_scw <= copyhold.now_utc_micro_seconds() FROM copyhold.object_copies
               WHERE object_key = 'late'";
    assert_eq!(harness.value(row).await.unwrap(), "true", "{}", daemon.log());
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.copy_failures").await.unwrap(), "0");
}

#[tokio::test]
async fn the_second_signal_releases_at_once_and_counts_no_attempt() {
    let harness = Harness::new().await;
    let gate = PauseGate::new();
    harness.bucket("scw").order(Fault::Hold(gate.clone()), When::op(Op::PutObject));
    harness.upload("photo", "bytes").await;
    let mut daemon = harness.daemon().await;
    soon("the copy is under way", gate.holds(1)).await;
    daemon.signal(Signal::INT);
    daemon.until_logged("claiming no more").await;
    daemon.signal(Signal::INT);
    assert_eq!(daemon.exit_code().await, Some(0));
    let row = "SELECT lock IS NULL AND scw IS NULL AND due_scw <= copyhold.now_utc_micro_seconds() FROM copyhold.object_copies";
    assert_eq!(harness.value(row).await.unwrap(), "true");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.copy_failures").await.unwrap(), "0");
}

#[tokio::test]
async fn a_hangup_is_logged_and_changes_nothing() {
    let harness = Harness::new().await;
    let mut daemon = harness.daemon_unawaited();
    // At its very beginning too: whatever has been logged by then, it listens.
    daemon.until_logged("Copyhold").await;
    daemon.signal(Signal::HUP);
    daemon.until_logged("Received SIGHUP and ignored it").await;
    daemon.until_logged("Copying to scw").await;
    daemon.signal(Signal::HUP);
    eventually("the second is logged", async || daemon.logged("Received SIGHUP and ignored it") == 2).await;
    harness.upload("photo", "bytes").await;
    harness.until_copied("photo").await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
    assert!(!daemon.log().contains("Received a second signal"), "{}", daemon.log());
}

#[tokio::test]
async fn a_hangup_ends_no_command_that_has_no_terminal() {
    let harness = Harness::new().await;
    let gate = PauseGate::new();
    for key in ["a", "b"] {
        harness.bucket("b2").put(key, "bytes");
    }
    harness.bucket("b2").order(Fault::Hold(gate.clone()), When::op(Op::ListObjectsV2).next(1));
    // A session of its own has no terminal.
    let program = harness.program(&["scan"]);
    // Nor is it to inherit from the test run that hangups are ignored, as under nohup.
    let mut command = tokio::process::Command::new("env");
    command
        .args(["--default-signal=HUP", "setsid", "--wait"])
        .arg(program.as_std().get_program())
        .args(program.as_std().get_args());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut scan = command.spawn().unwrap();
    let mut words = BufReader::new(scan.stderr.take().unwrap()).lines();
    soon("it lists", gate.holds(1)).await;
    let listing = Pid::from_raw(i32::try_from(scan.id().unwrap()).unwrap()).unwrap();
    kill_process(listing, Signal::HUP).unwrap();
    let is_said = async {
        while let Some(line) = words.next_line().await.unwrap() {
            if line.contains("received SIGHUP and ignored it") {
                return true;
            }
        }
        false
    };
    assert!(soon("it says that it goes on", is_said).await);
    gate.open();
    let output = soon("it ends", scan.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies").await.unwrap(), "2");
}

#[tokio::test]
async fn what_is_not_finished_within_the_grace_period_is_released() {
    let harness = Harness::with(crate::harness::Begin::Migrated, "[shutdown]\ngrace = \"1s\"\n").await;
    let gate = PauseGate::new();
    harness.bucket("scw").order(Fault::Hold(gate.clone()), When::op(Op::UploadPart));
    harness.upload("large", vec![7; 20 << 20]).await;
    let mut daemon = harness.daemon().await;
    soon("a part is under way", gate.holds(1)).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.object_copies WHERE lock IS NOT NULL").await.unwrap(), "0");
    for replica in ["wasabi", "scw"] {
        assert_eq!(harness.bucket(replica).uploads().len(), 0, "an upload was left behind at {replica}");
    }
}

#[tokio::test]
async fn it_ends_while_postgresql_has_never_been_there() {
    let harness = Harness::at("postgres://absent@127.0.0.1:1/nowhere".into(), "").await;
    let mut daemon = harness.daemon_unawaited();
    daemon.until_logged("Could not look at the schema").await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
}

/// How long it may take, its parts together, is a test of `daemon::last_words`.
#[tokio::test]
async fn a_database_that_hangs_keeps_no_daemon_from_ending() {
    let mut harness = Harness::with(crate::harness::Begin::Migrated, "[shutdown]\ngrace = \"1s\"\n").await;
    let proxy = Proxy::before(cluster().await.port()).await;
    let (before, through) = (harness.database_url(), proxy.url(&harness.database_url()));
    harness.rewrite(|text| text.replace(&before, &through));
    let gate = PauseGate::new();
    harness.bucket("scw").order(Fault::Hold(gate.clone()), When::op(Op::PutObject));
    let mut daemon = harness.daemon().await;
    daemon.until_logged("Copying to scw").await;
    harness.upload("photo", "bytes").await;
    soon("the copy is under way", gate.holds(1)).await;
    proxy.set(Transfer::Hole);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
    assert!(
        daemon.log().contains("did not stop in time") || daemon.log().contains("did not close in time"),
        "{}",
        daemon.log()
    );
}
