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

use crate::harness::{World, key, soon};

/// Copies the leased object as a worker does that gives it so long.
async fn copy(world: &World, lease: Lease, time_limit: TimeLimit) {
    let (completer, writer) = worker::completer(world.queue().leases());
    let writer = tokio::spawn(writer.run());
    let (journals, recorder) = worker::journals(world.queue().uploads());
    let recorder = tokio::spawn(recorder.run());
    let memory = Memory::new(64 << 20);
    let registry = ReplicaRegistry::new(Vec::new(), SlowCopies::new(&memory, 16));
    let runner = Runner {
        leases: world.queue().leases(),
        held: HeldLeases::default(),
        completer,
        journals,
        health: HealthMonitor::new(
            world.queue().breakers(),
            registry.clone(),
            wake_channel::channel().0,
            wake_channel::channel().0,
        ),
        registry,
        memory,
        time_limit,
        changes: worker::ContentChanges {
            leases: world.queue().leases(),
            policy: copyhold::config::UnregisteredChanges::Copy,
            wake_claimer: wake_channel::channel().0,
        },
        settle: Duration::from_mins(1),
        stop: CancellationToken::new(),
        freed: Arc::default(),
        wake_claimer: wake_channel::channel().0,
    };
    let store = async |name: &str| {
        let replica = world.config.replicas.iter().find(|r| r.name.as_str() == name).unwrap();
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

async fn leased(world: &World, name: &str) -> Lease {
    let daemon = world.enlist(600).await;
    let mut leases = world.queue().claim_these(&daemon, &[key(name)]).await.unwrap();
    leases.remove(0)
}

#[tokio::test]
async fn a_target_that_hangs_fails_when_the_objects_time_is_over_and_the_others_proof_stands() {
    let world = World::new().await;
    world.upload("photo", "bytes").await;
    world.bucket("scw").order(Fault::Stall, When::op(Op::PutObject));
    // Long enough for the other target's copy on any machine.
    let time_limit = TimeLimit { at_least: Duration::from_secs(15), bytes_per_second: 1 };
    copy(&world, leased(&world, "photo").await, time_limit).await;
    // Five bytes at one a second: learned by reading, and added.
    let failure = "SELECT replica || ' ' || class || ' ' || attempts || ' ' || message FROM copyhold.copy_failures";
    assert_eq!(
        world.value(failure).await.unwrap(),
        "scw transient 1 stopped after 20s, which is all that 5 bytes may take"
    );
    let row = "SELECT (wasabi IS NOT NULL, scw IS NULL, due_scw > created_at, lock IS NULL)
               FROM copyhold.object_copies";
    assert_eq!(world.value(row).await.unwrap(), "(t,t,t,t)");
}

#[tokio::test]
async fn a_source_that_hangs_fails_all_targets_and_nothing_is_left_under_way() {
    let world = World::new().await;
    world.bucket("b2").put("large", vec![7; 40 << 20]);
    world.insert("large").await;
    // Two parts are there, the third never comes.
    world.bucket("b2").order(Fault::Stall, When::op(Op::GetObject).skip(2));
    let time_limit = TimeLimit { at_least: Duration::from_secs(20), bytes_per_second: u64::MAX };
    copy(&world, leased(&world, "large").await, time_limit).await;
    let failures = "SELECT string_agg(replica || ' ' || class, ',' ORDER BY replica) FROM copyhold.copy_failures";
    assert_eq!(world.value(failures).await.unwrap(), "scw transient,wasabi transient");
    assert_eq!(world.value("SELECT lock IS NULL FROM copyhold.object_copies").await.unwrap(), "true");
    // What was sent is known, and no failed attempt is counted that has brought the object on.
    let remembered = "SELECT string_agg(u.replica || ' ' || f.attempts || ' ' ||
        (SELECT count(*) FROM copyhold.multipart_parts p WHERE p.upload = u.id), ',' ORDER BY u.replica)
        FROM copyhold.multipart_uploads u JOIN copyhold.copy_failures f USING (object_key, replica)";
    assert_eq!(world.value(remembered).await.unwrap(), "scw 0 2,wasabi 0 2");
    for replica in ["wasabi", "scw"] {
        assert_eq!(world.bucket(replica).uploads().len(), 1, "{replica}");
    }
}

#[tokio::test]
async fn a_copy_that_hangs_after_its_lease_is_lost_writes_nothing() {
    let world = World::new().await;
    world.upload("photo", "bytes").await;
    world.bucket("b2").order(Fault::Stall, When::op(Op::GetObject));
    let lease = leased(&world, "photo").await;
    world.execute("UPDATE copyhold.object_copies SET lock = lock + 1, lease = lease + 1").await;
    let held = world.value("SELECT (lock, lease) FROM copyhold.object_copies").await;
    copy(&world, lease, TimeLimit { at_least: Duration::from_secs(1), bytes_per_second: 1 }).await;
    assert_eq!(world.value("SELECT (lock, lease) FROM copyhold.object_copies").await, held);
    assert_eq!(world.value("SELECT count(*) FROM copyhold.copy_failures").await.unwrap(), "0");
}
