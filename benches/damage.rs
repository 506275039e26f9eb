//! C8: a thousand flipped bits on the way from the source, a thousand on the way to a target, a thousand in what a
//! target stores. `ARGS='--seed 7'` flips others.

use std::path::Path;

use copyhold_testkit::damage::{self, DamageSetup, careless};

use crate::common::{
    environment::{Disk, Environment},
    play,
    report::at_most,
    stores::Stores,
};

const TRIALS: usize = 1000;

pub async fn run(words: &[String]) -> anyhow::Result<()> {
    let seed = words.iter().skip_while(|word| *word != "--seed").nth(1).map_or(Ok(1), |seed| seed.parse())?;
    play(async || {
        let stores = Stores::here().await?;
        stores.anew("scw", careless())?;
        let stage = Environment::begin(Disk::Plain, &stores, "").await?;
        let daemon = stage.daemon().await?;
        let program = Path::new(env!("CARGO_BIN_EXE_copyhold"));
        // Cannot fail: the stores are in this process, and have the buckets of all replicas.
        let bucket = |replica: &str| stores.bucket(replica).expect("a bucket in this process");
        let config = stage.config_path();
        let ground = DamageSetup { program, config: &config, pool: &stage.pool, bucket: &bucket };
        let told = damage::play(&ground, seed, TRIALS).await?;
        println!("seed {seed}: {told}");
        at_most("C8", "not-noticed-source", TRIALS - told.source, 0);
        at_most("C8", "not-noticed-wire", TRIALS - told.wire, 0);
        at_most("C8", "not-noticed-at-rest", TRIALS - told.rest, 0);
        at_most("C8", "recorded-damaged", told.recorded_wrongly, 0);
        daemon.end().await?;
        stage.end().await?;
        stores.end().await
    })
    .await
}
