//! No copy runs for ever: past the time that its size allows it is stopped, although its daemon lives.

use std::{sync::Arc, time::Duration};

use copyhold::{
    wakeup::wake_channel,
    worker::{
        self, AttemptResources, HealthMonitor, HeldLeases, ReplicaRegistry, Runner, SlotPool, Slots, SlowCopies,
        TimeLimit,
    },
};
use copyhold_core::domain::Lease;
use copyhold_s3::{
    copy::{Job, Memory, OnExisting, Source, Target},
    store::Store,
};
use copyhold_sandbox::s3::{Fault, Op, When};
use tokio_util::sync::CancellationToken;

use crate::harness::{Harness, key, soon};

/// Copies the leased object as a worker does that gives it so long.
async fn copy(harness: &Harness, lease: Lease, time_limit: TimeLimit) {
    let (completer, writer) = worker::completer(harness.queue().leases());
    let writer = tokio::spawn(writer.run());
    let (journals, recorder) = worker::journals(harness.queue().uploads());
    let recorder = tokio::spawn(recorder.run());
    let memory = Memory::new(64 << 20);
    let registry = ReplicaRegistry::new(Vec::new(), SlowCopies::new(&memory, 16));
    let runner = Runner {
        leases: harness.queue().leases(),
        held: HeldLeases::default(),
        completer,
        journals,
        health: HealthMonitor::new(
            harness.queue().breakers(),
            registry.clone(),
            wake_channel::channel().0,
            wake_channel::channel().0,
        ),
        registry,
        memory,
        time_limit,
        changes: worker::ContentChanges {
            leases: harness.queue().leases(),
            policy: copyhold::config::UnregisteredChanges::Copy,
            wake_claimer: wake_channel::channel().0,
        },
        settle: Duration::from_mins(1),
        stop: CancellationToken::new(),
        freed: Arc::default(),
        wake_claimer: wake_channel::channel().0,
    };
    let store = async |name: &str| {
        let replica = harness.config.replicas.iter().find(|r| r.name.as_str() == name).unwrap();
        Arc::new(Store::connect(&replica.into(), 4).await.unwrap())
    };
    let target = async |name| Target {
        store: store(name).await,
        existing: OnExisting::PutOver,
        slow: false,
        again: false,
        damaged: false,
        folds: copyhold_core::domain::Folds::NONE,
    };
    let job = Job {
        key: lease.key.clone(),
        content: lease.content,
        metadata: None,
        primary: None,
        kept: copyhold_core::domain::RecordedSource::default(),
        stated_bytes: lease.size_bytes,
        sources: vec![Source { store: store("b2").await, recorded: true, primary: true }],
        targets: vec![target("wasabi").await, target("scw").await],
        lag: Duration::from_mins(1),
        journal: runner.journals.of(&lease),
    };
    let resources = AttemptResources {
        slot: Slots::new(1, 0).take(SlotPool::General, 1).pop(),
        active_read: None,
        probe_copy: None,
    };
    soon("the copy ends", Box::pin(runner.run(lease, job, worker::TargetPermits::default(), resources))).await;
    drop(runner);
    writer.await.unwrap();
    recorder.await.unwrap();
}

async fn leased(harness: &Harness, name: &str) -> Lease {
    let daemon = harness.enlist(600).await;
    let mut leases = harness.queue().claim_these(&daemon, &[key(name)]).await.unwrap();
    leases.remove(0)
}

#[tokio::test]
async fn a_target_that_hangs_fails_when_the_objects_time_is_over_and_the_others_proof_stands() {
    let harness = Harness::new().await;
    harness.upload("photo", "bytes").await;
    harness.bucket("scw").order(Fault::Stall, When::op(Op::PutObject));
    // Long enough for the other target's copy on any machine.
    let time_limit = TimeLimit { at_least: Duration::from_secs(15), bytes_per_second: 1 };
    copy(&harness, leased(&harness, "photo").await, time_limit).await;
    // Five bytes at one a second: learned by reading, and added.
    let failure = "SELECT replica || ' ' || class || ' ' || attempts || ' ' || message FROM copyhold.copy_failures";
    assert_eq!(
        harness.value(failure).await.unwrap(),
        "scw transient 1 stopped after 20s, which is all that 5 bytes may take"
    );
    let row = "SELECT (wasabi IS NOT NULL, scw IS NULL, due_scw > created_at, lock IS NULL)
               FROM copyhold.object_copies";
    assert_eq!(harness.value(row).await.unwrap(), "(t,t,t,t)");
}

#[tokio::test]
async fn a_source_that_hangs_fails_all_targets_and_nothing_is_left_under_way() {
    let harness = Harness::new().await;
    harness.bucket("b2").put("large", vec![7; 40 << 20]);
    harness.insert("large").await;
    // Two parts are there, the third never comes.
    harness.bucket("b2").order(Fault::Stall, When::op(Op::GetObject).skip(2));
    let time_limit = TimeLimit { at_least: Duration::from_secs(20), bytes_per_second: u64::MAX };
    copy(&harness, leased(&harness, "large").await, time_limit).await;
    let failures = "SELECT string_agg(replica || ' ' || class, ',' ORDER BY replica) FROM copyhold.copy_failures";
    assert_eq!(harness.value(failures).await.unwrap(), "scw transient,wasabi transient");
    assert_eq!(harness.value("SELECT lock IS NULL FROM copyhold.object_copies").await.unwrap(), "true");
    // What was sent is known, and no failed attempt is counted that has brought the object on.
    let remembered = "SELECT string_agg(u.replica || ' ' || f.attempts || ' ' ||
        (SELECT count(*) FROM copyhold.multipart_parts p WHERE p.upload = u.id), ',' ORDER BY u.replica)
        FROM copyhold.multipart_uploads u JOIN copyhold.copy_failures f USING (object_key, replica)";
    assert_eq!(harness.value(remembered).await.unwrap(), "scw 0 2,wasabi 0 2");
    for replica in ["wasabi", "scw"] {
        assert_eq!(harness.bucket(replica).uploads().len(), 1, "{replica}");
    }
}

#[tokio::test]
async fn a_copy_that_hangs_after_its_lease_is_lost_writes_nothing() {
    let harness = Harness::new().await;
    harness.upload("photo", "bytes").await;
    harness.bucket("b2").order(Fault::Stall, When::op(Op::GetObject));
    let lease = leased(&harness, "photo").await;
    harness.execute("UPDATE copyhold.object_copies SET lock = lock + 1, lease = lease + 1").await;
    let held = harness.value("SELECT (lock, lease) FROM copyhold.object_copies").await;
    copy(&harness, lease, TimeLimit { at_least: Duration::from_secs(1), bytes_per_second: 1 }).await;
    assert_eq!(harness.value("SELECT (lock, lease) FROM copyhold.object_copies").await, held);
    assert_eq!(harness.value("SELECT count(*) FROM copyhold.copy_failures").await.unwrap(), "0");
}
