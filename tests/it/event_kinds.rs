//! Which change writes which event to the log, with which members.

use std::time::Duration;

use copyhold_core::domain::{
    BreakerScope, Content, ContentHash, EventKind, EventKinds, Failure, FailureClass, Lease, NextAttempt, Outcome,
    ReplicaName, SourceReading, Verified,
};
use copyhold_db::{
    Database,
    lease::{FencedWrite, Report, UnregisteredChange},
    object::{FalseRecord, Revocation},
    replica::ProbeResult,
};
use serde_json::{Value, json};

use crate::harness::{Begin, Harness, key, replica};

fn proven() -> Outcome {
    Outcome::recorded(Verified::Compared)
}

/// All events in their order.
async fn events(harness: &Harness) -> Vec<Value> {
    let all = harness.value("SELECT coalesce(json_agg(event_data ORDER BY id), '[]') FROM copyhold.log").await;
    serde_json::from_str(&all.unwrap()).unwrap()
}

/// Those of one kind, without the members that no test can foretell.
async fn of(harness: &Harness, kind: EventKind) -> Vec<Value> {
    let mut found = events(harness).await;
    found.retain(|event| event["kind"] == kind.as_str());
    found
}

fn why(class: FailureClass) -> Failure {
    Failure::new(class, "it rained")
}

fn failed(next: NextAttempt) -> Outcome {
    Outcome::Failed { next, why: why(FailureClass::Transient) }
}

const LATER: NextAttempt = NextAttempt::After { delay: Duration::from_secs(100), counted: true };

/// Registers and claims one object.
async fn leased(harness: &Harness, name: &str) -> Lease {
    harness.insert(name).await;
    let daemon = harness.enlist(60).await;
    harness.claim(&daemon, "wasabi", 1).await.remove(0)
}

async fn write(
    queue: &Database,
    lease: &Lease,
    outcomes: impl IntoIterator<Item = (ReplicaName, Outcome)>,
    release: bool,
) -> FencedWrite {
    let report = Report {
        key: lease.key.clone(),
        generation: lease.generation,
        fence: lease.fence,
        content: Some(Content { size_bytes: 3, hash: ContentHash(0xab) }),
        outcomes: outcomes.into_iter().collect(),
        release,
        metadata: None,
        source: None,
        not_carried: None,
        survived: false,
        unsettled: Vec::new(),
    };
    queue.complete(&[report]).await.unwrap()[0].2
}

#[tokio::test]
async fn copies_recorded_together_are_one_event_that_says_whether_the_object_is_complete() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    let queue = harness.queue();
    write(&queue, &lease, [(replica("wasabi"), proven())], false).await;
    write(&queue, &lease, [(replica("scw"), proven())], true).await;
    let row = "SELECT json_build_object('g', generation, 'at', created_at) FROM copyhold.object_copies";
    let row: Value = serde_json::from_str(&harness.value(row).await.unwrap()).unwrap();
    let mut first = json!({
        "kind": "object.copied", "object_key": "photo", "generation": row["g"], "replicas": ["wasabi"],
        "complete": false, "size_bytes": 3, "content_hash": "00000000000000ab", "registered_at": row["at"],
    });
    let mut both = vec![first.clone()];
    // The time of registration is in one event only.
    first.as_object_mut().unwrap().remove("registered_at");
    first["replicas"] = json!(["scw"]);
    first["complete"] = json!(true);
    both.push(first);
    assert_eq!(of(&harness, EventKind::ObjectCopied).await, both);
}

#[tokio::test]
async fn a_completion_tells_its_failures_apart_from_its_copies() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    let queue = harness.queue();
    let outcomes = [(replica("wasabi"), failed(NextAttempt::Parked)), (replica("scw"), failed(LATER))];
    write(&queue, &lease, outcomes, true).await;
    let found = events(&harness).await;
    let [.., parked, failed] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((&parked["kind"], &parked["replica"]), (&json!("copy.parked"), &json!("wasabi")));
    assert_eq!((&parked["class"], &parked["message"]), (&json!("transient"), &json!("it rained")));
    assert_eq!(parked["due_at"], Value::Null);
    assert_eq!((&failed["kind"], &failed["replica"]), (&json!("copy.failed"), &json!("scw")));
    assert_eq!(
        failed["due_at"].to_string(),
        harness.value("SELECT due_scw FROM copyhold.object_copies").await.unwrap()
    );
    assert!(failed["registered_at"].is_number());
}

#[tokio::test]
async fn when_an_object_was_registered_travels_with_the_first_that_is_heard_of_each_generation() {
    let harness = Harness::new().await;
    let queue = harness.queue();
    let mut lease = leased(&harness, "photo").await;
    let daemon = harness.enlist(60).await;
    write(
        &queue,
        &lease,
        [(replica("wasabi"), failed(NextAttempt::After { delay: Duration::ZERO, counted: true }))],
        true,
    )
    .await;
    lease = harness.claim(&daemon, "wasabi", 1).await.remove(0);
    write(&queue, &lease, [(replica("wasabi"), proven()), (replica("scw"), proven())], true).await;
    harness.sql("SELECT copyhold.register($1)", "photo").await;
    lease = harness.claim(&daemon, "wasabi", 1).await.remove(0);
    write(&queue, &lease, [(replica("wasabi"), proven()), (replica("scw"), proven())], true).await;
    let told: Vec<_> = events(&harness)
        .await
        .iter()
        .filter(|event| event.get("object_key").is_some())
        .map(|event| (event["kind"].as_str().unwrap().to_owned(), event.get("registered_at").is_some()))
        .collect();
    let told: Vec<_> = told.iter().map(|(kind, first)| (kind.as_str(), *first)).collect();
    assert_eq!(told, [("copy.failed", true), ("object.copied", false), ("object.copied", true)]);
}

#[tokio::test]
async fn an_object_is_not_complete_while_a_replica_lacks_it_that_this_daemon_does_not_know() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    let known = vec![replica("b2"), replica("wasabi")];
    let queue = Database::new(harness.pool.clone(), harness.config.database.schema.clone(), known);
    write(&queue, &lease, [(replica("wasabi"), proven())], true).await;
    assert_eq!(of(&harness, EventKind::ObjectCopied).await[0]["complete"], json!(false));
}

#[tokio::test]
async fn what_is_not_recorded_is_not_told() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    harness.execute("UPDATE copyhold.object_copies SET lease = 5").await;
    assert_eq!(write(&harness.queue(), &lease, [(replica("wasabi"), proven())], true).await, FencedWrite::Superseded);
    assert!(of(&harness, EventKind::ObjectCopied).await.is_empty());
}

#[tokio::test]
async fn only_the_kinds_that_are_asked_for_are_written() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    let queue = |kinds: &str| {
        let (schema, replicas) = (harness.config.database.schema.clone(), harness.queue().replicas().to_vec());
        Database::with_events(harness.pool.clone(), schema, replicas, kinds.parse::<EventKinds>().unwrap())
    };
    harness.execute("TRUNCATE copyhold.log").await;
    write(&queue("none"), &lease, [(replica("wasabi"), failed(LATER))], false).await;
    write(&queue("copy.parked"), &lease, [(replica("wasabi"), failed(LATER))], false).await;
    assert_eq!(events(&harness).await, Vec::<Value>::new());
    write(
        &queue("copy.parked"),
        &lease,
        [(replica("wasabi"), failed(NextAttempt::Parked)), (replica("scw"), proven())],
        true,
    )
    .await;
    assert_eq!(events(&harness).await.len(), 1);
}

#[tokio::test]
async fn a_copy_on_record_that_is_not_there_is_told() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    let queue = harness.queue();
    let gone = Outcome::Cleared { next: LATER, why: why(FailureClass::Gone) };
    write(&queue, &lease, [(replica("b2"), gone), (replica("wasabi"), proven())], true).await;
    let at = harness.value("SELECT wasabi FROM copyhold.object_copies").await.unwrap().parse().unwrap();
    let refuted =
        FalseRecord { replica: replica("wasabi"), recorded_at: at, park: true, why: why(FailureClass::Corrupt) };
    let what =
        Revocation { key: key("photo"), generation: lease.generation, refuted: vec![refuted], park_the_rest: true };
    assert_eq!(queue.revoke(&what).await.unwrap(), FencedWrite::Applied);
    let told = |event: &Value| format!("{} {} {}", event["replica"], event["class"], event["due_at"].is_null());
    let lost: Vec<_> = of(&harness, EventKind::CopyLost).await.iter().map(told).collect();
    assert_eq!(lost, [r#""b2" "gone" false"#, r#""wasabi" "corrupt" true"#]);
    let mut parked: Vec<_> = of(&harness, EventKind::CopyParked).await.iter().map(told).collect();
    parked.sort();
    assert_eq!(parked, [r#""b2" "corrupt" true"#, r#""scw" "corrupt" true"#]);
}

#[tokio::test]
async fn an_unregistered_content_is_an_event_with_what_it_replaces() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    let with = UnregisteredChange {
        from: replica("b2"),
        content: Content { size_bytes: 9, hash: ContentHash(u64::MAX) },
        said: SourceReading { replica: replica("b2"), modified_us: None, tag: None },
        in_a_row: 2,
        park: false,
        message: "it was changed".into(),
    };
    assert_eq!(harness.queue().begin_generation(&lease, &with).await.unwrap(), FencedWrite::Applied);
    let told = json!({
        "kind": "object.changed", "object_key": "photo", "replica": "b2", "size_bytes": 9,
        "content_hash": "ffffffffffffffff", "replaces": lease.generation.0, "in_a_row": 2, "parked": false,
        "message": "it was changed",
    });
    assert_eq!(of(&harness, EventKind::ObjectChanged).await, [told]);
}

#[tokio::test]
async fn leases_that_are_swept_and_those_that_are_lost_are_events_of_the_daemon_that_finds_out() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    let (queue, holder) = (harness.queue(), lease.fence.0 >> 40);
    queue.log_lost_lease(&lease.key, lease.fence).await.unwrap();
    assert!(of(&harness, EventKind::LeaseLost).await.is_empty(), "it is ours");
    harness.execute("UPDATE copyhold.object_copies SET lock = 1").await;
    queue.reclaim(Duration::from_secs(1)).await.unwrap();
    queue.log_lost_lease(&lease.key, lease.fence).await.unwrap();
    let swept = json!({
        "kind": "lease.swept", "object_key": "photo", "generation": lease.generation.0, "daemon": holder, "times": 1
    });
    assert_eq!(of(&harness, EventKind::LeaseSwept).await, [swept]);
    let lost = json!({"kind": "lease.lost", "object_key": "photo", "daemon": holder});
    assert_eq!(of(&harness, EventKind::LeaseLost).await, [lost]);
}

#[tokio::test]
async fn what_happens_to_a_replica_is_one_event() {
    let harness = Harness::with(Begin::Empty, "").await;
    assert!(harness.run(&["migrate"]).await.status.success());
    assert!(harness.run(&["migrate"]).await.status.success());
    let queue = harness.queue();
    let scw = replica("scw");
    queue.pause(&scw, None, Some("the bill")).await.unwrap();
    queue.resume(&scw).await.unwrap();
    queue.resume(&scw).await.unwrap();
    assert!(queue.open_breaker(&scw, BreakerScope::All, FailureClass::Transient, "no answer").await.unwrap());
    assert!(!queue.open_breaker(&scw, BreakerScope::All, FailureClass::Transient, "no answer").await.unwrap());
    let row = queue.replica_rows().await.unwrap().into_iter().find(|row| row.name == scw).unwrap();
    let breaker = row.breaker.unwrap();
    assert!(queue.end_probe(&scw, &breaker, ProbeResult::Unhealthy).await.unwrap());
    assert!(queue.end_probe(&scw, &breaker, ProbeResult::Healthy).await.unwrap());
    let added = |name| json!({"kind": "replica.added", "replica": name});
    let told = [
        added("b2"),
        added("scw"),
        added("wasabi"),
        json!({"kind": "replica.paused", "replica": "scw", "until": null, "because": "the bill"}),
        json!({"kind": "replica.resumed", "replica": "scw"}),
        json!({
            "kind": "replica.breaker_opened", "replica": "scw", "blocks": "all", "class": "transient", "message": "no answer"
        }),
        json!({"kind": "replica.breaker_closed", "replica": "scw", "opened_at": breaker.opened_at}),
    ];
    assert_eq!(events(&harness).await, told);
}

#[tokio::test]
async fn daemons_tell_that_they_come_and_go_and_the_others_tell_who_went_without_a_word() {
    let harness = Harness::new().await;
    let queue = harness.queue();
    let dead = harness.enlist(1).await;
    harness.execute("UPDATE copyhold.daemons SET alive_until = 1").await;
    let daemon = harness.enlist(60).await;
    queue.heartbeat(&daemon).await.unwrap();
    queue.deregister_daemon(daemon.id).await.unwrap();
    let told: Vec<_> = events(&harness)
        .await
        .iter()
        .filter(|event| event["kind"].as_str().unwrap().starts_with("daemon."))
        .map(|event| (event["kind"].to_string(), event["daemon"].as_i64().unwrap(), event.get("clean").cloned()))
        .collect();
    let [dead, living] = [dead, daemon].map(|daemon| i64::from(daemon.id.number()));
    let told_of = |kind: &str, id, clean| (format!("\"{kind}\""), id, clean);
    assert_eq!(
        told,
        [
            told_of("daemon.started", dead, None),
            told_of("daemon.stopped", dead, Some(json!(false))),
            told_of("daemon.started", living, None),
            told_of("daemon.stopped", living, Some(json!(true))),
        ]
    );
}

#[tokio::test]
async fn what_an_operator_parks_is_an_event_with_the_reason() {
    let harness = Harness::new().await;
    harness.insert("photo").await;
    assert!(harness.run(&["park", "photo", "--because", "too big"]).await.status.success());
    let parked = of(&harness, EventKind::CopyParked).await;
    let replicas: Vec<_> = parked.iter().map(|event| event["replica"].as_str().unwrap()).collect();
    assert_eq!(replicas, ["scw", "wasabi"]);
    assert_eq!((&parked[0]["class"], &parked[0]["message"]), (&json!("parked"), &json!("too big")));
}

#[tokio::test]
async fn a_daemon_tells_of_an_object_once_when_all_its_copies_are_made_together() {
    let harness = Harness::new().await;
    let _daemon = harness.daemon().await;
    harness.upload("photo", "bytes").await;
    harness.until_copied("photo").await;
    let copied = of(&harness, EventKind::ObjectCopied).await;
    let complete: Vec<_> = copied.iter().map(|event| &event["complete"]).collect();
    assert_eq!(complete.last(), Some(&&json!(true)), "{copied:?}");
    let mut replicas: Vec<_> = copied.iter().flat_map(|event| event["replicas"].as_array().unwrap()).collect();
    replicas.sort_by_key(ToString::to_string);
    // The source is proven by the reading of it.
    assert_eq!(replicas, [&json!("scw"), &json!("wasabi")], "{copied:?}");
}

/// A session that holds the log's lock for long, as no program of ours does, must not hold up the application's rows.
#[tokio::test]
async fn a_completion_that_cannot_append_lets_go_of_its_rows_and_is_written_later() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    let mut stuck = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT copyhold.append_log(ARRAY['{}']::jsonb[])").execute(&mut *stuck).await.unwrap();
    let report = Report {
        key: lease.key.clone(),
        generation: lease.generation,
        fence: lease.fence,
        content: None,
        outcomes: vec![(replica("wasabi"), proven())],
        release: true,
        metadata: None,
        source: None,
        not_carried: None,
        survived: false,
        unsettled: Vec::new(),
    };
    let refused = harness.queue().complete(std::slice::from_ref(&report)).await.unwrap_err();
    assert!(refused.is_lock_timeout(), "{refused}");
    // Nothing was written, and no daemon holds the row.
    let free = "SELECT wasabi IS NULL FROM copyhold.object_copies FOR UPDATE NOWAIT";
    assert_eq!(harness.value(&format!("WITH free AS ({free}) SELECT * FROM free")).await.as_deref(), Some("true"));
    stuck.rollback().await.unwrap();
    assert_eq!(harness.queue().complete(&[report]).await.unwrap()[0].2, FencedWrite::Applied);
    assert_eq!(of(&harness, EventKind::ObjectCopied).await.len(), 1);
}

/// The month in which no sweeper ran.
#[tokio::test]
async fn an_append_makes_the_partition_that_is_missing() {
    let harness = Harness::new().await;
    let lease = leased(&harness, "photo").await;
    harness
        .execute("DROP TABLE copyhold.log_0, copyhold.log_1048576, copyhold.log_2097152; SELECT setval('copyhold.log_ids', 9999999)")
        .await;
    assert_eq!(write(&harness.queue(), &lease, [(replica("wasabi"), proven())], true).await, FencedWrite::Applied);
    assert_eq!(of(&harness, EventKind::ObjectCopied).await.len(), 1);
}
