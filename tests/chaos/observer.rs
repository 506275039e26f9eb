use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::bail;
use tokio::time::{Instant, sleep};

use super::{
    PATIENCE,
    objects::{Catalogue, Keys},
    patiently,
    stage::{Stage, TARGETS},
};

const LOOK_EVERY: Duration = Duration::from_millis(30);

/// What must hold at any moment: no time stands without its object being in the bucket, and no copy that is wanted is
/// forgotten. Returns how many recorded copies were looked at.
///
/// The row is read before the store, and nobody deletes an object here: what a row says was true when it was read is
/// still so when the store is asked. Of an object that gets new contents it may meanwhile be another one of them.
pub(super) async fn observe(stage: &Stage, catalogue: &Catalogue, over: &AtomicBool) -> anyhow::Result<u64> {
    let mut looked_at = 0;
    while !over.load(Ordering::Relaxed) {
        for (key, wasabi, scw) in recorded(stage).await? {
            for replica in TARGETS.iter().zip([wasabi, scw]).filter_map(|(replica, is)| is.then_some(*replica)) {
                check(stage, catalogue, &key, replica)?;
                looked_at += 1;
            }
        }
        nothing_is_dropped(stage).await?;
        nobody_broke_a_rule(stage).await?;
        sleep(LOOK_EVERY).await;
    }
    Ok(looked_at)
}

/// The latest records, in which a lie would be fresh, and some others.
async fn recorded(stage: &Stage) -> anyhow::Result<Vec<(String, bool, bool)>> {
    let sql = "(SELECT object_key, wasabi IS NOT NULL, scw IS NOT NULL FROM copyhold.object_copies
 ORDER BY greatest(wasabi, scw) DESC NULLS LAST LIMIT 40)
UNION ALL
(SELECT object_key, wasabi IS NOT NULL, scw IS NOT NULL FROM copyhold.object_copies ORDER BY random() LIMIT 20)";
    patiently(|| sqlx::query_as(sql).fetch_all(&stage.pool)).await
}

fn check(stage: &Stage, catalogue: &Catalogue, key: &str, replica: &str) -> anyhow::Result<()> {
    match stage.bucket(replica).inspect(key) {
        Some(object) if catalogue.has_had(key, object.content) => Ok(()),
        Some(object) => bail!("{key} is on record at {replica}, where it is what it never was: {:?}", object.content),
        None => bail!("{key} is on record at {replica}, where it is not"),
    }
}

/// A copy is claimable, leased, waiting, or parked with a reason.
async fn nothing_is_dropped(stage: &Stage) -> anyhow::Result<()> {
    let sql = "SELECT object_key FROM copyhold.object_copies o
WHERE wasabi IS NULL AND due_wasabi IS NULL OR scw IS NULL AND due_scw IS NULL
   OR wasabi IS NULL AND due_wasabi = 9000000000000000000
      AND NOT EXISTS (SELECT FROM copyhold.copy_failures f WHERE (f.object_key, f.replica) = (o.object_key, 'wasabi'))
   OR scw IS NULL AND due_scw = 9000000000000000000
      AND NOT EXISTS (SELECT FROM copyhold.copy_failures f WHERE (f.object_key, f.replica) = (o.object_key, 'scw'))";
    let dropped: Vec<String> = patiently(|| sqlx::query_scalar(sql).fetch_all(&stage.pool)).await?;
    if !dropped.is_empty() {
        bail!("nobody will ever copy {dropped:?}");
    }
    Ok(())
}

pub(super) async fn nobody_broke_a_rule(stage: &Stage) -> anyhow::Result<()> {
    let said: Vec<String> =
        patiently(|| sqlx::query_scalar("SELECT said FROM chaos.violations").fetch_all(&stage.pool)).await?;
    if !said.is_empty() {
        bail!("{}", said.join("\n"));
    }
    Ok(())
}

/// Waits until every copy is on record, every row free, and, where contents change, everything that was recorded after
/// a write whose end was not seen read again. Patience begins anew with each step forward.
pub(super) async fn until_all_is_copied(stage: &Stage, keys: Keys) -> anyhow::Result<()> {
    let sql = "SELECT count(*) FILTER (WHERE wasabi IS NULL) + count(*) FILTER (WHERE scw IS NULL) + count(lock)
       + CASE WHEN $1 THEN (SELECT count(*) FROM copyhold.unsettled) ELSE 0 END
FROM copyhold.object_copies";
    // These stores carry out nothing after a minute: what waits for a slower one need not.
    let sooner =
        "UPDATE copyhold.unsettled SET settled_at = noted_at + 60000000 WHERE settled_at > noted_at + 60000000";
    let (mut least, mut deadline) = (i64::MAX, Instant::now() + PATIENCE);
    loop {
        patiently(|| sqlx::query(sooner).execute(&stage.pool)).await?;
        let missing: i64 =
            patiently(|| sqlx::query_scalar(sql).bind(keys == Keys::MayChange).fetch_one(&stage.pool)).await?;
        if missing == 0 {
            return Ok(());
        }
        if missing < least {
            (least, deadline) = (missing, Instant::now() + PATIENCE);
        }
        if Instant::now() > deadline {
            bail!("{missing} copies or leases are left and no fewer for {PATIENCE:?}:\n{}", why(stage).await?);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn why(stage: &Stage) -> anyhow::Result<String> {
    let sql = "SELECT format('%s lock %s wasabi %s due %s scw %s due %s: %s', o.object_key, lock, wasabi, due_wasabi, scw, due_scw,
       (SELECT string_agg(format('%s %s × %s: %s', f.replica, f.class, f.attempts, f.message), '; ')
          FROM copyhold.copy_failures f WHERE f.object_key = o.object_key))
FROM copyhold.object_copies o WHERE wasabi IS NULL OR scw IS NULL OR lock IS NOT NULL LIMIT 10";
    let rows: Vec<String> = patiently(|| sqlx::query_scalar(sql).fetch_all(&stage.pool)).await?;
    Ok(rows.join("\n"))
}

/// Every object that was uploaded has its row and is byte-identical everywhere, and there is nothing else.
pub(super) async fn compare(stage: &Stage, catalogue: &Catalogue) -> anyhow::Result<()> {
    let all = catalogue.latest();
    let rows: i64 =
        patiently(|| sqlx::query_scalar("SELECT count(*) FROM copyhold.object_copies").fetch_one(&stage.pool)).await?;
    if usize::try_from(rows)? != all.len() {
        bail!("{} objects were registered, and there are {rows} rows", all.len());
    }
    for replica in TARGETS {
        let there = stage.bucket(replica).keys().len();
        if there != all.len() {
            bail!("{} objects were uploaded, and {there} are at {replica}", all.len());
        }
        for (key, wanted) in &all {
            check(stage, catalogue, key, replica)?;
            let bytes = stage.bucket(replica).get(key);
            if bytes.as_ref().is_none_or(|b| b.len() as u64 != wanted.size_bytes)
                || bytes != stage.bucket("b2").get(key)
            {
                bail!("{key} at {replica} is another than at b2");
            }
        }
    }
    nothing_is_dropped(stage).await?;
    nobody_broke_a_rule(stage).await
}
