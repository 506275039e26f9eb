//! Checks recorded copies while failures happen, and compares everything afterwards.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::bail;
use sqlx::AssertSqlSafe;
use tokio::time::{Instant, sleep};

use super::{
    PATIENCE,
    application::Application,
    environment::{Environment, REPLICAS},
    keys::Keys,
    patiently,
};

const LOOK_EVERY: Duration = Duration::from_millis(30);
/// Far longer than a write may take that a store executes late, or that a stopped daemon sends when it continues.
const SETTLED: Duration = Duration::from_secs(20);

/// Checks what must hold at any moment: a recorded copy is in its bucket, and no wanted copy is forgotten. Returns how
/// many recorded copies were checked.
///
/// The row is read before the store, and no object is deleted here: a record that was true when it was read still is
/// when the store is asked. An object that gets new contents may have another of them by then.
pub(super) async fn observe(
    environment: &Environment,
    application: &Application,
    over: &AtomicBool,
) -> anyhow::Result<u64> {
    let mut looked_at = 0;
    while !over.load(Ordering::Relaxed) {
        for (key, b2, wasabi, scw) in recorded(environment).await? {
            for replica in REPLICAS.iter().zip([b2, wasabi, scw]).filter_map(|(replica, is)| is.then_some(*replica)) {
                check(environment, application, &key, replica)?;
                looked_at += 1;
            }
        }
        nothing_is_dropped(environment).await?;
        nobody_broke_a_rule(environment).await?;
        sleep(LOOK_EVERY).await;
    }
    Ok(looked_at)
}

/// Returns the latest records, in which a false one would be recent, and some others.
async fn recorded(environment: &Environment) -> anyhow::Result<Vec<(String, bool, bool, bool)>> {
    let sql = "(SELECT object_key, b2 IS NOT NULL, wasabi IS NOT NULL, scw IS NOT NULL FROM copyhold.object_copies
 ORDER BY greatest(b2, wasabi, scw) DESC NULLS LAST LIMIT 40)
UNION ALL
(SELECT object_key, b2 IS NOT NULL, wasabi IS NOT NULL, scw IS NOT NULL FROM copyhold.object_copies ORDER BY random() LIMIT 20)";
    patiently(|| sqlx::query_as(sql).fetch_all(&environment.pool)).await
}

fn check(environment: &Environment, application: &Application, key: &str, replica: &str) -> anyhow::Result<()> {
    match environment.bucket(replica).inspect(key) {
        Some(object) if application.has_had(key, object.content) => Ok(()),
        Some(object) => bail!("{key} is on record at {replica}, where it is what it never was: {:?}", object.content),
        None => bail!("{key} is on record at {replica}, where it is not"),
    }
}

/// Checks that every copy is claimable, leased, waiting, or parked with a reason.
async fn nothing_is_dropped(environment: &Environment) -> anyhow::Result<()> {
    let dropped = |r: &str| {
        format!(
            "{r} IS NULL AND due_{r} IS NULL OR {r} IS NULL AND due_{r} = 9000000000000000000
             AND NOT EXISTS (SELECT FROM copyhold.copy_failures f WHERE (f.object_key, f.replica) = (o.object_key, '{r}'))"
        )
    };
    let sql = format!("SELECT object_key FROM copyhold.object_copies o WHERE {}", REPLICAS.map(dropped).join(" OR "));
    let dropped: Vec<String> =
        patiently(|| sqlx::query_scalar(AssertSqlSafe(sql.clone())).fetch_all(&environment.pool)).await?;
    if !dropped.is_empty() {
        bail!("these objects will never be copied: {dropped:?}");
    }
    Ok(())
}

pub(super) async fn nobody_broke_a_rule(environment: &Environment) -> anyhow::Result<()> {
    let said: Vec<String> =
        patiently(|| sqlx::query_scalar("SELECT said FROM chaos.violations").fetch_all(&environment.pool)).await?;
    if !said.is_empty() {
        bail!("{}", said.join("\n"));
    }
    Ok(())
}

/// Waits until every copy is recorded and every row is free. If contents change, also until every copy recorded after a
/// write without an answer was read again. The time limit starts again with each step.
pub(super) async fn until_all_is_copied(environment: &Environment, keys: Keys) -> anyhow::Result<()> {
    let sql = "SELECT count(*) FILTER (WHERE b2 IS NULL) + count(*) FILTER (WHERE wasabi IS NULL)
       + count(*) FILTER (WHERE scw IS NULL) + count(lock)
       + CASE WHEN $1 THEN (SELECT count(*) FROM copyhold.unsettled) ELSE 0 END
FROM copyhold.object_copies";
    let (mut least, mut deadline) = (i64::MAX, Instant::now() + PATIENCE);
    loop {
        settle_what_cannot_arrive(environment).await?;
        let missing: i64 =
            patiently(|| sqlx::query_scalar(sql).bind(keys == Keys::MayChange).fetch_one(&environment.pool)).await?;
        if missing == 0 {
            return Ok(());
        }
        if missing < least {
            (least, deadline) = (missing, Instant::now() + PATIENCE);
        }
        if Instant::now() > deadline {
            bail!("{missing} copies or leases are left and no fewer for {PATIENCE:?}:\n{}", why(environment).await?);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Settles writes that cannot arrive any more, these stores execute nothing after
/// [`SETTLED`], once no daemon is stopped any more.
pub(super) async fn settle_what_cannot_arrive(environment: &Environment) -> anyhow::Result<()> {
    // Also the writes of a killed daemon: other daemons would wait for as long as it might have lived.
    let sql = "UPDATE copyhold.unsettled SET verify_at = 1, settled_at = 1
WHERE noted_at < copyhold.now_utc_micro_seconds() - $1
  AND (settled_at > 1 OR verify_at BETWEEN copyhold.now_utc_micro_seconds() AND copyhold.now_utc_micro_seconds() + 50000000)";
    let settled = i64::try_from(SETTLED.as_micros())?;
    patiently(|| sqlx::query(sql).bind(settled).execute(&environment.pool)).await?;
    if environment.recovered.lock().await.is_some_and(|at| at.elapsed() > SETTLED) {
        let sql = "UPDATE copyhold.claims_intact SET unsettled_until = copyhold.now_utc_micro_seconds()
WHERE unsettled_until > copyhold.now_utc_micro_seconds()";
        patiently(|| sqlx::query(sql).execute(&environment.pool)).await?;
    }
    Ok(())
}

async fn why(environment: &Environment) -> anyhow::Result<String> {
    let sql = "SELECT format('%s lock %s b2 %s due %s wasabi %s due %s scw %s due %s: %s', o.object_key, lock, b2, due_b2, wasabi, due_wasabi, scw, due_scw,
       (SELECT string_agg(format('%s %s × %s: %s', f.replica, f.class, f.attempts, f.message), '; ')
          FROM copyhold.copy_failures f WHERE f.object_key = o.object_key))
FROM copyhold.object_copies o WHERE b2 IS NULL OR wasabi IS NULL OR scw IS NULL OR lock IS NOT NULL LIMIT 10";
    let rows: Vec<String> = patiently(|| sqlx::query_scalar(sql).fetch_all(&environment.pool)).await?;
    Ok(rows.join("\n"))
}

/// Checks that every uploaded object has its row and is byte-identical everywhere, and that there is nothing else.
pub(super) async fn compare(environment: &Environment, application: &Application) -> anyhow::Result<()> {
    let all = application.latest();
    let rows: i64 =
        patiently(|| sqlx::query_scalar("SELECT count(*) FROM copyhold.object_copies").fetch_one(&environment.pool))
            .await?;
    if usize::try_from(rows)? != all.len() {
        bail!("{} objects were registered, and there are {rows} rows", all.len());
    }
    let primary = application.primary().await.name;
    for replica in REPLICAS {
        let there = environment.bucket(replica).keys().len();
        if there != all.len() {
            bail!("{} objects were uploaded, and {there} are at {replica}", all.len());
        }
        for (key, wanted) in &all {
            let is = environment.bucket(replica).inspect(key).map(|object| object.content);
            if is != Some(*wanted) || environment.bucket(replica).get(key) != environment.bucket(primary).get(key) {
                bail!("{key} at {replica} is {is:?} and should be {wanted:?}, as at {primary}");
            }
        }
    }
    nothing_is_dropped(environment).await?;
    nobody_broke_a_rule(environment).await
}
