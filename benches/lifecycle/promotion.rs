//! Promotions back and forth under load: no object is lost or copied twice, and copies are as fast as without
//! promotions.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use copyhold_sandbox::s3::synthetic;
use sqlx::AssertSqlSafe;
use tokio::{
    process::Command,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::common::{
    environment::{Disk, Environment},
    process,
    report::{at_least, at_most, percentile},
    stores::Stores,
};

const DAEMONS: usize = 2;
/// The size of the objects that the application uploads.
const BYTES: u64 = 10 << 10;
const EVERY: Duration = Duration::from_millis(10);
/// Runs with promotions, each beside one without; and the promotions of one run.
const STRETCHES: usize = 4;
const PROMOTIONS: usize = 10;
const STRETCH: Duration = Duration::from_secs(10);

/// By key, the replica to which the application uploaded the object.
type Uploaded = BTreeMap<String, String>;

pub(super) async fn play() -> anyhow::Result<()> {
    let stores = Stores::here().await?;
    let stage = Environment::begin(Disk::Plain, &stores, "").await?;
    let mut daemons = Vec::new();
    for _ in 0..DAEMONS {
        daemons.push(stage.daemon().await?);
    }
    // Both replicas hold an object, so that either can be the primary.
    let mut uploaded = Uploaded::new();
    load(&stage, &stores, "first", Duration::from_millis(200), &mut uploaded).await?;
    until_everywhere(&stage).await?;

    let (mut promotions, mut lags) = (0, [Vec::new(), Vec::new()]);
    // In turns, so that other load of the machine affects both.
    for stretch in 0..STRETCHES {
        for (of, with) in [false, true].into_iter().enumerate() {
            let prefix = format!("{}-{stretch}", if with { "with" } else { "without" });
            let over = CancellationToken::new();
            let loading = async {
                let loaded = load(&stage, &stores, &prefix, STRETCH, &mut uploaded).await;
                over.cancel();
                loaded
            };
            let promoting = async { if with { promote(&stage, &over).await } else { Ok(0) } };
            let (loaded, promoted) = tokio::join!(loading, promoting);
            loaded?;
            promotions += promoted?;
            until_everywhere(&stage).await?;
            lags[of].extend(lags_of(&stage, &prefix).await?);
        }
    }

    let (mut lost, mut twice) = (0_u64, 0_u64);
    for (key, at) in &uploaded {
        let truth = stores.bucket(at)?.inspect(key).context("the application's own object")?.content;
        for replica in Stores::REPLICAS {
            let bucket = stores.bucket(replica)?;
            lost += u64::from(bucket.inspect(key).is_none_or(|object| object.content != truth));
            twice += bucket.writes(key).saturating_sub(u64::from(replica != at));
        }
    }
    let of = |lags: &mut Vec<f64>, percent| {
        lags.sort_by(f64::total_cmp);
        percentile(lags, percent)
    };
    let [without, with] = &mut lags;
    println!(
        "{promotions} promotions while {} objects came, {:.0} a second, {DAEMONS} daemons: from registration to the last copy \
         {:.1} ms with, {:.1} ms without at the median, {:.1} and {:.1} ms for 95 of 100",
        uploaded.len(),
        1.0 / EVERY.as_secs_f64(),
        of(with, 50),
        of(without, 50),
        of(with, 95),
        of(without, 95),
    );
    at_least("L3", "promotions", promotions, 2 * 20);
    at_most("L3", "lost-or-different-copies", lost, 0);
    at_most("L3", "copied-twice", twice, 0);
    at_most("L3", "lag-percent-of-without", 100.0 * of(with, 50) / of(without, 50), 110.0);
    for daemon in daemons {
        daemon.end().await?;
    }
    stage.end().await?;
    stores.end().await
}

/// Uploads to the current primary and names its column, as an application does that knows the primary.
async fn load(
    stage: &Environment,
    stores: &Stores,
    prefix: &str,
    length: Duration,
    uploaded: &mut Uploaded,
) -> anyhow::Result<()> {
    let (begun, mut tick) = (Instant::now(), tokio::time::interval(EVERY));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    while begun.elapsed() < length {
        tick.tick().await;
        number += 1;
        let key = format!("{prefix}-{number}");
        let primary = primary(stage).await?;
        let bytes = synthetic::bytes(uploaded.len() as u64, 0..BYTES);
        stores.bucket(&primary)?.put(&key, bytes);
        // The name is one of the constants here.
        let insert = format!(
            "INSERT INTO copyhold.object_copies (object_key, {primary}) VALUES ($1, copyhold.now_utc_micro_seconds())"
        );
        sqlx::query(AssertSqlSafe(insert)).bind(&key).execute(&stage.pool).await?;
        uploaded.insert(key, primary);
    }
    Ok(())
}

async fn primary(stage: &Environment) -> anyhow::Result<String> {
    let sql = "SELECT name FROM copyhold.replicas WHERE primary_since IS NOT NULL";
    Ok(sqlx::query_scalar(sql).fetch_one(&stage.pool).await?)
}

/// Promotes to and fro, at even intervals; returns how often.
async fn promote(stage: &Environment, over: &CancellationToken) -> anyhow::Result<u64> {
    let mut promoted = 0;
    let distance = STRETCH / u32::try_from(PROMOTIONS)?;
    for _ in 0..PROMOTIONS {
        tokio::select! {
            () = tokio::time::sleep(distance / 2) => {}
            () = over.cancelled(), if promoted > 0 => {}
        }
        let next = if primary(stage).await? == "b2" { "wasabi" } else { "b2" };
        run(&stage.config_path(), &["promote", next, "--accept-missing"]).await?;
        promoted += 1;
        tokio::time::sleep(distance / 3).await;
    }
    Ok(promoted)
}

/// Runs the real program, which must succeed.
pub(super) async fn run(config: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(process::program());
    command.arg("--config").arg(config).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{arguments:?}: {said}");
    Ok(said)
}

/// Waits until all registered objects are everywhere.
pub(super) async fn until_everywhere(stage: &Environment) -> anyhow::Result<()> {
    let left = "SELECT count(*) FROM copyhold.object_copies
                 WHERE b2 IS NULL OR wasabi IS NULL OR scw IS NULL OR lock IS NOT NULL";
    while stage.count(left).await? > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Returns ms from registration to the last copy.
async fn lags_of(stage: &Environment, prefix: &str) -> anyhow::Result<Vec<f64>> {
    let sql = "SELECT ((greatest(b2, wasabi, scw) - created_at) / 1e3)::double precision FROM copyhold.object_copies
                WHERE object_key LIKE $1 || '-%'";
    Ok(sqlx::query_scalar(sql).bind(prefix).fetch_all(&stage.pool).await?)
}
