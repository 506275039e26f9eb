//! A bit that flips anywhere is detected, and no damaged copy is ever recorded.

use std::{env, path::Path};

use copyhold_testkit::damage::{DamageSetup, careless, play};

use crate::harness::{World, bucket};

const TRIALS: usize = 50;

/// DAMAGE_SEED plays other trials than those that are played every day.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_noticed_wherever_it_flips_and_never_recorded() {
    let seed = env::var("DAMAGE_SEED").map_or(1, |seed| seed.parse().unwrap());
    let world = World::new().await;
    world.s3.create_bucket(&bucket("scw"), careless());
    let daemon = world.daemon().await;
    for target in ["wasabi", "scw"] {
        daemon.until_logged(&format!("Copying to {target}")).await;
    }
    let (config, pool) = (world.config_path(), &world.pool);
    let program = Path::new(env!("CARGO_BIN_EXE_copyhold"));
    let ground = DamageSetup { program, config: &config, pool, bucket: &|replica| world.bucket(replica) };
    let told = play(&ground, seed, TRIALS).await.unwrap();
    println!("seed {seed}: {told}");
    assert_eq!((told.source, told.wire, told.rest), (TRIALS, TRIALS, TRIALS), "seed {seed}: {told}");
    assert_eq!(told.recorded_wrongly, 0, "seed {seed}: {told}");
}
