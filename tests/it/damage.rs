//! A bit that flips anywhere is detected, and no damaged copy is ever recorded.

use std::{env, path::Path};

use copyhold_testkit::damage::{DamageSetup, careless, play};

use crate::harness::{Harness, bucket};

const TRIALS: usize = 50;

/// DAMAGE_SEED plays other trials than those that are played every day.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_noticed_wherever_it_flips_and_never_recorded() {
    let seed = env::var("DAMAGE_SEED").map_or(1, |seed| seed.parse().unwrap());
    let harness = Harness::new().await;
    harness.s3.create_bucket(&bucket("scw"), careless());
    let daemon = harness.daemon().await;
    for target in ["wasabi", "scw"] {
        daemon.until_logged(&format!("Copying to {target}")).await;
    }
    let (config, pool) = (harness.config_path(), &harness.pool);
    let program = Path::new(env!("CARGO_BIN_EXE_copyhold"));
    let ground = DamageSetup { program, config: &config, pool, bucket: &|replica| harness.bucket(replica) };
    let told = play(&ground, seed, TRIALS).await.unwrap();
    println!("seed {seed}: {told}");
    assert_eq!((told.source, told.wire, told.rest), (TRIALS, TRIALS, TRIALS), "seed {seed}: {told}");
    assert_eq!(told.recorded_wrongly, 0, "seed {seed}: {told}");
}
