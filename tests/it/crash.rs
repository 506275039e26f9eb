//! Daemons may be killed, stopped and cut off all the time: nothing is lost, and nothing is claimed that is not so.

use std::{env, path::Path, time::Duration};

use copyhold_testkit::chaos::{self, Keys};

/// CHAOS_SEED plays another minute than the one that is played every day. With CHAOS_CHANGES objects get new contents as
/// well, rows are deleted, the primary changes and PUTs land late, which takes longer: what was sent must have settled.
#[tokio::test(flavor = "multi_thread")]
async fn a_minute_of_accidents_loses_nothing_and_records_nothing_that_is_not_there() {
    let seed = env::var("CHAOS_SEED").map_or(3, |seed| seed.parse().unwrap());
    let program = Path::new(env!("CARGO_BIN_EXE_copyhold"));
    let changes = env::var_os("CHAOS_CHANGES").is_some();
    let keys = if changes { Keys::MayChange } else { Keys::NeverChange };
    let told = chaos::play(program, keys, seed, Duration::from_mins(1)).await;
    println!("seed {seed}: {}", told.unwrap());
}
