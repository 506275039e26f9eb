//! Rules decide which replicas objects are wanted at, and are applied to the objects that are there without holding others up.

use std::time::Duration;

use copyhold_core::domain::{Failure, FailureClass, NextAttempt, Outcome, ReplicaName, Verified};
use copyhold_db::{
    Database,
    lease::{LanePosition, Report},
    rules::{ApplyProgress, ApplyResult, ApplyScope, PartSizes, ReplicaChanges},
    schema::migrate,
    sql::PARKED,
};
use serde_json::Value;
use sqlx::Connection as _;
use tokio_util::sync::CancellationToken;

use crate::harness::{Harness, key, printed, replica, soon};

const SIZES: PartSizes = PartSizes { whole_up_to: 16, part_bytes: 16, max_parts: 10_000 };

/// A harness with these rules in force.
async fn harness(rules: &str) -> Harness {
    let mut harness = Harness::new().await;
    in_force(&mut harness, rules).await;
    harness
}

/// Puts other rules into the configuration, and in force.
pub async fn in_force(harness: &mut Harness, rules: &str) {
    harness.rewrite(|text| format!("{}\n{rules}", text.split("[[rules]]").next().unwrap()));
    migrate(&harness.config).await.unwrap();
}

/// The replicas that want a copy, by name and with commas between.
pub async fn wanted(harness: &Harness, key: &str) -> String {
    let due = ["b2", "scw", "wasabi"].map(|r| format!("CASE WHEN due_{r} IS NOT NULL THEN '{r}' END"));
    let query =
        format!("SELECT concat_ws(',', {}) FROM copyhold.object_copies WHERE object_key = '{key}'", due.join(", "));
    harness.value(&query).await.unwrap()
}

fn running(queue: &Database) -> (tokio::task::JoinHandle<ApplyResult>, CancellationToken) {
    let (queue, stop) = (queue.clone(), CancellationToken::new());
    let (token, runtime) = (stop.clone(), tokio::runtime::Handle::current());
    let run = move || {
        let scope = ApplyScope::everything(&queue, SIZES);
        runtime.block_on(queue.apply_rules(&scope, &ApplyProgress::default(), &token)).unwrap()
    };
    (tokio::task::spawn_blocking(run), stop)
}

async fn apply(harness: &Harness) -> ApplyResult {
    let applied = soon("the rules are applied", running(&harness.queue()).0).await.unwrap();
    assert!(applied.complete, "{applied:?}");
    applied
}

/// So many objects of 10 bytes, `p/` and five digits, wanted everywhere.
async fn fill(harness: &Harness, objects: u32) {
    harness
        .execute(&format!(
            "INSERT INTO copyhold.object_copies (object_key, size_bytes, b2)
             SELECT 'p/' || lpad(i::text, 5, '0'), 10, 1 FROM generate_series(1, {objects}) i"
        ))
        .await;
}

const ONLY_B2: &str = "[[rules]]\nprefix = \"p/\"\nreplicas = [\"b2\"]\n";
const NOT_SCW: &str = "[[rules]]\nprefix = \"p/\"\nreplicas = [\"b2\", \"wasabi\"]\n";

#[tokio::test]
async fn the_rules_of_the_configuration_come_into_force_once_and_are_told() {
    let mut harness = Harness::new().await;
    let version = "SELECT version || '/' || applied FROM copyhold.rules_state";
    assert_eq!(harness.value(version).await.unwrap(), "0/0");
    harness.insert("old").await;
    let rules = "[[rules]]\nprefix = \"it's, \\\"x\\\"/\"\nmin_size = \"1KiB\"\nmax_size = \"2KiB\"\n\
                 replicas = [\"wasabi\", \"b2\"]\n[[rules]]\nreplicas = [\"b2\"]\n";
    in_force(&mut harness, rules).await;
    in_force(&mut harness, rules).await;
    assert_eq!(harness.value(version).await.unwrap(), "1/0");
    let state = harness.queue().rules_state().await.unwrap();
    assert_eq!(state.rules, harness.config.rules);
    let events = "SELECT json_agg(event_data) FROM copyhold.log WHERE event_data ->> 'kind' = 'replica.rules_changed'";
    let events: Value = serde_json::from_str(&harness.value(events).await.unwrap()).unwrap();
    assert_eq!(events.as_array().unwrap().len(), 1, "{events}");
    assert_eq!(events[0]["version"], 1);
    let first = serde_json::json!({ "prefix": "it's, \"x\"/", "min_bytes": 1024, "max_bytes": 2048, "replicas": ["wasabi", "b2"] });
    assert_eq!(events[0]["rules"][0], first);
    // Fewer of them, then none: nothing is left to be judged by.
    in_force(&mut harness, "[[rules]]\nreplicas = [\"b2\"]\n").await;
    assert_eq!(harness.value(version).await.unwrap(), "2/0");
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.rules").await.unwrap(), "1");
    in_force(&mut harness, "").await;
    assert_eq!(harness.value(version).await.unwrap(), "3/3");
}

#[tokio::test]
async fn applying_makes_objects_wanted_where_their_rule_says_and_nowhere_else() {
    let mut harness = Harness::new().await;
    fill(&harness, 1).await;
    harness
        .execute(&format!(
            "INSERT INTO copyhold.object_copies (object_key, size_bytes, b2, wasabi, due_wasabi, scw, due_scw) VALUES
                 ('p/made', 40, 1, 5, 5, 6, 6), ('p/parked', 40, 1, NULL, {PARKED}, NULL, {PARKED}),
                 ('p/cold', NULL, 1, NULL, NULL, 7, NULL), ('q/big', 40, 1, NULL, NULL, NULL, NULL),
                 ('q/unknown', NULL, 1, NULL, NULL, NULL, NULL), ('z', 1, 1, NULL, NULL, NULL, 3);
             INSERT INTO copyhold.copy_failures
             SELECT 'p/parked', r, 1, 1, 'denied', 'no', 1, 1 FROM unnest('{{wasabi,scw}}'::text[]) r"
        ))
        .await;
    let rules = "[[rules]]\nprefix = \"p/\"\nreplicas = [\"scw\"]\n\
                 [[rules]]\nprefix = \"q/\"\nmin_size = \"17B\"\nreplicas = [\"wasabi\"]\n";
    in_force(&mut harness, rules).await;
    let before =
        harness.value("SELECT md5(string_agg(o::text, ',' ORDER BY object_key)) FROM copyhold.object_copies o").await;
    let output = harness.run(&["rules", "apply", "--dry-run", "--json"]).await;
    let foreseen: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", printed(&output)));
    let after =
        harness.value("SELECT md5(string_agg(o::text, ',' ORDER BY object_key)) FROM copyhold.object_copies o").await;
    assert_eq!(before, after);
    assert_eq!(harness.value("SELECT applied || '/' || version FROM copyhold.rules_state").await.unwrap(), "0/1");

    let output = harness.run(&["rules", "apply", "--json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&foreseen["replicas"], &foreseen["undecided"]), (&done["replicas"], &done["undecided"]));
    assert_eq!((&done["objects"], &done["undecided"], &done["complete"]), (&7.into(), &2.into(), &true.into()));
    let of = |name: &str| done["replicas"].as_array().unwrap().iter().find(|r| r["replica"] == name).unwrap().clone();
    // Of 40 bytes: one request, however small the parts of the figures are.
    let wasabi = of("wasabi");
    assert_eq!((&wasabi["becomes_wanted"], &wasabi["becomes_wanted_bytes"]), (&1.into(), &40.into()));
    assert_eq!((&wasabi["gets"], &wasabi["puts"]), (&1.into(), &1.into()));
    assert_eq!((&wasabi["becomes_unwanted"], &wasabi["becomes_unwanted_bytes"]), (&2.into(), &50.into()));
    assert_eq!(wasabi["becomes_unwanted_and_stays"], 1);
    let scw = of("scw");
    assert_eq!((&scw["becomes_wanted"], &scw["becomes_wanted_and_is_there"]), (&0.into(), &1.into()));
    assert_eq!(of("b2")["becomes_unwanted"], 0);

    for (key, at) in [
        ("p/00001", "b2,scw"),
        ("p/made", "b2,scw"),
        ("p/parked", "b2,scw"),
        ("p/cold", "b2,scw"),
        ("q/big", "b2,wasabi"),
        ("q/unknown", "b2"),
        ("z", "b2,scw"),
    ] {
        assert_eq!(wanted(&harness, key).await, at, "{key}");
    }
    // What is on record stays there, what is parked stays parked where it is wanted, and only what is wanted fails.
    let row = "SELECT concat_ws(',', wasabi, due_wasabi, scw, due_scw) FROM copyhold.object_copies WHERE object_key = ";
    assert_eq!(harness.value(&format!("{row} 'p/made'")).await.unwrap(), "5,6,6");
    assert_eq!(harness.value(&format!("{row} 'p/parked'")).await.unwrap(), PARKED.to_string());
    assert_eq!(harness.value("SELECT string_agg(replica, ',') FROM copyhold.copy_failures").await.unwrap(), "scw");
    assert_eq!(harness.value("SELECT applied || '/' || version FROM copyhold.rules_state").await.unwrap(), "1/1");
    // Once more: all is as it should be.
    assert!(apply(&harness).await.judged.changes.iter().all(|change| *change == ReplicaChanges::default()));
}

#[tokio::test]
async fn the_requests_of_large_objects_are_counted_by_their_parts() {
    let harness = harness("[[rules]]\nreplicas = [\"b2\", \"wasabi\"]\n").await;
    harness
        .execute("INSERT INTO copyhold.object_copies (object_key, size_bytes, b2, due_wasabi, due_scw) VALUES ('a', 40, 1, NULL, NULL)")
        .await;
    let scope = ApplyScope::everything(&harness.queue(), SIZES).dry_run(true);
    let applied =
        harness.queue().apply_rules(&scope, &ApplyProgress::default(), &CancellationToken::new()).await.unwrap();
    let wasabi =
        applied.judged.changes[harness.queue().replicas().iter().position(|r| r.as_str() == "wasabi").unwrap()];
    assert_eq!((wasabi.wanted, wasabi.gets, wasabi.puts), (1, 3, 5));
}

fn outcome(name: &str, outcome: Outcome) -> (ReplicaName, Outcome) {
    (replica(name), outcome)
}

#[tokio::test]
async fn what_a_holder_writes_after_the_rules_were_applied_undoes_nothing_of_it() {
    let mut harness = Harness::new().await;
    harness.execute("INSERT INTO copyhold.object_copies (object_key, b2, due_scw) VALUES ('p/x', 1, NULL)").await;
    let daemon = harness.enlist(60).await;
    let lease = harness.claim(&daemon, "wasabi", 1).await.pop().unwrap();
    in_force(&mut harness, "[[rules]]\nprefix = \"p/\"\nreplicas = [\"scw\"]\n").await;
    apply(&harness).await;
    assert_eq!(wanted(&harness, "p/x").await, "b2,scw");
    let held = "SELECT lock IS NOT NULL FROM copyhold.object_copies";
    assert_eq!(harness.value(held).await.unwrap(), "true");
    let next = NextAttempt::After { delay: Duration::ZERO, counted: true };
    let why = Failure::new(FailureClass::Transient, "reset");
    let report = |outcome, release| Report {
        key: lease.key.clone(),
        generation: lease.generation,
        fence: lease.fence,
        content: None,
        outcomes: vec![outcome],
        release,
        metadata: None,
        source: None,
        not_carried: None,
        survived: false,
        unsettled: Vec::new(),
    };
    let failed = outcome("wasabi", Outcome::Failed { next, why });
    harness.queue().complete(&[report(failed, false)]).await.unwrap();
    assert_eq!(wanted(&harness, "p/x").await, "b2,scw");
    // It was copied all the same: that is a proof, and no wish.
    let recorded = outcome("wasabi", Outcome::recorded(Verified::Compared));
    harness.queue().complete(&[report(recorded, true)]).await.unwrap();
    assert_eq!(wanted(&harness, "p/x").await, "b2,scw");
    assert_eq!(harness.value("SELECT wasabi IS NOT NULL FROM copyhold.object_copies").await.unwrap(), "true");
    // What became wanted while it was held is found now.
    let claimed = harness.queue().claim(&daemon, &replica("scw"), 1, LanePosition::BEGINNING).await.unwrap();
    assert_eq!(claimed.leases.len(), 1);
}

#[tokio::test]
async fn an_object_that_a_daemon_holds_is_waited_for_and_nothing_else_is() {
    let harness = harness(ONLY_B2).await;
    fill(&harness, 4500).await;
    harness.execute("UPDATE copyhold.rules_state SET applied = 0").await;
    let mut application = sqlx::PgConnection::connect(&harness.database_url()).await.unwrap();
    let mut transaction = application.begin().await.unwrap();
    let hold = "UPDATE copyhold.object_copies SET size_bytes = 11 WHERE object_key = 'p/02500'";
    sqlx::raw_sql(hold).execute(&mut *transaction).await.unwrap();
    let (applying, _stop) = running(&harness.queue());
    harness.until("SELECT count(*) = 1 FROM copyhold.object_copies WHERE due_wasabi IS NOT NULL").await;
    // A run that resumes after a kill begins before it.
    let through = "SELECT applied_through FROM copyhold.rules_state";
    assert_eq!(harness.value(through).await.unwrap(), "p/02499");
    transaction.commit().await.unwrap();
    let applied = soon("it ends", applying).await.unwrap();
    assert!(applied.complete, "{applied:?}");
    assert_eq!(applied.judged.looked, 4500);
    let one = applied.judged.changes.iter().map(|c| c.unwanted).collect::<Vec<_>>();
    assert_eq!(one, [0, 4500, 4500]);
    let left = "SELECT count(*) FROM copyhold.object_copies WHERE due_wasabi IS NOT NULL OR due_scw IS NOT NULL";
    assert_eq!(harness.value(left).await.unwrap(), "0");
}

#[tokio::test]
async fn a_run_that_was_killed_is_gone_on_with_where_it_ended() {
    let harness = harness(ONLY_B2).await;
    fill(&harness, 9000).await;
    harness.execute("UPDATE copyhold.rules_state SET applied = 0").await;
    let mut application = sqlx::PgConnection::connect(&harness.database_url()).await.unwrap();
    let mut transaction = application.begin().await.unwrap();
    let hold = "SELECT FROM copyhold.object_copies WHERE object_key = 'p/08000' FOR UPDATE";
    sqlx::raw_sql(hold).execute(&mut *transaction).await.unwrap();
    let mut killed = harness.program(&["rules", "apply"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    harness.until("SELECT applied_through = 'p/07999' FROM copyhold.rules_state").await;
    killed.kill().await.unwrap();
    let status = printed(&harness.run(&["status"]).await);
    assert!(status.contains("through \"p/07999\""), "{status}");
    transaction.rollback().await.unwrap();
    let output = harness.run(&["rules", "apply"]).await;
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("1001 judged") && text.contains("behind \"p/07999\""), "{text}");
    let left = "SELECT count(*) FROM copyhold.object_copies WHERE due_wasabi IS NOT NULL";
    assert_eq!(harness.value(left).await.unwrap(), "0");
    assert_eq!(harness.value("SELECT applied = version FROM copyhold.rules_state").await.unwrap(), "true");
}

#[tokio::test]
async fn it_begins_again_when_the_rules_change_meanwhile() {
    let mut harness = harness(ONLY_B2).await;
    fill(&harness, 3000).await;
    let mut application = sqlx::PgConnection::connect(&harness.database_url()).await.unwrap();
    let mut transaction = application.begin().await.unwrap();
    let hold = "SELECT FROM copyhold.object_copies WHERE object_key = 'p/02500' FOR UPDATE";
    sqlx::raw_sql(hold).execute(&mut *transaction).await.unwrap();
    let (applying, _stop) = running(&harness.queue());
    harness.until("SELECT count(*) = 1 FROM copyhold.object_copies WHERE due_scw IS NOT NULL").await;
    in_force(&mut harness, NOT_SCW).await;
    transaction.rollback().await.unwrap();
    let applied = soon("it ends", applying).await.unwrap();
    assert!(applied.complete && applied.begun_again > 0, "{applied:?}");
    let right = "SELECT count(*) FROM copyhold.object_copies WHERE due_wasabi IS NOT NULL AND due_scw IS NULL";
    assert_eq!(harness.value(right).await.unwrap(), "3000");
}

#[tokio::test]
async fn of_two_runs_at_once_one_gives_way() {
    let harness = harness(ONLY_B2).await;
    fill(&harness, 10).await;
    let mut other = harness.pool.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE copyhold.replicas IN ACCESS EXCLUSIVE MODE").execute(&mut *other).await.unwrap();
    let (applying, _stop) = running(&harness.queue());
    // It has begun, and cannot judge anything yet; the other one can.
    harness.until("SELECT applying = version FROM copyhold.rules_state").await;
    harness.execute("UPDATE copyhold.rules_state SET applied_through = 'p/00007'").await;
    other.rollback().await.unwrap();
    let applied = soon("it ends", applying).await.unwrap();
    assert!(applied.overtaken && !applied.complete, "{applied:?}");
    assert_eq!(applied.judged.looked, 0);
    // A later run resumes where that one was.
    let applied = apply(&harness).await;
    assert_eq!((applied.resumed_after, applied.judged.looked), (Some(key("p/00007")), 3));
}

#[tokio::test]
async fn rules_that_are_not_those_of_the_configuration_are_reported_and_not_applied() {
    let mut harness = Harness::new().await;
    harness.insert("old").await;
    harness.rewrite(|text| format!("{text}\n{NOT_SCW}"));
    for command in [["status"].as_slice(), &["rules", "show"], &["rules", "apply"], &["rules", "apply", "--dry-run"]] {
        let text = printed(&harness.run(command).await);
        assert!(text.contains("other rules (1 rule) than those in force (no rules)"), "{command:?}: {text}");
    }
    let mut daemon = harness.daemon().await;
    daemon.until_logged("are not those in force in the database").await;
    let output = harness.run(&["migrate"]).await;
    let text = printed(&output);
    assert!(text.contains("1 rule in force, before it was 0"), "{text}");
    assert!(text.contains("see `copyhold rules apply --dry-run`"), "{text}");
    daemon.until_logged("No longer so: the rules in the configuration").await;
    daemon.until_logged("registered before the rules changed are not judged by them yet").await;
    let status = printed(&harness.run(&["status"]).await);
    assert!(status.contains("not judged by them yet"), "{status}");
    let shown = printed(&harness.run(&["rules", "show"]).await);
    assert!(shown.contains("prefix = \"p/\"\nreplicas = [\"b2\", \"wasabi\"]"), "{shown}");
    assert_eq!(harness.run(&["rules", "apply"]).await.status.code(), Some(0));
    daemon.until_logged("No longer so: objects that were registered before").await;
    daemon.kill().await;
    let status = printed(&harness.run(&["status"]).await);
    assert!(!status.contains("rules"), "{status}");
}

#[tokio::test]
async fn what_is_as_the_rules_say_is_neither_written_nor_locked() {
    let harness = harness(NOT_SCW).await;
    fill(&harness, 5000).await;
    harness.execute("UPDATE copyhold.object_copies SET due_scw = NULL").await;
    let rows =
        "SELECT md5(string_agg(ctid::text || xmin || xmax, ',' ORDER BY object_key)) FROM copyhold.object_copies";
    let before = harness.value(rows).await;
    let applied = apply(&harness).await;
    assert_eq!((applied.judged.looked, applied.judged.undecided), (5000, 0));
    assert_eq!(harness.value(rows).await, before, "a row was written, or locked");
}
