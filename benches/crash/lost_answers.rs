//! Ten thousand PUTs that a store executed without an answer: how many copies are read again for them.

use std::time::Duration;

use anyhow::Context as _;
use copyhold_sandbox::s3::{Fault, Op, When};
use sqlx::Executor as _;
use tokio::time::{sleep, timeout};

use super::registration_load::until_none;
use crate::common::{
    environment::{Disk, Environment},
    report::{at_least, at_most},
    stores::Stores,
};

const OBJECTS: u32 = 12_000;
const BYTES: u64 = 1024;
const UNANSWERED: u64 = 10_000;
/// The share of PUTs that wasabi executes without an answer. The others keep its breaker closed.
const CHANCE: f64 = 0.8;
const WITHIN: Duration = Duration::from_mins(15);

pub(super) async fn play(seed: u64) -> anyhow::Result<()> {
    let stores = Stores::here().await?;
    stores.fill(OBJECTS, BYTES)?;
    let stage = Environment::begin(Disk::Plain, &stores, "").await?;
    let target = stores.bucket("wasabi")?;
    let unanswered = target.order(Fault::LoseAnswer, When::op(Op::PutObject).chance(CHANCE, seed));
    let sql = "INSERT INTO copyhold.object_copies (object_key, b2)
        SELECT 'object-' || i, copyhold.now_utc_micro_seconds() FROM generate_series(1, $1) i";
    sqlx::query(sql).bind(i32::try_from(OBJECTS)?).execute(&stage.pool).await?;
    let mut daemon = stage.daemon().await?;
    let enough = async {
        while unanswered.strikes() < UNANSWERED {
            daemon.check()?;
            sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    timeout(WITHIN, enough).await.context("too few PUTs were sent")??;
    unanswered.clear();
    stage.pool.execute("UPDATE copyhold.object_copies SET due_wasabi = 0 WHERE due_wasabi > 0").await?;
    let missing = "SELECT count(*) FROM copyhold.object_copies WHERE wasabi IS NULL OR scw IS NULL OR lock IS NOT NULL";
    until_none(&stage, &mut daemon, missing, WITHIN).await?;
    let noted = stage.count("SELECT count(*) FROM copyhold.unsettled").await?;
    // Copies under which no write can arrive any more are judged.
    sqlx::query("UPDATE copyhold.unsettled SET verify_at = 1, settled_at = 1").execute(&stage.pool).await?;
    until_none(&stage, &mut daemon, "SELECT count(*) FROM copyhold.unsettled", WITHIN).await?;
    println!("{} PUTs were not answered; {noted} copies were noted", unanswered.strikes());
    at_least("Q5", "unanswered-puts", unanswered.strikes(), UNANSWERED);
    at_most("Q5", "reads-for-unanswered-puts", target.calls(Op::GetObject), 0);
    daemon.end().await?;
    stage.end().await?;
    stores.end().await
}
