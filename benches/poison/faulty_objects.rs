//! How long healthy objects take beside faulty ones, and how the faulty ones end.

use std::time::{Duration, Instant};

use copyhold_sandbox::s3::{Op, When, synthetic};

use super::fault_kinds::Kind;
use crate::common::{
    environment::{Disk, Environment},
    report::at_most,
    stores::Stores,
};

const BYTES: u64 = 10 << 10;
/// The same density as 20 in 12,000: a higher one would be another case.
const ONE_IN: u32 = 600;
/// By then every faulty object has its reason on record: requests without an answer are given up after a minute.
const REASONS_WITHIN: Duration = Duration::from_mins(3);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const TIMES_AS_LONG: f64 = 1.2;

/// The objects of one round; the first registered ones may have their own prefix.
struct Objects {
    first: u32,
    count: u32,
}

impl Objects {
    fn key(&self, i: u32) -> String {
        if i < self.first { format!("denied/{i}") } else { format!("object/{i}") }
    }

    fn keys(&self) -> Vec<String> {
        (0..self.count).map(|i| self.key(i)).collect()
    }
}

/// Measures the seconds that this many objects take if all are healthy.
pub(super) async fn without(count: u32) -> anyhow::Result<f64> {
    let objects = Objects { first: count / 3, count };
    let (stores, stage) = begin(&objects).await?;
    let daemon = stage.daemon().await?;
    register(&stage, &objects).await?;
    let seconds = until_copied(&stage, &[], &[]).await?;
    println!("{count} objects of {} KiB, all healthy: {seconds:.1} s", BYTES >> 10);
    daemon.end().await?;
    stage.end().await?;
    stores.end().await?;
    Ok(seconds)
}

/// Measures one kind. `baseline`: seconds without faulty objects.
pub(super) async fn play(kind: &Kind, count: u32, baseline: f64) -> anyhow::Result<()> {
    let objects = Objects { first: count / 3, count };
    let (stores, stage) = begin(&objects).await?;
    let (scw, b2) = (stores.bucket("scw")?, stores.bucket("b2")?);
    let mut at_target = Vec::new();
    if let Some(fault) = &kind.at_target {
        if kind.prefix {
            scw.order(fault.clone(), When::op(Op::PutObject).prefix("denied/"));
            at_target.extend((0..objects.first).map(|i| objects.key(i)));
        } else {
            let poison = (count / ONE_IN).max(1);
            at_target.extend((0..poison).map(|i| objects.key(i * (count / poison) + count / poison / 2)));
            for key in &at_target {
                scw.order(fault.clone(), When::op(Op::PutObject).key(key));
            }
        }
    }
    let mut at_source = Vec::new();
    if let Some(fault) = &kind.at_source {
        at_source.push(objects.key(count / 3));
        b2.order(fault.clone(), When::op(Op::GetObject).key(&at_source[0]));
    }
    at_target.retain(|key| !at_source.contains(key));
    let daemon = stage.daemon().await?;
    register(&stage, &objects).await?;
    let seconds = until_copied(&stage, &at_target, &at_source).await?;
    let without_reason = until_explained(&stage, kind, &at_target, &at_source).await?;
    let opened = stage.count(OPENED).await?;
    println!(
        "{}: {} at the target and {} at the source, the others in {seconds:.1} s, {:.2} times the time without",
        kind.name,
        at_target.len(),
        at_source.len(),
        seconds / baseline
    );
    at_most("P1", &format!("times-as-long-{}", kind.name), seconds / baseline, TIMES_AS_LONG);
    at_most("P1", &format!("without-their-reason-{}", kind.name), without_reason, 0);
    at_most("P1", &format!("breakers-opened-{}", kind.name), opened, 0);
    scw.clear_faults();
    b2.clear_faults();
    daemon.end().await?;
    stage.end().await?;
    stores.end().await
}

pub(super) const OPENED: &str =
    "SELECT count(*) FROM copyhold.log WHERE event_data->>'kind' = 'replica.breaker_opened'";

async fn begin(objects: &Objects) -> anyhow::Result<(Stores, Environment)> {
    let stores = Stores::here().await?;
    let bucket = stores.bucket("b2")?;
    for (i, key) in (0..).zip(objects.keys()) {
        bucket.put(&key, synthetic::bytes(i, 0..BYTES));
    }
    let stage = Environment::begin(Disk::Plain, &stores, "").await?;
    Ok((stores, stage))
}

async fn register(stage: &Environment, objects: &Objects) -> anyhow::Result<()> {
    let sql = "INSERT INTO copyhold.object_copies (object_key, b2)
               SELECT k, copyhold.now_utc_micro_seconds() FROM unnest($1::text[]) WITH ORDINALITY AS x(k, i) ORDER BY i";
    sqlx::query(sql).bind(objects.keys()).execute(&stage.pool).await?;
    Ok(())
}

/// Returns the seconds until all healthy copies are recorded, by the database's clock. An object that is faulty at one
/// target is healthy at the other.
async fn until_copied(stage: &Environment, at_target: &[String], at_source: &[String]) -> anyhow::Result<f64> {
    let lacks = "SELECT count(*) FROM copyhold.object_copies
                 WHERE NOT object_key = ANY ($2) AND (wasabi IS NULL OR scw IS NULL AND NOT object_key = ANY ($1))";
    while sqlx::query_scalar::<_, i64>(lacks).bind(at_target).bind(at_source).fetch_one(&stage.pool).await? > 0 {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let took = "SELECT (max(greatest(wasabi, CASE WHEN NOT object_key = ANY ($1) THEN scw END)) - min(created_at)) / 1e6::float8
                FROM copyhold.object_copies WHERE NOT object_key = ANY ($2)";
    Ok(sqlx::query_scalar(took).bind(at_target).bind(at_source).fetch_one(&stage.pool).await?)
}

/// Returns how many faulty objects have no failure of the expected class on record at the end of their time.
async fn until_explained(
    stage: &Environment,
    kind: &Kind,
    at_target: &[String],
    at_source: &[String],
) -> anyhow::Result<i64> {
    let unexplained = "SELECT count(*) FROM (
                           SELECT k, $2 AS class FROM unnest($1::text[]) k UNION ALL SELECT k, $4 FROM unnest($3::text[]) k) x
                       WHERE NOT EXISTS (SELECT FROM copyhold.copy_failures f
                                         WHERE f.object_key = x.k AND f.replica = 'scw' AND f.class = x.class)";
    let begun = Instant::now();
    loop {
        let query = sqlx::query_scalar(unexplained).bind(at_target).bind(kind.class[0]);
        let left: i64 = query.bind(at_source).bind(kind.class[1]).fetch_one(&stage.pool).await?;
        if left == 0 || begun.elapsed() > REASONS_WITHIN {
            return Ok(left);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
