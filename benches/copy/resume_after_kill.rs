//! A daemon is repeatedly killed at a random point of a large object: the bytes that its successor sends again.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use copyhold_sandbox::s3::{BucketHandle, BucketOptions, Op, Synthetic};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    baseline::{PART_BYTES, TARGETS},
    copyhold_daemon::CopyholdDaemon,
};
use crate::common::{environment::Environment, report::at_most, stores::Stores};

const BYTES: u64 = 2 << 30;
const KILLS: u32 = 20;
/// A short lease, because the successor's wait is not measured; but long enough that a busy machine does not lose it,
/// which would count as another death.
const SETTINGS: &str = "[lease]\ntimeout = \"8s\"\nheartbeat = \"1s\"\n[sweeper]\nevery = \"500ms\"\n";
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// After this long without a byte, everything from a dead process's sockets has arrived.
const QUIET: Duration = Duration::from_millis(300);

pub(super) async fn play(seed: u64) -> anyhow::Result<()> {
    println!("- killed at a random point of a 2 GiB object, seed {seed}");
    let stores = Stores::here_as(&Stores::REPLICAS, &BucketOptions::digest_only()).await?;
    let source = stores.bucket("b2")?;
    let object = Synthetic::new(1, BYTES);
    source.put_synthetic_in_parts("object-0", object, PART_BYTES);
    let etag = source.inspect("object-0").expect("was just put").etag;
    (1..=KILLS).for_each(|i| source.put_synthetic_as(&format!("object-{i}"), object, &etag));
    let targets = [stores.bucket(TARGETS[0])?, stores.bucket(TARGETS[1])?];

    let mut ours = CopyholdDaemon::begin(&stores, SETTINGS).await?;
    let undisturbed = ours.copy(&["object-0".to_owned()]).await?.ours.seconds;
    println!("undisturbed: {undisturbed:.1} s");
    let mut dice = StdRng::seed_from_u64(seed);
    let (mut again, mut excess) = (Vec::new(), 0.0_f64);
    for i in 1..=KILLS {
        let key = format!("object-{i}");
        targets.iter().for_each(BucketHandle::forget_counts);
        ours.register(std::slice::from_ref(&key)).await?;
        tokio::time::sleep(Duration::from_secs_f64(undisturbed * dice.random_range(0.02..0.95))).await;
        ours.daemon.kill().await?;
        let sent = until_quiet(&targets).await;
        let mut lost = [0.0; 2];
        for (lost, (sent, target)) in lost.iter_mut().zip(sent.iter().zip(TARGETS)) {
            *lost = mib(*sent) - mib(recorded(&ours.stage, &key, target).await?);
        }
        ours.daemon = ours.stage.daemon().await?;
        ours.until_done().await?;
        let mut line = format!("killed after {:.0} MiB:", mib(sent.iter().sum()));
        for (target, lost) in targets.iter().zip(lost) {
            let copy = target.inspect(&key).map(|copy| copy.content);
            anyhow::ensure!(copy == source.inspect(&key).map(|object| object.content), "{key} was not copied as it is");
            let more = mib(uploaded(target)) - mib(BYTES);
            write!(line, " {more:.1} MiB sent again, {lost:.1} were in flight or not recorded;")?;
            again.push(more);
            excess = excess.max(more - lost);
        }
        println!("{line} {:.0} leases lost", ours.daemon.metrics().await?.sum("copyhold_leases_lost_total", ""));
    }
    again.sort_by(f64::total_cmp);
    println!("sent again: {:.0} MiB in the middle, {:.0} at most", again[again.len() / 2], again[again.len() - 1]);
    at_most("C5", "mib-sent-again-beyond-those-in-flight", excess, 0.0);
    ours.end().await?;
    stores.end().await
}

fn uploaded(target: &BucketHandle) -> u64 {
    target.moved(Op::UploadPart).received
}

/// Returns the bytes that each target has received, once no more arrive.
async fn until_quiet(targets: &[BucketHandle; 2]) -> [u64; 2] {
    let mut sent = targets.each_ref().map(uploaded);
    let mut since = Instant::now();
    while since.elapsed() < QUIET {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = targets.each_ref().map(uploaded);
        if now != sent {
            (sent, since) = (now, Instant::now());
        }
    }
    sent
}

/// Returns the bytes that the database has recorded as stored at the target.
async fn recorded(stage: &Environment, key: &str, target: &str) -> anyhow::Result<u64> {
    let sql = format!(
        "SELECT coalesce(
    (SELECT size_bytes FROM copyhold.object_copies WHERE object_key = $1 AND {target} IS NOT NULL),
    (SELECT sum(least(part_bytes, size_bytes - (part_number - 1) * part_bytes))::bigint
     FROM copyhold.multipart_uploads JOIN copyhold.multipart_parts ON upload = id
     WHERE object_key = $1 AND replica = $2),
    0)"
    );
    // The name of one of the benchmark's replicas.
    let bytes: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(key).bind(target).fetch_one(&stage.pool).await?;
    Ok(u64::try_from(bytes)?)
}

#[expect(clippy::cast_precision_loss, reason = "MiB")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
