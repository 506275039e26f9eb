//! A whole store fails: the daemon detects it at once, charges no object, and ends it with one probe.

use std::time::{Duration, Instant};

use copyhold_sandbox::s3::{Fault, Op, When};

use crate::common::{
    environment::{Disk, Environment},
    report::at_most,
    stores::Stores,
};

const BYTES: u64 = 10 << 10;
/// The length of the outage.
const OUTAGE: Duration = Duration::from_secs(10);
const OPEN_WITHIN_S: f64 = 5.0;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The time limit of each wait.
const AT_MOST: Duration = Duration::from_mins(2);

/// One kind of outage.
pub(super) struct Outage {
    pub name: &'static str,
    fault: Fault,
    when: When,
}

/// Returns all kinds, in order.
pub(super) fn all() -> Vec<Outage> {
    let puts = || When::op(Op::PutObject);
    vec![
        Outage { name: "down", fault: Fault::Reset, when: When::always() },
        Outage { name: "quota", fault: Fault::answer(507, "InsufficientStorage"), when: puts() },
        Outage { name: "revoked", fault: Fault::forbidden("InvalidAccessKeyId"), when: When::always() },
        Outage { name: "fails-every-put", fault: Fault::internal_error(), when: puts() },
    ]
}

pub(super) async fn play(outage: &Outage, count: u32) -> anyhow::Result<()> {
    let stores = Stores::here().await?;
    stores.fill(count, BYTES)?;
    let stage = Environment::begin(Disk::Plain, &stores, "").await?;
    let daemon = stage.daemon().await?;
    // In the middle of a backlog.
    let scw = stores.bucket("scw")?;
    stage.register(count).await?;
    until(&stage, &format!("SELECT count(scw) >= {} FROM copyhold.object_copies", count / 10)).await?;
    let begun = Instant::now();
    let order = scw.order(outage.fault.clone(), outage.when.clone());
    until(&stage, "SELECT breaker_opened_at IS NOT NULL FROM copyhold.replicas WHERE name = 'scw'").await?;
    let opened_after = begun.elapsed().as_secs_f64();
    tokio::time::sleep(OUTAGE).await;
    let charged = stage.count("SELECT count(*) FROM copyhold.copy_failures WHERE attempts > 0").await?;
    let recorded = stage.count("SELECT count(*) FROM copyhold.copy_failures").await?;
    let failed_before = failed_probes(&stage).await?;
    order.clear();
    // The next probe is due now, however long it would be until then.
    let due = "UPDATE copyhold.replicas SET probe_at = 1 WHERE probe_at IS NOT NULL";
    sqlx::query(due).execute(&stage.pool).await?;
    sqlx::query("SELECT pg_notify('copyhold_work', 'replicas')").execute(&stage.pool).await?;
    let well = Instant::now();
    let mut failed_since = 0;
    while stage.count("SELECT count(breaker_opened_at) FROM copyhold.replicas").await? > 0 && well.elapsed() < AT_MOST {
        failed_since = failed_since.max(failed_probes(&stage).await? - failed_before);
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let closed_after = well.elapsed().as_secs_f64();
    until(&stage, &format!("SELECT count(scw) = {count} FROM copyhold.object_copies")).await?;
    println!("{}: open after {opened_after:.2} s, closed {closed_after:.2} s after the store was well", outage.name);
    at_most("P1", &format!("seconds-to-open-{}", outage.name), opened_after, OPEN_WITHIN_S);
    at_most("P1", &format!("charged-{}", outage.name), charged, 0);
    at_most("P1", &format!("failures-recorded-{}", outage.name), recorded, 0);
    // One attempt may have begun before the store was healthy.
    at_most("P1", &format!("failed-probes-since-{}", outage.name), failed_since, 1);
    daemon.end().await?;
    stage.end().await?;
    stores.end().await
}

async fn failed_probes(stage: &Environment) -> anyhow::Result<i64> {
    stage.count("SELECT coalesce(max(probes_failed), 0)::bigint FROM copyhold.replicas").await
}

async fn until(stage: &Environment, query: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    // The statement consists of numbers and of words of this file.
    while !sqlx::query_scalar::<_, bool>(sqlx::AssertSqlSafe(query)).fetch_one(&stage.pool).await? {
        anyhow::ensure!(begun.elapsed() < AT_MOST, "never came true: {query}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}
