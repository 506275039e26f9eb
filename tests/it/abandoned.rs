//! Objects whose holders died: counted, put off, copied alone, and read once more when they are copied at last.

use std::time::Duration;

use copyhold::domain::Lease;

use crate::world::World;

const SETTLE: Duration = Duration::from_mins(3);

/// Claims the one row of the world for a daemon that dies, and has it swept. How often in a row that was.
async fn dies_with(world: &World) -> u32 {
    world.execute("UPDATE copyhold.object_copies SET due_wasabi = 0, due_scw = 0").await;
    let daemon = world.enlist(60).await;
    assert_eq!(world.claim(&daemon, "wasabi", 1).await.len(), 1);
    world.execute("UPDATE copyhold.object_copies SET lock = 1").await;
    let freed = world.queue().reclaim(SETTLE).await.unwrap();
    assert_eq!(freed.len(), 1);
    freed[0].times
}

async fn claimed_again(world: &World) -> Lease {
    world.execute("UPDATE copyhold.object_copies SET due_wasabi = 0, due_scw = 0").await;
    let daemon = world.enlist(60).await;
    world.claim(&daemon, "wasabi", 1).await.remove(0)
}

#[tokio::test]
async fn an_object_keeps_its_place_the_first_time_its_holder_dies() {
    let world = World::new().await;
    world.insert("photo").await;
    assert_eq!(dies_with(&world).await, 1);
    assert_eq!(world.value("SELECT (due_wasabi, due_scw) FROM copyhold.object_copies").await.unwrap(), "(0,0)");
}

#[tokio::test]
async fn from_the_second_time_on_an_object_waits_twice_as_long_each_time() {
    let world = World::new().await;
    world.insert("photo").await;
    let wait = "SELECT (due_wasabi - copyhold.now_utc_micro_seconds()) / 1e6 FROM copyhold.object_copies";
    for (times, seconds) in [(1, 0.0), (2, 10.0), (3, 20.0), (4, 40.0)] {
        assert_eq!(dies_with(&world).await, times);
        let waits: f64 = world.value(wait).await.unwrap().parse().unwrap();
        assert!(times == 1 || (seconds * 0.8 - 5.0..=seconds * 1.2).contains(&waits), "{times}: {waits}");
    }
    for times in 5..40 {
        assert_eq!(dies_with(&world).await, times);
    }
    let waits: f64 = world.value(wait).await.unwrap().parse().unwrap();
    assert!((900.0 * 0.8 - 5.0..=900.0 * 1.2).contains(&waits), "{waits}");
}

#[tokio::test]
async fn a_sweep_puts_off_what_is_missing_wanted_and_not_parked() {
    let world = World::new().await;
    world.insert("photo").await;
    dies_with(&world).await;
    world.execute("UPDATE copyhold.object_copies SET due_b2 = 5, due_wasabi = 0, due_scw = 9000000000000000000").await;
    let dues = "SELECT (due_b2, due_wasabi > copyhold.now_utc_micro_seconds(), due_scw) FROM copyhold.object_copies";
    let daemon = world.enlist(60).await;
    assert_eq!(world.claim(&daemon, "wasabi", 1).await.len(), 1);
    world.execute("UPDATE copyhold.object_copies SET lock = 1").await;
    assert_eq!(world.queue().reclaim(SETTLE).await.unwrap()[0].times, 2);
    assert_eq!(world.value(dues).await.unwrap(), "(5,t,9000000000000000000)");
    // What waits for a later time keeps it; what is not wanted stays so.
    world
        .execute(
            "UPDATE copyhold.object_copies
             SET lock = 1, lease = 7, due_wasabi = 8000000000000000000, due_scw = NULL",
        )
        .await;
    assert_eq!(world.queue().reclaim(SETTLE).await.unwrap()[0].times, 3);
    assert_eq!(
        world.value("SELECT (due_wasabi, due_scw) FROM copyhold.object_copies").await.unwrap(),
        "(8000000000000000000,)"
    );
}

#[tokio::test]
async fn a_new_content_is_not_suspected_of_what_the_old_one_did() {
    let world = World::new().await;
    world.insert("photo").await;
    dies_with(&world).await;
    assert_eq!(dies_with(&world).await, 2);
    world.value("SELECT copyhold.register('photo')").await;
    let lease = claimed_again(&world).await;
    // But a request for the old content may still be on its way.
    assert_eq!(lease.swept, Some(0));
    world.queue().release(&[(lease.key, lease.fence)]).await.unwrap();
    assert_eq!(dies_with(&world).await, 1);
}

#[tokio::test]
async fn the_claim_tells_how_often_an_object_was_abandoned() {
    let world = World::new().await;
    world.insert("photo").await;
    let lease = claimed_again(&world).await;
    assert_eq!(lease.swept, None);
    world.queue().release(&[(lease.key, lease.fence)]).await.unwrap();
    dies_with(&world).await;
    dies_with(&world).await;
    assert_eq!(claimed_again(&world).await.swept, Some(2));
}

#[tokio::test]
async fn a_lease_that_is_given_back_leaves_no_trace() {
    let world = World::new().await;
    world.insert("photo").await;
    let lease = claimed_again(&world).await;
    world.queue().release(&[(lease.key, lease.fence)]).await.unwrap();
    assert!(world.queue().reclaim(SETTLE).await.unwrap().is_empty());
    assert_eq!(world.value("SELECT count(*) FROM copyhold.swept_leases").await.unwrap(), "0");
}
