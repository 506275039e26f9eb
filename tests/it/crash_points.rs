//! A daemon may die at any instant. One test per instant: it dies there, and another one ends the work.

use copyhold::sandbox::s3::{Fault, Gate, Op, When, synthetic};

use crate::world::{World, soon};

/// Has a daemon die while the store holds `call` to wasabi, `fault` deciding on which side of it, and another one
/// take over. Returns when `key` is copied everywhere.
async fn dies_at(world: &World, key: &str, fault: impl FnOnce(Gate) -> Fault, call: Op) {
    let gate = Gate::new();
    let hold = world.bucket("wasabi").order(fault(gate.clone()), When::op(call).next(1));
    let mut doomed = world.daemon().await;
    soon("the daemon comes to where it dies", gate.holds(1)).await;
    doomed.kill().await;
    gate.open();
    hold.clear();
    let _heir = world.daemon().await;
    world.until_copied(key).await;
}

fn large() -> Vec<u8> {
    synthetic::bytes(11, 0..40 << 20).to_vec()
}

fn assert_equal_everywhere(world: &World, key: &str, bytes: &[u8]) {
    for replica in ["wasabi", "scw"] {
        assert!(world.bucket(replica).get(key).unwrap() == bytes, "{key} differs at {replica}");
    }
}

#[tokio::test]
async fn it_may_die_before_a_small_object_has_arrived() {
    let world = World::new().await;
    world.upload("photo", "bytes").await;
    dies_at(&world, "photo", Fault::Hold, Op::PutObject).await;
    assert_equal_everywhere(&world, "photo", b"bytes");
}

#[tokio::test]
async fn it_may_die_after_a_small_object_has_arrived_and_before_that_is_recorded() {
    let world = World::new().await;
    world.upload("photo", "bytes").await;
    dies_at(&world, "photo", Fault::HoldAnswer, Op::PutObject).await;
    assert_equal_everywhere(&world, "photo", b"bytes");
    assert_eq!(world.bucket("wasabi").writes("photo"), 2);
}

#[tokio::test]
async fn it_may_die_before_it_knows_the_name_of_its_upload() {
    let world = World::new().await;
    let bytes = large();
    world.upload("large", bytes.clone()).await;
    dies_at(&world, "large", Fault::HoldAnswer, Op::CreateMultipartUpload).await;
    assert_equal_everywhere(&world, "large", &bytes);
}

#[tokio::test]
async fn it_may_die_in_the_middle_of_an_upload() {
    let world = World::new().await;
    let bytes = large();
    world.upload("large", bytes.clone()).await;
    dies_at(&world, "large", Fault::Hold, Op::UploadPart).await;
    assert_equal_everywhere(&world, "large", &bytes);
}

#[tokio::test]
async fn it_may_die_after_an_upload_was_completed_and_before_that_is_recorded() {
    let world = World::new().await;
    let bytes = large();
    world.upload("large", bytes.clone()).await;
    dies_at(&world, "large", Fault::HoldAnswer, Op::CompleteMultipartUpload).await;
    assert_equal_everywhere(&world, "large", &bytes);
}

#[tokio::test]
async fn it_may_die_while_it_reads() {
    let world = World::new().await;
    let gate = Gate::new();
    world.upload("photo", "bytes").await;
    let hold = world.bucket("b2").order(Fault::Hold(gate.clone()), When::op(Op::GetObject).next(1));
    let mut doomed = world.daemon().await;
    soon("it reads", gate.holds(1)).await;
    doomed.kill().await;
    gate.open();
    hold.clear();
    let _heir = world.daemon().await;
    world.until_copied("photo").await;
    assert_equal_everywhere(&world, "photo", b"bytes");
}

#[tokio::test]
async fn it_may_die_between_the_record_of_one_copy_and_of_the_other() {
    let world = World::new().await;
    let gate = Gate::new();
    let hold = world.bucket("scw").order(Fault::Hold(gate.clone()), When::op(Op::PutObject).next(1));
    world.upload("photo", "bytes").await;
    let mut doomed = world.daemon().await;
    soon("scw holds it", gate.holds(1)).await;
    world.until("SELECT wasabi IS NOT NULL AND scw IS NULL FROM copyhold.object_copies").await;
    doomed.kill().await;
    gate.open();
    hold.clear();
    let _heir = world.daemon().await;
    world.until_copied("photo").await;
    assert_eq!(world.bucket("wasabi").writes("photo"), 1);
}
